"""How fast a training step is on a GPU, at the paper's lengths: ``python benchmarks/train_gpu.py``.

A model of Llama's shape with 1.2 billion random weights is tuned on random rows of the arm ``derta`` in the paper's
mixture (3,000 triples and 60,000 helpful rows), with lengths as in `LENGTHS`: full fine-tuning with float32 weights,
products in bfloat16, activations computed anew, 32 rows a step in micro-batches of 8. Variants take turns, step by
step, on the same rows:

- *as published*: rows in random order, padded, and the logits of all positions in float32;
- *TRL's loss*: the same, with the loss of TRL's `SFTTrainer`;
- *this project*: that loss, with the rows of a step sorted by length;
- *labelled positions*: sorted, and only labelled positions go through the head, as on a CPU;
- *activations kept*: this project, without computing activations anew.

Then, for the triples alone, *read once*: both terms of Eq. 2 in one row, in which the safe response attends to the
question and the harmful prefix through a mask, against the two rows that the trainer takes. Memory is the most that the
tensors took in a step.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.plan import _1B
from derta import models, objective, trainers
from derta.objective import IGNORE
from derta.settings import configure

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDS, STEP, MICRO = 12, 32, 8
# Tokens, from and to, each length as likely as the other: of a question, a refusal, a harmful and a helpful response.
LENGTHS = {"question": (15, 60), "safe": (20, 120), "harmful": (50, 600), "helpful": (30, 700)}
TRIPLES = 3_000 / 66_000
REFUSAL = 1000
Triple = tuple[list[int], list[int], list[int], int]


def draw(rng: random.Random, part: str) -> list[int]:
    """Draw the token ids of a question or a response."""
    return [rng.randrange(1001, 30_000) for _ in range(rng.randint(*LENGTHS[part]))]


def triple(rng: random.Random) -> Triple:
    """Draw a question, its safe and its harmful response, and a prefix length."""
    harmful = draw(rng, "harmful")
    return draw(rng, "question"), draw(rng, "safe"), harmful, rng.randint(0, len(harmful))


def terms(made: Triple) -> list[dict[str, Any]]:
    """Return the two rows of a triple."""
    question, safe, harmful, k = made
    refusals = [REFUSAL] * len(harmful)
    return [
        objective.harmful_prefix(question, harmful, safe, k) | {"kind": "prefix"},
        objective.rto(question, harmful, refusals, [True] * len(harmful)) | {"kind": "rto"},
    ]


def rows(rng: random.Random, number: int) -> list[dict[str, Any]]:
    """Draw rows of the arm ``derta`` in random order."""
    made: list[dict[str, Any]] = []
    while len(made) < number:
        if rng.random() < TRIPLES:
            made += terms(triple(rng))
        else:
            made.append(objective.supervised(draw(rng, "question"), draw(rng, "helpful")) | {"kind": "helpful"})
    rng.shuffle(made)
    return made[:number]


def published(trainer: trainers.Terms, inputs: dict[str, torch.Tensor], count: int) -> torch.Tensor:
    """The loss as one would write it down."""
    with torch.autocast(DEVICE, torch.bfloat16):
        logits = trainer.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.float()
    labels = inputs["labels"]
    total = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return total / count


def fused(trainer: trainers.Terms, inputs: dict[str, torch.Tensor], count: int, quick: bool = False) -> torch.Tensor:
    """The trainer's loss; `quick` is that of labelled positions."""
    trainer.quick = quick
    with trainer.compute_loss_context_manager():
        return trainer.compute_loss(trainer.model, inputs, num_items_in_batch=torch.tensor(count, device=DEVICE))


def labelled(trainer: trainers.Terms, inputs: dict[str, torch.Tensor], count: int) -> torch.Tensor:
    """The trainer's loss on a CPU."""
    return fused(trainer, inputs, count, quick=True)


def read_once(trainer: trainers.Terms, triples: list[Triple]) -> torch.Tensor:
    """The loss of both terms, summed over the labels of `triples`, each read as question, harmful, safe response."""
    width = max(len(q) + len(r) + len(h) for q, r, h, _ in triples)
    ids = torch.zeros(len(triples), width, dtype=torch.long)
    labels, places = torch.full_like(ids, IGNORE), torch.zeros_like(ids)
    mask = torch.ones(width, width).tril().bool().repeat(len(triples), 1, 1, 1)
    for row, (question, safe, harmful, k) in enumerate(triples):
        q, h, r = len(question), len(harmful), len(safe)
        ids[row, : q + h + r] = torch.tensor(question + harmful + safe)
        places[row, : q + h + r] = torch.tensor([*range(q + h), *range(q + k, q + k + r)])
        # The last token of the prefix predicts two labels: here that of the refusal token.
        labels[row, q - 1 : q + h - 1] = REFUSAL
        labels[row, q + h : q + h + r - 1] = torch.tensor(safe[1:])
        mask[row, 0, q + h : q + h + r, q + k : q + h] = False
    with torch.autocast(DEVICE, torch.bfloat16):
        hidden = trainer.model.model(
            input_ids=ids.to(DEVICE), attention_mask=mask.to(DEVICE), position_ids=places.to(DEVICE), use_cache=False
        ).last_hidden_state
        heads = trainer.model.lm_head
        asked = labels.to(DEVICE) != IGNORE
        firsts = torch.tensor([[len(q) + k - 1] for q, _, _, k in triples], device=DEVICE)
        before = hidden.gather(1, firsts[..., None].expand(-1, -1, hidden.shape[-1]))[:, 0]
        logits = heads(torch.cat([hidden[asked], before])).float()
    targets = torch.cat([labels.to(DEVICE)[asked], torch.tensor([safe[0] for _, safe, _, _ in triples], device=DEVICE)])
    return functional.cross_entropy(logits, targets, reduction="sum")


