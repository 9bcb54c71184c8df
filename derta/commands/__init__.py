"""The command ``derta``: its sub-commands, the profiles that configure a run, and running the notebooks."""
