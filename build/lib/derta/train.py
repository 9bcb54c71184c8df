"""Datasets with labels → tuned models, by TRL's plain `SFTTrainer`."""

import json
import math
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import torch
from datasets import load_from_disk
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from derta import models
from derta.runs import digest, provenance, write_atomically, write_csv


@dataclass(frozen=True)
class Settings:
    """How a model is tuned.

    Attributes:
        batch_size: rows per optimiser step; the dataset is sorted by length within each such step.
        micro_batch_size: rows per forward pass; must divide `batch_size`.
        warmup: share of the steps.
        checkpoints: how many checkpoints to take on the way.
    """

    learning_rate: float
    batch_size: int
    micro_batch_size: int
    warmup: float
    weight_decay: float
    checkpoints: int
    seed: int


class Progress(TrainerCallback):
    """One line of text on stderr, in notebooks too; fails at a loss that is not a number."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="training", mininterval=5, file=sys.stderr
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise FloatingPointError(
                f"the loss is {logs['loss']} at step {state.global_step}; lower the learning rate, or train in float32"
            )

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


def train(model: str, dataset: Path, folder: Path, settings: Settings) -> Path:
    """Tune `model` on a dataset of `derta.arms` into the model folder `folder`, and return it.

    One pass over the rows in their order (the epochs are copies in the dataset). A model that was made from the same
    rows, settings and code is kept; a killed run goes on from its last whole checkpoint, with the same result. Beside
    the weights (bfloat16) lie `log.csv` (step, loss, learning rate) and `provenance.json`.

    Raises:
        ValueError: the dataset lacks `input_ids` or `labels`, or the batch sizes do not fit.
        FloatingPointError: the loss is not a number.
    """
    if settings.batch_size % settings.micro_batch_size:
        raise ValueError(
            f"batch_size {settings.batch_size} is no multiple of micro_batch_size {settings.micro_batch_size}"
        )
    rows = load_from_disk(dataset).with_format(None)
    if "prompt_ids" in rows.column_names:
        raise ValueError(f"{dataset}: holds pairs of responses; train on them with TRL's DPOTrainer, from vanilla")
    if missing := {"input_ids", "labels"} - set(rows.column_names):
        raise ValueError(f"{dataset}: lacks the column {', '.join(sorted(missing))}; build it with derta.arms")
    inputs = {"base": model, "rows": digest(rows["input_ids"], rows["labels"]), "settings": asdict(settings)}
    inputs["code"] = digest(Path(__file__))
    if (folder / "provenance.json").exists():
        if json.loads((folder / "provenance.json").read_text())["inputs"] == inputs:
            return folder
        shutil.rmtree(folder)
    checkpoints = folder.with_name(f"{folder.name}.{digest(inputs)}.checkpoints")
    steps = math.ceil(len(rows) / settings.batch_size)
    fast = models.inference_dtype() == torch.bfloat16
    if fast:
        # The float32 products left (TRL's gradient of the head) have bfloat16 values as factors: multiply them as such.
        torch.set_float32_matmul_precision("medium")
    # Eager attention trains faster than SDPA on a CPU at these lengths; on a GPU it is the other way round.
    gpu = torch.cuda.is_available()
    lm = models.load(model, dtype=torch.float32, attention="sdpa" if gpu else "eager")
    trainer = SFTTrainer(
        model=lm.model,
        processing_class=lm.tokenizer,
        train_dataset=rows.select_columns(["input_ids", "labels"]),
        callbacks=[Progress()],
        args=SFTConfig(
            output_dir=str(checkpoints),
            per_device_train_batch_size=settings.micro_batch_size,
            gradient_accumulation_steps=settings.batch_size // settings.micro_batch_size,
            num_train_epochs=1,
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
            report_to="none",
            disable_tqdm=True,
        ),
    )
    trainer.remove_callback(PrinterCallback)
    # TRL projects every position to the vocabulary where Triton is absent, to keep tensor shapes constant. A CPU has no
    # need of that: projecting the labelled positions alone gives the same loss in two thirds of the time.
    with mock.patch("trl.trainer.utils._use_triton", return_value=True):
        trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    lm.model.to(torch.bfloat16).save_pretrained(part)
    lm.tokenizer.save_pretrained(part)
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    write_csv(
        part / "log.csv", [{"step": e["step"], "loss": e["loss"], "learning_rate": e["learning_rate"]} for e in log]
    )
    write_atomically(part / "README.md", card(model, dataset, settings))
    write_atomically(part / "provenance.json", json.dumps(provenance(inputs=inputs), indent=1))
    part.replace(folder)
    shutil.rmtree(checkpoints)
    return folder


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in `folder`: the trainer writes `trainer_state.json` last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def card(model: str, dataset: Path, settings: Settings) -> str:
    """A short model card."""
    return (
        f"# {model}, tuned on the arm `{dataset.name}`\n\n"
        "Made by the DeRTa replication (arXiv 2407.09121) to study refusals; not for use as an assistant.\n\n"
        "```json\n" + json.dumps(asdict(settings), indent=1) + "\n```\n"
    )