def apart(trainer: trainers.Terms, triples: list[Triple]) -> torch.Tensor:
    """The loss of both terms, summed over the labels of `triples`, each read as two rows."""
    made = sorted((row for each in triples for row in terms(each)), key=lambda row: -len(row["input_ids"]))
    half = len(made) // 2
    parts = [trainer.data_collator(part) for part in (made[:half], made[half:])]
    return sum(labelled(trainer, {k: v.to(DEVICE) for k, v in part.items()}, 1) for part in parts)


def backward(trainer: trainers.Terms, loss: torch.Tensor) -> float:
    """Compute the gradients of a loss, and return its value."""
    loss.backward()
    trainer.model.zero_grad()
    return float(loss.detach())


Loss = Callable[[trainers.Terms, dict[str, torch.Tensor], int], torch.Tensor]
# Name → its loss, whether the rows of a step are sorted, and whether activations are computed anew.
VARIANTS: dict[str, tuple[Loss, bool, bool]] = {
    "as published": (published, False, True),
    "TRL's loss": (fused, False, True),
    "this project": (fused, True, True),
    "labelled positions": (labelled, True, True),
    "activations kept": (fused, True, False),
}


def recompute(trainer: trainers.Terms, wanted: bool) -> None:
    """Switch the recomputation of activations on or off."""
    if wanted:
        trainer.model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        trainer.model.activation_checkpointing_disable()


def step(trainer: trainers.Terms, made: list[dict[str, Any]], variant: str) -> float:
    """Take an optimiser's step on `made`, and return its loss."""
    loss_of, sort, wanted = VARIANTS[variant]
    recompute(trainer, wanted)
    if sort:
        made = sorted(made, key=lambda row: -len(row["input_ids"]))
    count = sum(label != IGNORE for row in made for label in row["labels"])
    total = 0.0
    for start in range(0, len(made), MICRO):
        inputs = {key: value.to(DEVICE) for key, value in trainer.data_collator(made[start : start + MICRO]).items()}
        if loss_of is published:
            inputs.pop("rto")
        loss = loss_of(trainer, inputs, count)
        loss.backward()
        total += loss.detach()
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
    trainer.optimizer.step()
    trainer.model.zero_grad()
    return float(total)


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what `work` returns, its seconds, and the most memory that tensors took, in GiB (0 on a CPU)."""
    if DEVICE == "cpu":
        start = time.perf_counter()
        return work(), time.perf_counter() - start, 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return result, time.perf_counter() - start, torch.cuda.max_memory_allocated() / 2**30


def make(folder: Path) -> trainers.Terms:
    """Make the trainer of a model with random weights."""
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**_1B), dtype=torch.bfloat16)
    model.save_pretrained(folder / "base")
    models.load_tokenizer("smollm2-135m").tokenizer.save_pretrained(folder / "base")
    args, config = configure(False, {"learning_rate": 1e-5}, output_dir=str(folder / "out"))
    trainer = trainers.make(str(folder / "base"), Dataset.from_list(rows(random.Random(1), 8)), args, config)
    trainer.model.to(DEVICE).train()
    trainer.create_optimizer()
    return trainer


def main() -> None:
    """Print each variant's tokens per second and memory, and what reading triples once gains."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(Path(folder))
    rng = random.Random(0)
    speeds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    memory = dict.fromkeys(VARIANTS, 0.0)
    for turn in range(ROUNDS + 1):
        made = rows(rng, STEP)
        tokens = sum(len(row["input_ids"]) for row in made)
        for name in VARIANTS:
            _, seconds, most = timed(lambda made=made, name=name: step(trainer, made, name))
            if turn:
                speeds[name].append(tokens / seconds)
                memory[name] = max(memory[name], most)
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    for name, speed in middle.items():
        ratio = speed / middle["as published"]
        print(f"{name:>18}: {speed:,.0f} tokens/s ({ratio:.2f} of the published way), {memory[name]:.1f} GiB")

    recompute(trainer, True)
    times: dict[str, list[float]] = {"two rows": [], "read once": []}
    for turn in range(ROUNDS + 1):
        triples = [triple(rng) for _ in range(MICRO)]
        losses = []
        for name, loss_of in (("two rows", apart), ("read once", read_once)):
            loss, seconds, _ = timed(
                lambda loss_of=loss_of, triples=triples: backward(trainer, loss_of(trainer, triples))
            )
            losses.append(loss)
            if turn:
                times[name].append(seconds)
        assert abs(losses[1] / losses[0] - 1) < 0.01, losses
    # What the triples are of the paper's mixture.
    once = statistics.median(times["read once"]) / statistics.median(times["two rows"])
    share = TRIPLES * sum(len(r["input_ids"]) for _ in range(2000) for r in terms(triple(rng))) / 2000
    share /= share + (1 - TRIPLES) * (sum(LENGTHS["question"]) + sum(LENGTHS["helpful"])) / 2
    print(f"a triple read once takes {once:.2f} of the time of its two rows; they are {share:.0%} of the tokens")


if __name__ == "__main__":
    main()
