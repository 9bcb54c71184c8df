"""How a model is tuned: fields of TRL's `SFTConfig` (`DPOConfig` for pairs) and `ModelConfig`, under their own names.

This project sets technical defaults; scientific values (learning rate, schedule, weight decay, beta, …) have TRL's.
"""

import argparse
import dataclasses
import difflib
import math
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import torch
from transformers import TrainingArguments
from trl import DPOConfig, ModelConfig, SFTConfig, TrlParser

from derta import models

# The fields that cannot be set, by the reason why.
_DECIDED = {
    "`folder` is the model's folder, and checkpoints are kept beside it": "output_dir",
    "epochs are copies in the dataset; max_steps stops earlier": "num_train_epochs",
    "the dataset decides it: its rows are token ids already, in the order of training": """
        max_length truncation_mode packing packing_strategy padding_free train_sampling_strategy remove_unused_columns
        shuffle_dataset dataset_kwargs dataset_text_field chat_template_path eos_token pad_token completion_only_loss
        assistant_only_loss label_names length_column_name""",
    "`base` is the model; dtype and attn_implementation say how it is loaded": """
        model_name_or_path model_revision model_init_kwargs trust_remote_code load_in_8bit load_in_4bit
        bnb_4bit_quant_type bnb_4bit_quant_storage use_bnb_nested_quant lora_task_type""",
    "a killed run always resumes from its last checkpoint": """
        resume_from_checkpoint save_only_model ignore_data_skip""",
    "training evaluates nothing; derta.evaluate does": """
        do_eval eval_strategy eval_on_start eval_packing load_best_model_at_end""",
    "the batch is as large as the settings say": "auto_find_batch_size",
}
DECIDED = {name: reason for reason, names in _DECIDED.items() for name in names.split()}

# The ranges of numbers, each as a test and in words, with the fields that it applies to.
_RANGES: list[tuple[Callable[[float], bool], str, str]] = [
    (lambda x: x > 0, "above 0", "learning_rate beta adam_epsilon save_steps logging_steps"),
    (lambda x: x >= 0, "0 or more", "weight_decay warmup_steps max_grad_norm seed router_aux_loss_coef"),
    (lambda x: x >= 1, "1 or more", "per_device_train_batch_size gradient_accumulation_steps save_total_limit"),
    (lambda x: x >= 1, "1 or more", "lora_r lora_alpha"),
    (lambda x: 0 <= x < 1, "at least 0 and below 1", "lora_dropout adam_beta1 adam_beta2 label_smoothing_factor"),
    (lambda x: x < 1 or x == int(x), "a share below 1 or a whole number", "warmup_steps save_steps logging_steps"),
    (lambda x: x == -1 or x >= 1, "-1 (every row once) or 1 or more", "max_steps"),
]

_OF_LORA = {f.name for f in dataclasses.fields(ModelConfig) if f.name.startswith("lora_")} | {"use_rslora", "use_dora"}


class _Parser(TrlParser):
    """`TrlParser` that raises its errors instead of printing them."""

    def error(self, message: str) -> None:
        raise ValueError(message)


def read(pairs: bool, settings: dict[str, Any]) -> dict[str, Any]:
    """Convert each value of `settings` to the type of its field: ``"2e-5"`` becomes a number.

    Args:
        pairs: whether they are for pairs (`DPOConfig`) or rows with labels (`SFTConfig`).

    Raises:
        ValueError: an unknown name, one that this project decides, or a value of the wrong type or out of range; one
            line.
    """
    config = DPOConfig if pairs else SFTConfig
    parser = _Parser((config, ModelConfig), exit_on_error=False, allow_abbrev=False)
    hints = get_type_hints(config) | get_type_hints(ModelConfig)
    fields = {field.name for kind in (config, ModelConfig) for field in dataclasses.fields(kind) if field.init}
    values = {}
    for name, value in settings.items():
        if name in DECIDED:
            raise ValueError(f"{name} cannot be set: {DECIDED[name]}")
        if name not in fields:
            near = difflib.get_close_matches(name, fields - DECIDED.keys(), 1)
            hint = f"did you mean {near[0]}?" if near else f"see the fields of {config.__name__} and ModelConfig"
            raise ValueError(f"{name} is no field of {config.__name__} or ModelConfig; {hint}")
        values[name] = _typed(parser, name, value, get_args(hints[name]) or (hints[name],))
    if values.get("use_peft") is not True and (stray := [name for name in values if name in _OF_LORA]):
        raise ValueError(f"{stray[0]} is given, but use_peft is not; set use_peft to true or leave {stray[0]} out")
    return values


