"""What a profile costs before it is run: its size, memory per GPU and hours, from the model's configuration alone.

No weight is made or downloaded. Memory is counted by part (after arXiv 1910.02054 and 2205.05198), time by
floating-point operations (2 per parameter and token forward, twice that backward; after arXiv 2001.08361) and, for
answers, by the bytes that each token reads. `CARDS` has the makers' figures, and `EFFICIENCY` the share of them that is
reached: the one of the recorded trainings of models from a billion weights on (``benchmarks/plan_gpu.csv``).
"""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from derta import hub, settings, trainers
from derta.attacks import ATTACKS
from derta.commands.profiles import read_profile
from derta.published.prompts import SOURCES

GIB = 2**30
# Memory in GB, dense bfloat16 products in FLOP/s, and memory reads in bytes per second.
CARDS = {
    "RTX 4090": (24, 165e12, 1.0e12),
    "L40S": (48, 362e12, 0.86e12),
    "H100": (80, 989e12, 3.35e12),
    "H200": (141, 989e12, 4.8e12),
}
GPUS = (1, 2, 4, 8, 16, 32, 64)
EFFICIENCY = 0.3
# What CUDA, NCCL and the allocator's gaps take of each card.
RESERVED = 0.08
# Tokens of a prompt at most; the longest released one, a CodeAttack, has 772 for SmolLM2.
PROMPT = 1024


@dataclass(frozen=True)
class Size:
    """A model as it is tuned, in numbers.

    Attributes:
        parameters, trainable: numbers of parameters.
        active: those that multiply each token: of experts the chosen ones, of the embeddings the output layer.
        gathered: those that a sharded model puts together at a time: the output layer, a layer, and the next one.
        folded: those of experts that LoRA adapts, which are put together with their adapters at every pass.
        frozen: the share of the layers below the first that is trained, which need no backward pass.
    """

    parameters: int
    trainable: int
    active: int
    gathered: int
    folded: int
    frozen: float
    config: Any


def size(values: dict[str, Any]) -> Size:
    """Return the size of a profile's model; see `derta.commands.profiles.read_profile` for the values.

    Raises:
        OSError: the configuration is neither known here nor in reach.
        ValueError: the architecture is not of a form that is counted here.
    """
    name = values["model"]
    spec = hub.spec(name)
    if spec and spec.config:
        config = AutoConfig.for_model(**spec.config)
    else:
        place, revision = (name, None) if Path(name).is_dir() else hub.on_hub(name)
        config = AutoConfig.from_pretrained(place, revision=revision)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    counts = {key: weight.numel() for key, weight in model.named_parameters()}
    experts = sum(n for key, n in counts.items() if ".experts." in key)
    needed = ["num_key_value_heads", "intermediate_size", *(["num_local_experts"] if experts else [])]
    if missing := [name for name in needed if not hasattr(config, name)]:
        raise ValueError(
            f"{name}: {type(model).__name__} has no {missing[0]}; plans are for models like Llama or Mixtral"
        )
    layers = model.get_decoder().layers
    embeddings = model.get_input_embeddings().weight.numel()
    chosen = config.num_experts_per_tok / config.num_local_experts if experts else 1.0
    active = sum(counts.values()) - embeddings * (not config.tie_word_embeddings) - int(experts * (1 - chosen))
    gathered = embeddings + 2 * max(sum(weight.numel() for weight in layer.parameters()) for layer in layers)
    _, tuned = settings.configure(False, values["sft"] | values["peft"])
    folded = 0
    if tuned.use_peft:
        made = trainers.lora(model, tuned)
        folded = sum(counts[key] for key in made.target_parameters or ())
        with warnings.catch_warnings(action="ignore"):
            model = get_peft_model(model, made, low_cpu_mem_usage=True)
    elif values["frozen_layers"]:
        trainers.freeze(model, values["frozen_layers"], False)
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    frozen = values["frozen_layers"] / len(layers)
    return Size(sum(counts.values()), trainable, active, gathered, folded, frozen, config)


def training_memory(
    values: dict[str, Any], of: Size, gpus: int, rows: int, length: int, cpu: bool = False
) -> dict[str, float]:
    """Return the bytes on each of `gpus` that training takes at its peak, by part.

    Args:
        rows, length: rows of a forward pass, and tokens of the longest row; each of them counts as labelled.
        cpu: whether it is as on a CPU, where attention keeps the scores of all pairs of tokens, and the loss the logits
            in three forms.
    """
    config, lora = of.config, values["peft"].get("use_peft", False)
    share = gpus if values["accelerate"] in ("fsdp2", "deepspeed_zero3") else 1
    wide = 2 if lora else 4
    # Products in bfloat16 keep a copy of each float32 weight until its backward pass, or of what is gathered or
    # computed anew at a time; experts with adapters also keep one folded layer and its gradient.
    passing = share > 1 or checkpointing(values)
    copies = 2 * (0 if lora and share == 1 else of.gathered if passing else of.active * (1 - of.frozen))
    copies += 4 * of.folded / config.num_hidden_layers
    accumulates = values["batch_size"] > rows * gpus
    # FSDP2 shares out gradients at the last pass of a step only, and keeps them whole in bfloat16 before.
    whole = 2 * of.trainable if values["accelerate"] == "fsdp2" and accumulates and gpus > 1 else 0
    heads, hidden = config.num_attention_heads, config.hidden_size
    kv = config.num_key_value_heads * head_size(config)
    experts = getattr(config, "num_experts_per_tok", None) or 1
    layer = 2 * (6 * hidden + 2 * kv + 4 * config.intermediate_size * experts) + 4 * 4 * hidden
    if cpu:
        layer += 10 * heads * length
    if lora:  # each adapter keeps its input in float32
        layer += 4 * (6 * hidden + config.intermediate_size * experts)
    deep = config.num_hidden_layers * (1 - of.frozen)
    kept = deep * wide * hidden + layer if checkpointing(values) else deep * layer
    activations, logits = rows * length * kept, rows * length * config.vocab_size * (10 if cpu else 2)
    gradients = 4 * of.trainable / share + whole
    if not accumulates:  # they come as the logits and activations go
        gradients = max(gradients - activations - logits, 0)
    return {
        "weights": (of.parameters * wide + 4 * lora * of.trainable) / share + copies,
        "gradients": gradients,
        "optimiser": 8 * of.trainable / share,
        "activations": activations,
        "logits": logits,
    }


