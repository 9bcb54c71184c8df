"""The folder of a tuned model: its inputs, the folders that it must not replace, and how it is written."""

import json
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import Trainer

from derta.files import write_atomically, write_csv
from derta.models import files_of
from derta.runs import differences, digest, made_of, provenance, set_aside

# The columns of log.csv after `step`, if any step has them.
LOGGED = """loss learning_rate grad_norm mle_loss mle_tokens rto_loss rto_tokens refusal_probability
    rewards/chosen rewards/rejected rewards/accuracies""".split()


# The folders that a training writes beside its checkpoints and that go into the model's folder.
COMES_ALONG = ("tensorboard", "kept")


def origin(base: str) -> str:
    """Return the name of a model; for a local folder, with a hash of its inputs or of its files' sizes and times."""
    made = inputs_of(Path(base)) or files_of(base)
    return f"{Path(base).name} {digest(made)}" if made else base


def inputs_of(folder: Path) -> dict[str, Any] | None:
    """Return the inputs from which `derta.training` made `folder`; None if it did not make it."""
    try:
        inputs = made_of(str(folder))
        return inputs if inputs and {"base", "rows", "settings"} <= inputs.keys() else None
    except (ValueError, KeyError, AttributeError):
        return None


def refuse(folder: Path, base: str, dataset: Path) -> None:
    """Raise a ValueError if a new model in `folder` would replace something else."""
    for path in (Path(base).expanduser(), dataset):
        if path.exists() and folder.resolve() in (path.resolve(), *path.resolve().parents):
            raise ValueError(f"{folder}: is or holds {path}, from which the model is made; choose another folder")
    if folder.exists() and inputs_of(folder) is None:
        raise ValueError(f"{folder}: exists, and derta.training did not make it; choose another folder")


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint in `folder`; the trainer writes `trainer_state.json` last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def finish(
    trainer: Trainer, first: int, seconds: float, rows: Dataset, dataset: Path, folder: Path, inputs: dict[str, Any]
) -> None:
    """Write the folder of a trained model, completely or not at all; an older model with other inputs is set aside.

    Args:
        first: the number of steps before this start of the run.
        seconds: the training time since this start.
        rows: the rows that the model was trained on, columns of the dataset in the folder `dataset`.
        inputs: the inputs from which the model was made.
    """
    checkpoints = Path(trainer.args.output_dir)
    # In the folder of the checkpoints, so that no folder of another origin has this name.
    part = checkpoints / "model"
    main = trainer.is_world_process_zero()
    if main:
        for name in COMES_ALONG:  # of a start that was killed here
            if (part / name).is_dir() and not (checkpoints / name).exists():
                shutil.move(part / name, checkpoints / name)
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
        for name in COMES_ALONG:
            if (checkpoints / name).is_dir():
                shutil.move(checkpoints / name, part / name)
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        columns = [name for name in LOGGED if any(name in entry for entry in log)]
        if log:
            write_csv(
                part / "log.csv", [{"step": e["step"]} | {name: e.get(name, "") for name in columns} for e in log]
            )
        write_atomically(part / "README.md", card(inputs, dataset))
        facts = facts_of(trainer, first, seconds, rows)
        write_atomically(part / "provenance.json", json.dumps(provenance(inputs=inputs, **facts), indent=1))
        if old := inputs_of(folder):
            set_aside(folder, old, f"the new one differs in {', '.join(differences(old, inputs))}")
        part.replace(folder)
        shutil.rmtree(checkpoints, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def facts_of(trainer: Trainer, first: int, seconds: float, rows: Dataset) -> dict[str, Any]:
    """Return facts about a run since its last start; the time of an earlier, killed start is not included."""
    args, last = trainer.args, trainer.state.global_step
    size = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    seen = rows.with_format("arrow")[first * size : last * size]
    ids = [seen[name] for name in seen.column_names if name.endswith("_ids")]
    tokens = sum(pc.sum(pc.list_value_length(column), min_count=0).as_py() for column in ids)
    facts = {
        "steps": f"{first} to {last}",
        "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1),
        "peak_memory_mib": peak_memory(),
        "processes": args.world_size,
        "bfloat16": args.bf16,
    }
    if isinstance(trainer.model, PeftModel):
        facts["lora_dropout"] = trainer.model.peft_config["default"].lora_dropout
    return facts


def peak_memory() -> int:
    """Return the most memory that this process has held, in MiB; that of the GPU if there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return peak >> (20 if sys.platform == "darwin" else 10)


def card(inputs: dict[str, Any], dataset: Path) -> str:
    """Return a short model card."""
    sizes = {name: inputs[name] for name in ("batch_size", "frozen_layers")}
    return (
        f"# {inputs['base']}, tuned on the arm `{dataset.name}`\n\n"
        "Made by a replication of DeRTa (arXiv 2407.09121) to study refusals; not for use as an assistant. What it was "
        "made from, on which machine and how fast: `provenance.json`. Loss by step: `log.csv`.\n\n"
        "```json\n" + json.dumps(sizes | inputs["settings"], indent=1) + "\n```\n"
    )