def _typed(parser: TrlParser, name: str, value: Any, types: tuple) -> Any:
    """Return `value` as the command line would read it, checked."""
    if value is None or isinstance(value, dict):
        if (type(None) if value is None else dict) not in {getattr(t, "__origin__", t) for t in types}:
            raise ValueError(f"{name} is {'empty' if value is None else value}; give a value or leave it out")
        return value
    if isinstance(value, bool) and bool not in types:
        raise ValueError(f"{name} is {value}; it is no switch")
    words = [f"--{name}", *map(str, value)] if isinstance(value, list | tuple) else [f"--{name}={value}"]
    try:
        typed = getattr(parser.parse_args(words), name)
    except argparse.ArgumentError as error:
        raise ValueError(f"{name}: {error.message}") from None
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}: {error}") from None
    if isinstance(typed, float) and not math.isfinite(typed):
        raise ValueError(f"{name} is {value}; expected a finite number")
    for fits, wanted, names in _RANGES:
        if name in names.split() and not fits(typed):
            raise ValueError(f"{name} is {value}; it must be {wanted}")
    return typed


def configure(pairs: bool, settings: dict[str, Any], **decided: Any) -> tuple[SFTConfig | DPOConfig, ModelConfig]:
    """Build the configuration of a trainer. It needs no GPU, model or file, so it checks settings before anything runs.

    Args:
        pairs: whether it is for pairs (`DPOConfig`) or rows with labels (`SFTConfig`).
        settings: fields of that class and of `ModelConfig`, which override this project's defaults.
        decided: fields that `derta.training` decides, such as `output_dir`.

    Raises:
        ValueError: a setting is unknown, decided by this project, of the wrong type or out of range, or two settings
            conflict; one line that names it.
    """
    values = read(pairs, settings)
    gpu = torch.cuda.is_available() and not values.get("use_cpu", False)
    fast = models.inference_dtype() == torch.bfloat16
    lora = values.get("use_peft", False)
    defaults = {
        "use_cpu": not gpu,
        "bf16": fast and not values.get("fp16", False),
        # With LoRA the base model is frozen, so it needs no float32 copy.
        "dtype": "bfloat16" if lora and fast else "float32",
        # Eager attention trains faster than SDPA on a CPU at these lengths; on a GPU it is the other way round.
        "attn_implementation": None if gpu else "eager",
        "optim": "adamw_torch_fused",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_total_limit": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "router_aux_loss_coef": 0.0,  # Eq. 2 has no term that balances experts.
    }
    if not {"gradient_checkpointing", "activation_checkpointing"} & values.keys():
        defaults["activation_checkpointing"] = gpu
    if pairs:
        defaults["precompute_ref_log_probs"] = not lora and not values.get("sync_ref_model", False)
    decided |= {"num_train_epochs": 1, "max_length": None}
    decided |= {"train_sampling_strategy": "sequential", "remove_unused_columns": False}
    try:
        return TrlParser((DPOConfig if pairs else SFTConfig, ModelConfig)).parse_dict(defaults | values | decided)
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        raise ValueError(f"the settings do not go together: {' '.join(str(error).split())}") from None


def accumulation(args: TrainingArguments, batch_size: int, settings: dict[str, Any]) -> int:
    """Return the number of forward passes per process in an optimiser step of `batch_size` rows; 0 takes the setting.

    Raises:
        ValueError: the sizes do not fit, or both are given.
    """
    rows = args.per_device_train_batch_size * args.world_size
    if not batch_size:
        return args.gradient_accumulation_steps
    if "gradient_accumulation_steps" in settings:
        raise ValueError("gradient_accumulation_steps follows from batch_size; give one of the two")
    if batch_size % rows:
        raise ValueError(
            f"batch_size {batch_size} is no multiple of per_device_train_batch_size "
            f"{args.per_device_train_batch_size} × {args.world_size} process(es)"
        )
    return batch_size // rows
