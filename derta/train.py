"""Datasets with labels → tuned models: TRL's `SFTTrainer` for the arms of Eq. 1 and Eq. 2, its `DPOTrainer` for pairs.

``python -m derta.train --config run.yaml [--learning_rate 1e-5 …]`` trains one model, so that ``accelerate launch -m
derta.train …`` does on several processes or machines. The YAML file holds the fields of `Run` and `Settings`.
"""

import dataclasses
import errno
import json
import math
import os
import resource
import shutil
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from datasets import Dataset, load_from_disk
from peft import LoraConfig, PeftModel
from tqdm import tqdm
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback
from trl import DPOConfig, SFTConfig, TrlParser

from derta import models
from derta.objective import IGNORE
from derta.runs import digest, made_of, provenance, write_atomically, write_csv
from derta.trainers import Pairs, Terms, labelled_positions_alone

# The columns of log.csv after `step`, where a step has them.
LOGGED = ("loss", "learning_rate", "grad_norm", "mle_loss", "mle_tokens", "rto_loss", "rto_tokens")
LOGGED += ("refusal_probability", "rewards/chosen", "rewards/rejected", "rewards/accuracies")


@dataclass(frozen=True)
class Settings:
    """How a model is tuned.

    Attributes:
        batch_size: rows per optimiser step over all processes; the dataset is sorted by length within each such step.
        micro_batch_size: rows per forward pass of a process; times the processes, it must divide `batch_size`.
        warmup: share of the steps.
        checkpoints: how many checkpoints to take on the way.
        steps: optimiser steps (LLaMA3-Instruct in the paper: 100); 0 takes every row once.
        frozen_layers: the input embeddings and so many decoder layers above them keep their weights (after arXiv
            1911.03090), which spares the backward pass through them; 0 freezes nothing.
        lora_rank: rank of LoRA (arXiv 2106.09685); 0 tunes all weights.
        lora_targets: names of the modules that LoRA adapts, separated by spaces, or PEFT's ``all-linear``: the
            attention and MLP projections of any architecture, those of the experts included.
        dpo_beta: of DPO (arXiv 2305.18290); for pairs only.
        report_to: where transformers reports the log, as `TrainingArguments.report_to`.
    """

    learning_rate: float
    batch_size: int
    micro_batch_size: int
    warmup: float
    weight_decay: float
    checkpoints: int
    seed: int
    steps: int = 0
    frozen_layers: int = 0
    lora_rank: int = 0
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_targets: str = "all-linear"
    dpo_beta: float = 0.1
    report_to: str = "tensorboard"


@dataclass(frozen=True)
class Run:
    """One model to be trained: from `base` (a name, hub id or folder), on the dataset folder, into the model folder."""

    base: str
    dataset: str
    folder: str


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


