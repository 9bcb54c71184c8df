"""The command ``derta``: its sub-commands, the profiles that say what to run, and running the notebooks."""
