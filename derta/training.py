"""Datasets with labels → tuned models: TRL's `SFTTrainer` for the arms of Eq. 1 and Eq. 2, its `DPOTrainer` for pairs.

``derta train --config run.yaml [--learning_rate 1e-5 …]`` trains one model, and so does ``accelerate launch -m derta
train …`` on several processes or machines. The YAML file holds the arguments of `train`.
"""

import errno
import json
import math
import os
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback

from derta import trainers, tuned
from derta.files import write_atomically
from derta.objective import IGNORE
from derta.runs import alone, digest, provenance
from derta.settings import accumulation, configure, read

# Increase it with any change that makes the same inputs give other weights; models of an older version are set aside.
VERSION = 1


class Progress(TrainerCallback):
    """Shows progress in one line on stderr, also in notebooks; fails if the loss or gradient is not a number."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.first, self.begin = state.global_step, time.monotonic()
        quiet = not state.is_world_process_zero
        self.bar = tqdm(
            total=state.max_steps, initial=self.first, desc="training", mininterval=5, file=sys.stderr, disable=quiet
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name in ("loss", "grad_norm"):
            if not math.isfinite((logs or {}).get(name, 0.0)):
                raise FloatingPointError(
                    f"the {name} is {logs[name]} at step {state.global_step}; lower the learning rate, or train in "
                    "float32. The last checkpoint is of an earlier step"
                )

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds = time.monotonic() - self.begin
        self.bar.close()


class Keep(TrainerCallback):
    """Keeps the model of every checkpoint in ``kept/step-<n>``, without what only a further start needs.

    By its `inputs` and step a model is the same one after a training that was killed, and keeps its answers.
    """

    def __init__(self, inputs: dict[str, Any]):
        self.inputs = inputs

    def on_train_begin(self, args, state, control, model, processing_class, **kwargs):
        # A run that was killed between the checkpoint and this copy of it.
        if state.global_step and not (Path(args.output_dir) / "kept" / f"step-{state.global_step}").exists():
            self.on_save(args, state, control, model, processing_class)

    def on_save(self, args, state, control, model, processing_class, **kwargs):
        folder = Path(args.output_dir) / "kept" / f"step-{state.global_step}"
        part = Path(args.output_dir) / "kept.part"
        shutil.rmtree(part, ignore_errors=True)
        weights = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
        model.save_pretrained(part, state_dict=weights)
        processing_class.save_pretrained(part)
        made = provenance(inputs=self.inputs | {"step": state.global_step})
        write_atomically(part / "provenance.json", json.dumps(made, indent=1))
        folder.parent.mkdir(exist_ok=True)
        part.rename(folder)


def train(
    base: str,
    dataset: Path | str,
    folder: Path | str,
    *,
    batch_size: int = 0,
    frozen_layers: int = 0,
    keep: bool = False,
    **settings: Any,
) -> Path:
    """Tune `base` on a dataset of `derta.dataset` and return `folder`, the model folder (or LoRA adapter).

    Rows of `input_ids`, `labels` and `kind` go to `SFTTrainer`; pairs (`prompt_ids`, `chosen_ids`, `rejected_ids`) go
    to `DPOTrainer`, with `base` as the reference (vanilla in the paper's DPO). Training is one pass over the rows in
    their order, because the epochs are copies in the dataset. A model made from the same rows and settings is kept; one
    made from others is set aside once the new one is complete. A killed run resumes from its last complete checkpoint,
    with the same result.

    Several processes need a folder that all of them can see. If the number of rows is not a multiple of the rows per
    step, accelerate repeats the first ones in the last step.

    The folder holds the weights (bfloat16, or float32 from FSDP2; adapters as they were trained), `README.md`,
    `log.csv` (one row per step, see `derta.trainers.Terms` and TRL's `DPOTrainer`), `provenance.json` (inputs, machine,
    time, tokens per second, peak memory) and, with ``report_to="tensorboard"``, `tensorboard/`.

    Args:
        base: a name of `derta.registry.MODELS`, a hub id or a folder.
        batch_size: rows per optimiser step over all processes; a multiple of ``per_device_train_batch_size`` times the
            number of processes. 0 uses ``gradient_accumulation_steps`` instead.
        frozen_layers: number of decoder layers that keep their weights, as do the input embeddings below them (after
            arXiv 1911.03090); this saves the backward pass through them. 0 freezes nothing.
        keep: keep the model of every checkpoint (see ``save_steps``) as a model folder ``kept/step-<n>`` in `folder`;
            for full fine-tuning in one process.
        settings: fields of TRL's `SFTConfig` (`DPOConfig` for pairs) and `ModelConfig`; see `derta.settings`.

    Raises:
        ValueError: a setting is wrong, the dataset lacks its columns, a row has no label or an unknown kind, the batch
            sizes do not fit, several GPUs are visible to one process, or `folder` was not made by `train` or contains
            the base or the dataset; see also `derta.trainers.make`.
        FileNotFoundError: there is no such dataset.
        FloatingPointError: the loss or the gradient is not a number.
        OSError: the disk is full; the last complete checkpoint stays.
        RuntimeError: another process trains this model now.
    """
    base, dataset, folder = str(base), Path(dataset), Path(folder)
    # Several processes of one run train together.
    first = os.environ.get("RANK", "0") == "0"
    with alone(folder.with_name(f".{folder.name}.lock"), f"training {folder.name}") if first else nullcontext():
        return _train(base, dataset, folder, batch_size, frozen_layers, keep, settings)


def _train(
    base: str, dataset: Path, folder: Path, batch_size: int, frozen_layers: int, keep: bool, settings: dict[str, Any]
) -> Path:
    for name, value in (("batch_size", batch_size), ("frozen_layers", frozen_layers)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name} is {value!r}; expected a whole number, 0 or more")
    if not isinstance(keep, bool):
        raise ValueError(f"keep is {keep!r}; expected true or false")
    rows = load(dataset)
    pairs = "prompt_ids" in rows.column_names
    given, (args, _) = read(pairs, settings), configure(pairs, settings)
    steps = accumulation(args, batch_size, settings)
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs are visible to one process; start with `accelerate launch -m derta train`, or set "
            "CUDA_VISIBLE_DEVICES to one of them"
        )
    tuned.refuse(folder, base, dataset)
    rows = rows.select_columns(check(rows, dataset))
    inputs = {
        "base": tuned.origin(base),
        # Other programs may keep a cache in the same folder.
        "rows": digest(*sorted(dataset.glob("data-*.arrow"))),
        "settings": given,
        "batch_size": batch_size,
        "frozen_layers": frozen_layers,
        "version": VERSION,
    }
    if keep:
        inputs["keep"] = True
    if tuned.inputs_of(folder) == inputs:
        return folder
    checkpoints = folder.with_name(f"{folder.name}.{digest(inputs)}.checkpoints")
    checkpoints.mkdir(parents=True, exist_ok=True)
    if "tensorboard" in args.report_to:
        # Transformers reads the folder for TensorBoard from the environment only.
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(checkpoints / "tensorboard")
    args, model = configure(pairs, settings, output_dir=str(checkpoints), gradient_accumulation_steps=steps)
    if keep and (args.world_size > 1 or model.use_peft):
        raise ValueError("keep=True is for full fine-tuning in one process")
    trainer, progress = trainers.make(base, rows, args, model, frozen_layers), Progress()
    trainer.add_callback(progress)
    if keep:
        trainer.add_callback(Keep(inputs))
    trainer.remove_callback(PrinterCallback)
    if trainer.is_world_process_zero():
        kind = f"LoRA of rank {model.lora_r}" if model.use_peft else "full fine-tuning"
        kind += f" above layer {frozen_layers}" if frozen_layers else ""
        precision = "bfloat16 products" if args.bf16 else "float16 products" if args.fp16 else "float32"
        tqdm.write(f"{folder.name}: {kind}, {precision}, {args.world_size} process(es)", file=sys.stderr)
    try:
        trainer.train(resume_from_checkpoint=tuned.last_checkpoint(checkpoints))
        tuned.finish(trainer, progress.first, progress.seconds, rows, dataset, folder, inputs)
    except Exception as error:
        # Each writer raises its own error, and PyTorch's does not say why it failed.
        if "No space left" not in str(error) and shutil.disk_usage(folder.parent).free > 1 << 24:
            raise
        kept = tuned.last_checkpoint(checkpoints)
        goes_on = f"the run goes on from {Path(kept).name}" if kept else "there is no checkpoint yet"
        raise OSError(errno.ENOSPC, f"the disk is full: free some space and start again; {goes_on}") from error
    return folder


def load(dataset: Path) -> Dataset:
    """Load the rows of a dataset folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds several datasets.
    """
    if not dataset.is_dir():
        raise FileNotFoundError(f"{dataset}: no such dataset folder; build it with derta.build")
    rows = load_from_disk(dataset)
    if not isinstance(rows, Dataset):
        raise ValueError(f"{dataset}: holds the datasets {', '.join(rows)}; name the folder of one of them")
    return rows.with_format(None)


def check(rows: Dataset, dataset: Path) -> list[str]:
    """Check a dataset and return the columns that its trainer takes.

    Raises:
        ValueError: a column is missing, or a row has no label (TRL would silently drop it) or an unknown kind.
    """
    pairs = "prompt_ids" in rows.column_names
    columns = ["prompt_ids", "chosen_ids", "rejected_ids"] if pairs else ["input_ids", "labels", "kind"]
    if missing := [name for name in columns if name not in rows.column_names]:
        raise ValueError(f"{dataset}: lacks the column {', '.join(missing)}; build it with derta.build")
    if not pairs:
        columnar = rows.with_format("arrow")
        for number, (labels, kind) in enumerate(zip(columnar["labels"], rows["kind"], strict=True)):
            # The first token is never predicted, so its label does not count.
            if not (np.asarray(labels.values)[1:] != IGNORE).any():
                raise ValueError(
                    f"{dataset}, row {number}: no position has a label; keep at least one, or leave the row out"
                )
            if kind not in trainers.KINDS:
                raise ValueError(
                    f"{dataset}, row {number}: kind is {kind!r}; expected one of {', '.join(trainers.KINDS)}"
                )
    return columns