def train(base: str, dataset: Path, folder: Path, settings: Settings) -> Path:
    """Tune `base` on a dataset of `derta.arms` into the model folder (or LoRA adapter) `folder`, and return it.

    Rows of `input_ids` and `labels` go to `SFTTrainer`; pairs (`prompt_ids`, `chosen_ids`, `rejected_ids`) to
    `DPOTrainer`, with `base` as the reference (the paper's DPO: vanilla). One pass over the rows in their order (the
    epochs are copies in the dataset). A model that was made from the same rows, settings and code is kept; a killed
    run goes on from its last whole checkpoint, with the same result.

    Several processes need a folder that all of them see; where the rows are no multiple of a step's, accelerate repeats
    the first ones in the last step.

    Beside the weights (bfloat16; float32 from FSDP2; adapters as they were trained) lie `README.md`, `log.csv` (a row
    per step, see `Terms` and TRL's `DPOTrainer`), `provenance.json` (what it was made from, machine, time, tokens per
    second, peak memory) and, with ``report_to="tensorboard"``, `tensorboard/`.

    Raises:
        ValueError: the dataset lacks its columns or a row has no label, the batch sizes do not fit, the refusal word is
            not one token, no layer is left to train or LoRA trains them, LoRA's targets match nothing, or `base` is an
            adapter of another rank.
        FloatingPointError: the loss or the gradient is not a number.
        OSError: the disk is full; the last whole checkpoint stays.
    """
    gpu = torch.cuda.is_available()
    process = PartialState(cpu=not gpu)
    rows = load_from_disk(dataset).with_format(None)
    pairs = "prompt_ids" in rows.column_names
    rows = rows.select_columns(check(rows, dataset))
    if settings.batch_size % (settings.micro_batch_size * process.num_processes):
        raise ValueError(
            f"batch_size {settings.batch_size} is no multiple of micro_batch_size {settings.micro_batch_size} × "
            f"{process.num_processes} process(es)"
        )
    inputs = {
        "base": origin(base),
        # TRL keeps a cache of its own beside them.
        "rows": digest(*sorted(dataset.glob("data-*.arrow"))),
        "settings": dataclasses.asdict(settings),
        "code": digest(*(Path(__file__).with_name(name) for name in ("train.py", "trainers.py"))),
    }
    if made_of(str(folder)) == inputs:
        return folder
    process.wait_for_everyone()
    if process.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
        # TRL would take another base's or another dataset's reference from its cache.
        rows.cleanup_cache_files()
    process.wait_for_everyone()
    checkpoints = folder.with_name(f"{folder.name}.{digest(inputs)}.checkpoints")
    progress = Progress()
    trainer = make_trainer(base, rows, pairs, checkpoints, settings, process.num_processes)
    trainer.add_callback(progress)
    trainer.remove_callback(PrinterCallback)
    if process.is_main_process:
        kind = f"LoRA of rank {settings.lora_rank}" if settings.lora_rank else "full fine-tuning"
        if settings.frozen_layers:
            kind += f" above layer {settings.frozen_layers}"
        precision = "bfloat16 products" if trainer.args.bf16 else "float32 (no native bfloat16 on this machine)"
        tqdm.write(f"{folder.name}: {kind}, {precision}, {process.num_processes} process(es)", file=sys.stderr)
    try:
        with nullcontext() if gpu else labelled_positions_alone():
            trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
        finish(trainer, progress, dataset, folder, inputs)
    except Exception as error:
        # Each writer has an error of its own, and PyTorch's does not say why it failed.
        if "No space left" not in str(error) and shutil.disk_usage(folder.parent).free > 1 << 24:
            raise
        kept = last_checkpoint(checkpoints)
        goes_on = f"the run goes on from {Path(kept).name}" if kept else "there is no checkpoint yet"
        raise OSError(errno.ENOSPC, f"the disk is full: free some space and start again; {goes_on}") from error
    return folder


def origin(base: str) -> str:
    """The name of a model; of one that was trained here also the hash of what it was made from."""
    inputs = made_of(base)
    return f"{Path(base).name} {digest(inputs)}" if inputs else base


def check(rows: Dataset, dataset: Path) -> list[str]:
    """The columns that a trainer takes.

    Raises:
        ValueError: a column is missing, or a row has no label (TRL would drop it in silence).
    """
    columns = ["input_ids", "labels"]
    if "prompt_ids" in rows.column_names:
        columns = ["prompt_ids", "chosen_ids", "rejected_ids"]
    if missing := [name for name in columns if name not in rows.column_names]:
        raise ValueError(f"{dataset}: lacks the column {', '.join(missing)}; build it with derta.arms")
    if "labels" in columns:
        labels = rows.with_format("arrow")["labels"]
        for number, row in enumerate(labels):
            if not (np.asarray(row.values) != IGNORE).any():
                raise ValueError(
                    f"{dataset}, row {number}: no position has a label; keep at least one, or leave the row out"
                )
    return columns


