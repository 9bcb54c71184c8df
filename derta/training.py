"""Datasets with labels → tuned models: TRL's `SFTTrainer` for the arms of Eq. 1 and Eq. 2, its `DPOTrainer` for pairs.

``derta train --config run.yaml [--learning_rate 1e-5 …]`` trains one model; so does ``accelerate launch -m derta train
…`` on several processes or machines. The YAML file holds the arguments of `train`.
"""

import errno
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_from_disk
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback

from derta import trainers, tuned
from derta.objective import IGNORE
from derta.runs import digest
from derta.settings import accumulation, configure, read

# Raised with every change after which the same inputs make other weights; models of an older one are set aside.
VERSION = 1


class Progress(TrainerCallback):
    """One line of text on stderr, in notebooks too; fails at a loss or gradient that is not a number."""

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


def train(
    base: str, dataset: Path | str, folder: Path | str, *, batch_size: int = 0, frozen_layers: int = 0, **settings: Any
) -> Path:
    """Tune `base` on a dataset of `derta.arms` into the model folder (or LoRA adapter) `folder`, and return it.

    Rows of `input_ids`, `labels` and `kind` go to `SFTTrainer`; pairs (`prompt_ids`, `chosen_ids`, `rejected_ids`) to
    `DPOTrainer`, with `base` as the reference (the paper's DPO: vanilla). One pass over the rows in their order (the
    epochs are copies in the dataset). A model that was made from the same rows and settings is kept, one that was made
    from others is set aside once the new one is whole; a killed run goes on from its last whole checkpoint, with the
    same result.

    Several processes need a folder that all of them see; where the rows are no multiple of a step's, accelerate repeats
    the first ones in the last step.

    Beside the weights (bfloat16; float32 from FSDP2; adapters as they were trained) lie `README.md`, `log.csv` (a row
    per step, see `derta.trainers.Terms` and TRL's `DPOTrainer`), `provenance.json` (what it was made from, machine,
    time, tokens per second, peak memory) and, with ``report_to="tensorboard"``, `tensorboard/`.

    Args:
        base: a name of `derta.models.MODELS`, a hub id or a folder.
        batch_size: rows per optimiser step over all processes; a multiple of ``per_device_train_batch_size`` times the
            processes. 0 takes ``gradient_accumulation_steps`` as it is.
        frozen_layers: the input embeddings and so many decoder layers above them keep their weights (after arXiv
            1911.03090), which spares the backward pass through them; 0 freezes nothing.
        settings: fields of TRL's `SFTConfig` (`DPOConfig` for pairs) and `ModelConfig`; see `derta.settings`.

    Raises:
        ValueError: a setting is wrong, the dataset lacks its columns, a row has no label or an unknown kind, the batch
            sizes do not fit, several GPUs are visible to one process, `folder` is not one of `train`'s or holds the
            base or the dataset; or see `derta.trainers.make`.
        FileNotFoundError: there is no such dataset.
        FloatingPointError: the loss or the gradient is not a number.
        OSError: the disk is full; the last whole checkpoint stays.
    """
    base, dataset, folder = str(base), Path(dataset), Path(folder)
    for name, value in (("batch_size", batch_size), ("frozen_layers", frozen_layers)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name} is {value!r}; expected a whole number, 0 or more")
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
        # Others may keep a cache beside them.
        "rows": digest(*sorted(dataset.glob("data-*.arrow"))),
        "settings": given,
        "batch_size": batch_size,
        "frozen_layers": frozen_layers,
        "version": VERSION,
    }
    if tuned.inputs_of(folder) == inputs:
        return folder
    checkpoints = folder.with_name(f"{folder.name}.{digest(inputs)}.checkpoints")
    checkpoints.mkdir(parents=True, exist_ok=True)
    if "tensorboard" in args.report_to:
        # Transformers takes the folder of TensorBoard's files from the environment only.
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(checkpoints / "tensorboard")
    args, model = configure(pairs, settings, output_dir=str(checkpoints), gradient_accumulation_steps=steps)
    trainer, progress = trainers.make(base, rows, args, model, frozen_layers), Progress()
    trainer.add_callback(progress)
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
        # Each writer has an error of its own, and PyTorch's does not say why it failed.
        if "No space left" not in str(error) and shutil.disk_usage(folder.parent).free > 1 << 24:
            raise
        kept = tuned.last_checkpoint(checkpoints)
        goes_on = f"the run goes on from {Path(kept).name}" if kept else "there is no checkpoint yet"
        raise OSError(errno.ENOSPC, f"the disk is full: free some space and start again; {goes_on}") from error
    return folder


def load(dataset: Path) -> Dataset:
    """The rows of a dataset folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it holds several datasets.
    """
    if not dataset.is_dir():
        raise FileNotFoundError(f"{dataset}: no such dataset folder; build it with derta.arms")
    rows = load_from_disk(dataset)
    if not isinstance(rows, Dataset):
        raise ValueError(f"{dataset}: holds the datasets {', '.join(rows)}; name the folder of one of them")
    return rows.with_format(None)


def check(rows: Dataset, dataset: Path) -> list[str]:
    """The columns that a trainer takes.

    Raises:
        ValueError: a column is missing, a row has no label (TRL would drop it in silence) or an unknown kind.
    """
    pairs = "prompt_ids" in rows.column_names
    columns = ["prompt_ids", "chosen_ids", "rejected_ids"] if pairs else ["input_ids", "labels", "kind"]
    if missing := [name for name in columns if name not in rows.column_names]:
        raise ValueError(f"{dataset}: lacks the column {', '.join(missing)}; build it with derta.arms")
    if not pairs:
        columnar = rows.with_format("arrow")
        for number, (labels, kind) in enumerate(zip(columnar["labels"], rows["kind"], strict=True)):
            # Nothing predicts the first token.
            if not (np.asarray(labels.values)[1:] != IGNORE).any():
                raise ValueError(
                    f"{dataset}, row {number}: no position has a label; keep at least one, or leave the row out"
                )
            if kind not in trainers.KINDS:
                raise ValueError(
                    f"{dataset}, row {number}: kind is {kind!r}; expected one of {', '.join(trainers.KINDS)}"
                )
    return columns