def head_size(config: Any) -> int:
    """Return the width of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def training_operations(values: dict[str, Any], of: Size, rows: int, length: int) -> float:
    """Return the floating-point operations of a training run over `rows` of `length` tokens."""
    # The scores of a token and the values that they mix, over the half of the row before it.
    attention = 2 * of.config.num_hidden_layers * of.config.hidden_size * length
    forward = 2 * of.active + attention
    # Backward: the gradients of activations, and of what is trained; of experts with adapters, of their whole weights.
    weights = 2 * min(of.active, of.trainable) + 2 * of.active * (of.folded > 0)
    backward = forward * (1 - of.frozen) + weights + attention * (1 - of.frozen)
    passes = 2 if checkpointing(values) else 1
    # Folding an adapter of rank r into a weight takes 2 r operations for each of its numbers, and twice that backward.
    folds = 2 * values["peft"].get("lora_r", 0) * of.folded * (passes + 2)
    micro = values["sft"].get("per_device_train_batch_size", 8)
    return rows * (length * (forward * passes + backward) + folds / micro)


def checkpointing(values: dict[str, Any]) -> bool:
    """Whether activations are computed anew in the backward pass; on a GPU they are by default."""
    return values["sft"].get("activation_checkpointing", values["sft"].get("gradient_checkpointing", True))


def answers(values: dict[str, Any]) -> tuple[int, int]:
    """Return how many answers notebook 4 asks of a model at most, and in how many batches; without the searches."""
    asked, batches = 0, 0
    splits = {"validation": values["validation"], "test": values["test"]} | values["published"]
    for split, limits in splits.items():
        for name, number in limits.items():
            attack = ATTACKS[name]
            tries = len(values["depths"]) if name in ("prefill_depth", "reopened") else max(len(attack.depths), 1)
            sides = 1 if attack.innocent else sum(SOURCES.get(split, (True, True)))
            asked += sides * number * tries
            batches += sides * math.ceil(number * tries / values["generation_batch_size"])
    return asked, batches


def plan(profile: str) -> tuple[str, list[dict[str, Any]]]:
    """Return one line about a profile, and its memory per GPU (GiB) and hours on each number of `GPUS` of each card.

    Rows and answers count as of full length. Training is that of one arm and seed; answers are those of one model, with
    a second one beside it: that before tuning, which writes PAIR's messages and is compared in notebook 5.

    Raises:
        FileNotFoundError, ValueError: see `derta.commands.profiles.read_profile`.
        OSError, ValueError: see `size`.
    """
    values = read_profile(profile)
    of = size(values)
    sft, length = values["sft"], values["max_length"]
    rows = values["epochs"] * (2 * values["triples"] + sum(values[n] for n in ("twins", "plain", "instructions")))
    if sft.get("max_steps", -1) > 0:
        rows = min(rows, sft["max_steps"] * values["batch_size"])
    asked, batches = answers(values)
    kind = "LoRA" if values["peft"].get("use_peft") else "full fine-tuning"
    operations = training_operations(values, of, rows, length)
    said = (
        f"{values['model']}: {of.parameters / 1e9:.2f} billion parameters, {of.trainable / 1e9:.2f} trained ({kind}); "
        f"{rows:,} rows of at most {length} tokens, {operations:.1e} operations an arm; {asked:,} answers a model"
    )
    micro = sft.get("per_device_train_batch_size", 8)
    config = of.config
    cache = 4 * config.num_hidden_layers * config.num_key_value_heads * head_size(config)
    cache *= values["generation_batch_size"] * (PROMPT + values["max_new_tokens"])
    table = []
    for card, (memory, speed, reads) in CARDS.items():
        room = memory * 1e9 * (1 - RESERVED)
        for gpus in GPUS if values["accelerate"] else (1,):
            parts = training_memory(values, of, gpus, micro, length)
            answering = (4 * of.parameters + cache) / gpus
            row: dict[str, Any] = {"card": card, "gpus": gpus}
            row |= {f"{name}_gib": round(part / GIB, 1) for name, part in parts.items()}
            divides = values["batch_size"] % (micro * gpus) == 0
            fits = "yes" if sum(parts.values()) <= room else "too large"
            row |= {"training_gib": round(sum(parts.values()) / GIB, 1), "training": fits if divides else "batch"}
            row["training_hours"] = round(operations / (gpus * speed * EFFICIENCY) / 3600, 2)
            row |= {"cache_gib": round(cache / gpus / GIB, 1), "answering_gib": round(answering / GIB, 1)}
            row["answering"] = "yes" if answering <= room else "too large"
            # A model that is spread over several cards reads its weights on one after the other.
            seconds = batches * values["max_new_tokens"] * (2 * of.parameters + cache) / (reads * EFFICIENCY)
            row["answering_hours"] = round(seconds / 3600, 2)
            table.append(row)
    return said, table