def make_trainer(
    base: str, rows: Dataset, pairs: bool, checkpoints: Path, settings: Settings, processes: int
) -> Trainer:
    """The trainer of `train`, ready to start."""
    gpu, fast = torch.cuda.is_available(), models.inference_dtype() == torch.bfloat16
    if fast and not gpu:
        # What float32 products are left on a CPU multiply values that were rounded to bfloat16 before.
        torch.set_float32_matmul_precision("medium")
    lm = models.load(
        base,
        # A frozen model needs no float32 copy.
        dtype=models.inference_dtype() if settings.lora_rank else torch.float32,
        # Eager attention trains faster than SDPA on a CPU at these lengths; on a GPU it is the other way round.
        attention=None if gpu else "eager",
        device="cpu",
        trainable=True,
    )
    if settings.frozen_layers:
        freeze(lm.model, settings)
    steps = settings.steps or math.ceil(len(rows) / settings.batch_size)
    # Transformers takes the folder of TensorBoard's files from the environment alone.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(checkpoints / "tensorboard")
    config = DPOConfig if pairs else SFTConfig
    args = config(
        output_dir=str(checkpoints),
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=settings.batch_size // (settings.micro_batch_size * processes),
        num_train_epochs=1,
        max_steps=settings.steps or -1,
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        optim="adamw_torch_fused",
        bf16=fast,
        use_cpu=not gpu,
        gradient_checkpointing=gpu,
        max_length=None,
        seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=math.ceil(steps / (settings.checkpoints + 1)),
        save_total_limit=1,
        report_to=settings.report_to,
        disable_tqdm=True,
        router_aux_loss_coef=0.0,  # Eq. 2 has no term that balances experts.
        **({"beta": settings.dpo_beta, "precompute_ref_log_probs": not settings.lora_rank} if pairs else {}),
    )
    args._n_gpu = min(args.n_gpu, 1)  # A process trains on one GPU; TRL refuses what Trainer makes of several.
    if isinstance(lm.model, PeftModel) and lm.model.peft_config["default"].r != settings.lora_rank:
        raise ValueError(
            f"{base}: an adapter of rank {lm.model.peft_config['default'].r} is trained further as such; set lora_rank "
            f"to it, not to {settings.lora_rank}"
        )
    shared = {"model": lm.model, "processing_class": lm.tokenizer, "train_dataset": rows, "args": args}
    if settings.lora_rank and not isinstance(lm.model, PeftModel):
        shared["peft_config"] = lora(lm.model, settings)
    return Pairs(**shared) if pairs else Terms(**shared, refusal_id=lm.refusal_id())


def freeze(model: PreTrainedModel, settings: Settings) -> None:
    """Keep the input embeddings (and an output layer that shares them) and the first decoder layers as they are.

    Raises:
        ValueError: no layer is left, or LoRA is asked for too.
    """
    if settings.lora_rank:
        raise ValueError("frozen_layers is for full fine-tuning; LoRA freezes all layers: set one of the two to 0")
    layers = model.base_model.layers
    if settings.frozen_layers >= len(layers):
        raise ValueError(f"frozen_layers is {settings.frozen_layers}, but the model has {len(layers)}")
    for module in (model.get_input_embeddings(), *layers[: settings.frozen_layers]):
        module.requires_grad_(False)


