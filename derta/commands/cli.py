"""The command ``derta``, which gives access to all packages. Every error is reported in one line."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from derta import __version__
from derta.commands import asking

app = typer.Typer(
    help="Refusal training at every position of a response (DeRTa, arXiv 2407.09121), replicated.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# What typer makes of Ctrl-C.
STOPPED = 130


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context, show: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False
) -> None:
    """Print the version, or report that a command is missing."""
    if show:
        print(f"derta {__version__}")
    elif context.invoked_subcommand is None:
        print("derta: which command? derta --help lists them", file=sys.stderr)
        raise typer.Exit(2)


@app.command()
def run(
    profile: Annotated[str, typer.Argument(help="A file of notebooks/params/, without .yaml.")] = "small",
    publish: Annotated[
        bool, typer.Option("--publish", help="Only put the outputs of the last run into notebooks/.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check what can be checked beforehand, and print the commands.")
    ] = False,
) -> None:
    """Run the notebooks in order; one that has nothing new to do is skipped."""
    from derta.runs import CHECKOUT

    if CHECKOUT is None:
        raise FileNotFoundError("the notebooks are not part of the installed package: run this in a clone of derta")
    from derta.commands import notebooks

    if dry_run:
        from derta.commands import rehearsal

        print(rehearsal.rehearse(profile))
    elif publish:
        notebooks.publish(profile)
    elif status := notebooks.run(profile):
        raise typer.Exit(status)


@app.command()
def plan(profile: Annotated[str, typer.Argument(help="A file of notebooks/params/, without .yaml.")]) -> None:
    """Print, as CSV, the memory per GPU and the hours that a profile takes on common cards, and what does not fit.

    It reads the model's configuration only. Numbers of parameters, rows and operations go to stderr.
    """
    import pandas as pd

    from derta.commands.plan import plan

    said, table = plan(profile)
    print(said, file=sys.stderr)
    pd.DataFrame(table).to_csv(sys.stdout, index=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    config: Annotated[
        Path, typer.Option(help="A YAML file: base, dataset, folder, batch_size, frozen_layers, and TRL's settings.")
    ],
) -> None:
    """Train one model on a dataset of derta.

    Any field of TRL's SFTConfig (DPOConfig for pairs) and ModelConfig, and any argument of derta.train, may be given in
    the file or as an option (--learning_rate 1e-5). On several GPUs: accelerate launch -m derta train.
    """
    from derta import training
    from derta.commands.options import options
    from derta.commands.profiles import read_yaml

    given = read_yaml(config) | options(context.args)
    if missing := [name for name in ("base", "dataset", "folder") if not given.get(name)]:
        raise ValueError(f"{', '.join(missing)} is missing: give it in {config}, or as --{missing[0]}")
    for name in ("batch_size", "frozen_layers"):
        if name in given and str(given[name]).isdigit():
            given[name] = int(given[name])
    if given.get("keep") in ("true", "false"):
        given["keep"] = given["keep"] == "true"
    training.train(**given)


@app.command()
def report(
    profile: Annotated[str, typer.Argument(help="A profile that has been run.")] = "small",
    folder: Annotated[Path, typer.Option(help="Where the site goes.")] = Path("site"),
) -> None:
    """Build a site from a profile's executed notebooks and figures, and one page to send to a colleague."""
    from derta.commands import report

    for warning in report.build(profile, folder):
        print(warning, file=sys.stderr)
    print(f"{folder / 'index.html'}\n{folder / 'summary.html'}")


for command in (asking.attack, asking.judge, asking.audit):
    app.command()(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit with 0, with 1 if something failed, and with 2 if the command was not understood."""
    try:
        status = app(arguments, prog_name="derta", standalone_mode=False) or 0
    except Exception as error:
        said = getattr(error, "format_message", None)  # of click's errors
        if isinstance(error, ModuleNotFoundError):
            sys.exit(f"derta: {error}; install the packages of requirements.lock, or pip install '.[notebooks,report]'")
        if not said and not isinstance(error, OSError | ValueError | TypeError | ArithmeticError | RuntimeError):
            raise
        print(f"derta: {' '.join((said() if said else str(error)).split())}", file=sys.stderr)
        sys.exit(2 if said else 1)
    sys.exit("derta: stopped; the same command resumes from here" if status == STOPPED else status)
