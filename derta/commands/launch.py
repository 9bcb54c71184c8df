"""The command that trains one model on several GPUs."""

import sys
from pathlib import Path


def command(accelerate: str, config: Path | str) -> list[str]:
    """Return the command that trains a model by its settings file on all GPUs, to be run in the checkout.

    Args:
        accelerate: a file in ``notebooks/params/accelerate``, without its ending.
    """
    launcher = ["-m", "accelerate.commands.launch", "--config_file", f"notebooks/params/accelerate/{accelerate}.yaml"]
    return [sys.executable, *launcher, "-m", "derta", "train", "--config", str(config)]