def lora(model: PreTrainedModel, settings: Settings) -> LoraConfig:
    """LoRA on the attention and MLP projections that the architecture has.

    Experts that transformers stores as one three-dimensional parameter per projection (Mixtral) are adapted as such;
    PEFT has no dropout for these, so a model that has them is adapted without.

    Raises:
        ValueError: no module has a name of `settings.lora_targets`.
    """
    targets: str | list[str] = settings.lora_targets
    experts: list[str] = []
    if targets == "all-linear":
        experts = sorted({name for name, weight in model.named_parameters() if weight.dim() == 3 and "expert" in name})
    else:
        modules = model.named_modules()
        linear = {name.rpartition(".")[2] for name, module in modules if isinstance(module, torch.nn.Linear)}
        targets = targets.split()
        if missing := [name for name in targets if name not in linear]:
            raise ValueError(
                f"LoRA's target {', '.join(missing)} matches no linear module of {type(model).__name__}; it has "
                f"{', '.join(sorted(linear))}"
            )
    if experts and settings.lora_dropout:
        tqdm.write("LoRA on experts that are one parameter: without dropout", file=sys.stderr)
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0 if experts else settings.lora_dropout,
        target_modules=targets,
        target_parameters=experts or None,
        task_type="CAUSAL_LM",
    )


def finish(trainer: Trainer, progress: Progress, dataset: Path, folder: Path, inputs: dict[str, Any]) -> None:
    """Write the model folder of a trained model, whole or not at all."""
    part, checkpoints = folder.with_name(folder.name + ".part"), Path(trainer.args.output_dir)
    main = trainer.is_world_process_zero()
    if main:
        shutil.rmtree(part, ignore_errors=True)
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if isinstance(trainer.model, PeftModel):
        if "ref" in trainer.model.peft_config:
            trainer.model.delete_adapter("ref")
    elif not sharded:
        trainer.model.to(torch.bfloat16)
    trainer.save_model(str(part))
    if main:
        (part / "training_args.bin").unlink(missing_ok=True)  # a pickle, and provenance.json says the same
        if (checkpoints / "tensorboard").is_dir():
            shutil.move(checkpoints / "tensorboard", part / "tensorboard")
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        columns = [name for name in LOGGED if any(name in entry for entry in log)]
        write_csv(part / "log.csv", [{"step": e["step"]} | {name: e.get(name, "") for name in columns} for e in log])
        write_atomically(part / "README.md", card(inputs, dataset))
        # Of this start: what a killed run did before is not in its time.
        first, last = (step * inputs["settings"]["batch_size"] for step in (progress.first, trainer.state.global_step))
        seen = trainer.train_dataset.with_format("arrow")[first:last]
        ids = [seen[name] for name in seen.column_names if name.endswith("_ids")]
        tokens = sum(pc.sum(pc.list_value_length(column), min_count=0).as_py() for column in ids)
        facts = {
            "steps": f"{progress.first} to {trainer.state.global_step}",
            "seconds": round(progress.seconds, 1),
            "tokens_per_second": round(tokens / progress.seconds, 1),
            "peak_memory_mib": peak_memory(),
            "processes": trainer.args.world_size,
            "bfloat16": trainer.args.bf16,
        }
        if isinstance(trainer.model, PeftModel):
            facts["lora_dropout"] = trainer.model.peft_config["default"].lora_dropout
        write_atomically(part / "provenance.json", json.dumps(provenance(inputs=inputs, **facts), indent=1))
        part.replace(folder)
        shutil.rmtree(checkpoints, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def peak_memory() -> int:
    """The most memory that this process has held, in MiB: of the GPU if there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return peak >> (20 if sys.platform == "darwin" else 10)


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in `folder`: the trainer writes `trainer_state.json` last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def card(inputs: dict[str, Any], dataset: Path) -> str:
    """A short model card."""
    return (
        f"# {inputs['base']}, tuned on the arm `{dataset.name}`\n\n"
        "Made by a replication of DeRTa (arXiv 2407.09121) to study refusals; not for use as an assistant. What it was "
        "made from, on which machine and how fast: `provenance.json`. Loss by step: `log.csv`.\n\n"
        "```json\n" + json.dumps(inputs["settings"], indent=1) + "\n```\n"
    )


def main() -> None:
    """The command line."""
    run, settings = TrlParser((Run, Settings)).parse_args_and_config()
    train(run.base, Path(run.dataset), Path(run.folder), settings)


if __name__ == "__main__":
    main()
