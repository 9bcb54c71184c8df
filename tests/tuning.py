"""What the tests of training share: settings, small datasets, and how to read what training wrote."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file

from derta.runs import CHECKOUT

SETTINGS = {
    "batch_size": 4,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "save_steps": 2,
    "seed": 0,
}
LORA = SETTINGS | {"use_peft": True, "lora_r": 4, "lora_dropout": 0.1, "lora_target_modules": "all-linear"}


def ids(n: int, length: int) -> list[list[int]]:
    """Token ids of `n` rows, the same ones for the same `n`."""
    return torch.randint(4, 300, (n, length), generator=torch.Generator().manual_seed(n)).tolist()


def write_rows(folder: Path) -> Path:
    """A dataset of 24 rows with labels."""
    rows = [{"input_ids": row, "labels": [-100] * 6 + row[6:], "kind": "helpful"} for row in ids(24, 12)]
    Dataset.from_list(rows).save_to_disk(folder / "vanilla")
    return folder / "vanilla"


def write_pairs(folder: Path) -> Path:
    """A dataset of 24 pairs."""
    rows = [{"prompt_ids": row[:5], "chosen_ids": row[5:8], "rejected_ids": row[8:]} for row in ids(24, 12)]
    Dataset.from_list(rows).save_to_disk(folder / "dpo")
    return folder / "dpo"


def log(folder: Path) -> pd.DataFrame:
    """The log of a tuned model."""
    return pd.read_csv(folder / "log.csv")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a tuned model, or its adapter's."""
    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


def write_config(base: str, dataset: Path, folder: Path, settings: dict[str, Any]) -> Path:
    """The YAML file of one model, beside its folder."""
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump({"base": base, "dataset": str(dataset), "folder": str(folder)} | settings))
    return path


def launch(
    config: str, program: list, base: str, dataset: Path, folder: Path, settings: dict[str, Any], dies_at: int = 0
) -> None:
    """Train with ``accelerate launch`` on two processes of the CPU, by one of the configurations that users get."""
    config = CHECKOUT / "notebooks" / "params" / "accelerate" / config
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--num_processes", "2"]
    command += [*program, "--config", write_config(base, dataset, folder, settings)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT), "DIES_AT": str(dies_at or "")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert bool(done.returncode) == bool(dies_at), done.stderr[-3000:]
