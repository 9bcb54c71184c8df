"""What a profile costs before it is run: its size, memory per GPU and hours, from the model's configuration alone.

Nothing is downloaded and no weight is made. Memory is counted by part (after arXiv 1910.02054 and 2205.05198), time by
floating-point operations (2 per parameter and token forward, twice that backward; after arXiv 2001.08361) and, for
answers, by the bytes that each token reads. `CARDS` has the makers' figures; `EFFICIENCY` is what is reached of them.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from derta import models, settings, trainers
from derta.attacks import ATTACKS
from derta.commands.profiles import read_profile

GIB = 2**30
# Memory in GB, dense bfloat16 products in FLOP/s, and memory reads in bytes per second.
CARDS = {
    "RTX 4090": (24, 165e12, 1.0e12),
    "L40S": (48, 362e12, 0.86e12),
    "H100": (80, 989e12, 3.35e12),
    "H200": (141, 989e12, 4.8e12),
}
GPUS = (1, 2, 4, 8, 16, 32, 64)
EFFICIENCY = 0.4
# What CUDA, NCCL and the allocator's gaps take of each card.
RESERVED = 0.08


@dataclass(frozen=True)
class Size:
    """A model as it is tuned, in numbers.

    Attributes:
        parameters, trainable: numbers of parameters.
        active: those that multiply each token: of experts the chosen ones, of the embeddings the output layer.
        gathered: those of the largest part that a sharded model puts together at a time, a layer or the embeddings.
        frozen: the share of the layers below the first that is trained, which need no backward pass.
    """

    parameters: int
    trainable: int
    active: int
    gathered: int
    frozen: float
    config: Any


def size(values: dict[str, Any]) -> Size:
    """Return the size of a profile's model; see `derta.commands.profiles.read_profile` for the values.

    Raises:
        OSError: the configuration is neither known here nor in reach.
    """
    name = values["model"]
    spec = models.MODELS.get(name)
    if spec and spec.config:
        config = AutoConfig.for_model(**spec.config)
    else:
        config = AutoConfig.from_pretrained(models.resolve(name))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    counts = {key: weight.numel() for key, weight in model.named_parameters()}
    layers = model.get_decoder().layers
    embeddings = model.get_input_embeddings().weight.numel()
    experts = sum(n for key, n in counts.items() if ".experts." in key)
    chosen = config.num_experts_per_tok / config.num_local_experts if experts else 1.0
    active = sum(counts.values()) - embeddings * (not config.tie_word_embeddings) - int(experts * (1 - chosen))
    gathered = max(embeddings, *(sum(weight.numel() for weight in layer.parameters()) for layer in layers))
    _, tuned = settings.configure(False, values["sft"] | values["peft"])
    if tuned.use_peft:
        with warnings.catch_warnings(action="ignore"):
            model = get_peft_model(model, trainers.lora(model, tuned))
    elif values["frozen_layers"]:
        trainers.freeze(model, values["frozen_layers"], False)
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    frozen = values["frozen_layers"] / len(layers)
    return Size(sum(counts.values()), trainable, active, gathered, frozen, config)


def training_memory(
    values: dict[str, Any], of: Size, gpus: int, rows: int, length: int, eager: bool = False
) -> dict[str, float]:
    """Return the bytes on each of `gpus` that training takes at its peak, by part.

    Args:
        rows, length: rows of a forward pass, and tokens of the longest row.
        eager: whether attention keeps the scores of all pairs of tokens.
    """
    config, lora = of.config, values["peft"].get("use_peft", False)
    share = gpus if values["accelerate"] in ("fsdp2", "deepspeed_zero3") else 1
    wide = 2 if lora else 4
    # Products in bfloat16 keep a copy of each float32 weight until its backward pass, or of what is gathered.
    copies = 2 * (of.gathered if share > 1 else 0 if lora else of.active * (1 - of.frozen))
    heads, hidden = config.num_attention_heads, config.hidden_size
    kv = config.num_key_value_heads * hidden // heads
    experts = getattr(config, "num_experts_per_tok", None) or 1
    layer = 2 * (6 * hidden + 2 * kv + 4 * config.intermediate_size * experts) + 4 * 4 * hidden
    if eager:
        layer += 10 * heads * length
    deep = config.num_hidden_layers * (1 - of.frozen)
    kept = deep * wide * hidden + layer if checkpointing(values) else deep * layer
    return {
        "weights": of.parameters * wide / share + copies,
        "gradients": 4 * of.trainable / share,
        "optimiser": 8 * of.trainable / share,
        "activations": rows * length * kept,
    }


def training_operations(values: dict[str, Any], of: Size, tokens: int, length: int) -> float:
    """Return the floating-point operations of a training run over `tokens` in rows of `length`."""
    # The scores of a token and the values that they mix, over the half of the row before it.
    attention = 2 * of.config.num_hidden_layers * of.config.hidden_size * length
    forward = 2 * of.active + attention
    # Backward: the gradients of activations, and of what is trained.
    backward = forward * (1 - of.frozen) + min(2 * of.active, 2 * of.trainable) + attention * (1 - of.frozen)
    return tokens * (forward * (2 if checkpointing(values) else 1) + backward)


def checkpointing(values: dict[str, Any]) -> bool:
    """Whether activations are computed anew in the backward pass; on a GPU they are by default."""
    return values["sft"].get("activation_checkpointing", values["sft"].get("gradient_checkpointing", True))


def answers(values: dict[str, Any]) -> tuple[int, int]:
    """Return how many answers notebook 4 asks of a model at most, and in how many batches; without the searches."""
    asked, batches = 0, 0
    for limits in (values["validation"], values["test"], *values["published"].values()):
        for name, number in limits.items():
            attack = ATTACKS[name]
            tries = len(values["depths"]) if name in ("prefill_depth", "reopened") else max(len(attack.depths), 1)
            count = number * tries
            for _ in range(1 if attack.innocent else 2):
                asked += count
                batches += math.ceil(count / values["generation_batch_size"])
    return asked, batches


def plan(profile: str) -> tuple[str, list[dict[str, Any]]]:
    """Return one line about a profile, and its memory per GPU (GiB) and hours on each number of `GPUS` of each card.

    Rows count as full, so hours are at most. Training is that of one arm and seed; answers are those of one model.

    Raises:
        FileNotFoundError, ValueError: see `derta.commands.profiles.read_profile`.
        OSError: the model's configuration is neither known here nor in reach.
    """
    values = read_profile(profile)
    of = size(values)
    sft, length = values["sft"], values["max_length"]
    rows = values["epochs"] * (2 * values["triples"] + sum(values[n] for n in ("twins", "plain", "instructions")))
    if sft.get("max_steps", -1) > 0:
        rows = min(rows, sft["max_steps"] * values["batch_size"])
    asked, batches = answers(values)
    kind = "LoRA" if values["peft"].get("use_peft") else "full fine-tuning"
    operations = training_operations(values, of, rows * length, length)
    said = (
        f"{values['model']}: {of.parameters / 1e9:.2f} billion parameters, {of.trainable / 1e9:.2f} trained ({kind}); "
        f"{rows:,} rows of at most {length} tokens, {operations:.1e} operations an arm; {asked:,} answers a model"
    )
    micro = sft.get("per_device_train_batch_size", 8)
    config = of.config
    head = config.hidden_size // config.num_attention_heads
    cache = 4 * config.num_hidden_layers * config.num_key_value_heads * head
    cache *= values["generation_batch_size"] * (length + values["max_new_tokens"])
    table = []
    for card, (memory, speed, reads) in CARDS.items():
        room = memory * 1e9 * (1 - RESERVED)
        for gpus in GPUS if values["accelerate"] else (1,):
            parts = training_memory(values, of, gpus, micro, length)
            answering = (2 * of.parameters + cache) / gpus
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
