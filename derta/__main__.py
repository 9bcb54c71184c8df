"""``python -m derta``: the command line of `derta.commands.cli`."""

from derta.commands.cli import main

main()
