"""The command that trains one model on several GPUs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from derta.commands.profiles import read_yaml
from derta.runs import CHECKOUT

FILES = "notebooks/params/accelerate"


def setup(accelerate: str) -> dict[str, Any]:
    """Return the values of a file in ``notebooks/params/accelerate``, which is named without its ending."""
    return read_yaml((CHECKOUT or Path()) / FILES / f"{accelerate}.yaml")


def command(accelerate: str, config: Path | str) -> list[str]:
    """Return the command that trains a model by its settings file on all GPUs, to be run in the checkout."""
    launcher = ["-m", "accelerate.commands.launch", "--config_file", f"{FILES}/{accelerate}.yaml"]
    return [sys.executable, *launcher, "-m", "derta", "train", "--config", str(config)]


def run(accelerate: str, config: Path | str) -> None:
    """Run `command`.

    Raises:
        ValueError: it would start more processes than this machine has GPUs, or shard a model without any.
        subprocess.CalledProcessError: the training failed.
    """
    processes, found = setup(accelerate)["num_processes"], torch.cuda.device_count()
    starts = f"{FILES}/{accelerate}.yaml starts {processes} processes, one a GPU, and"
    if not found and accelerate != "ddp":
        raise ValueError(f"{starts} PyTorch sees none: its driver is missing, or older than torch {torch.__version__}")
    if 0 < found < processes:
        raise ValueError(f"{starts} this machine has {found}: set num_processes to {found}")
    subprocess.run(command(accelerate, config), cwd=CHECKOUT, check=True)
