"""What it would gain to read a triple once for both terms of Eq. 2: ``python benchmarks/read_once.py``.

The trainer takes two rows of a triple: question, harmful prefix and safe response; question and harmful response. Both
begin alike, so one row could do: question, harmful response, safe response, of which the last attends to the question
and the harmful prefix through a mask, at the positions that follow them. Triples have random tokens, with lengths as in
`LENGTHS`; a micro-batch of them goes forward and backward through SmolLM2-135M in both ways by turns, with float32
weights and products in bfloat16. Both losses are the same but for rounding, which is checked. On a GPU or a CPU.

In a mixture, only the triples gain; the last line says what that comes to in the paper's (3,000 triples and 60,000
helpful rows) and in the profile ``study``, all rows counted as of these lengths.
"""

import random
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from derta import models, objective
from derta.commands.profiles import read_profile
from derta.objective import IGNORE

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDS, TRIPLES = 8, 4
# Tokens, from and to, each length as likely as the other.
LENGTHS = {"question": (15, 60), "safe": (20, 120), "harmful": (50, 600), "helpful": (30, 700)}
REFUSAL = 99
Triple = tuple[list[int], list[int], list[int], int]


def triple(rng: random.Random) -> Triple:
    """Draw a question, a safe and a harmful response as token ids, and a prefix length."""
    question, safe, harmful = (
        [rng.randrange(REFUSAL + 1, 1000) for _ in range(rng.randint(*LENGTHS[part]))]
        for part in ("question", "safe", "harmful")
    )
    return question, safe, harmful, rng.randint(0, len(harmful))


def terms(made: Triple) -> list[objective.Row]:
    """Return the two rows of a triple."""
    question, safe, harmful, k = made
    refusals = [REFUSAL] * len(harmful)
    return [
        objective.harmful_prefix(question, harmful, safe, k),
        objective.rto(question, harmful, refusals, [True] * len(harmful)),
    ]


def filled(rows: list[list[int]], value: int) -> torch.Tensor:
    """Pad rows on the right, [rows, positions]."""
    tensors = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value).to(DEVICE)


def two_rows(model: PreTrainedModel, triples: list[Triple]) -> torch.Tensor:
    """Return the loss of both terms, summed over their labels, with gradients: the rows in two batches by length."""
    made = sorted((row for each in triples for row in terms(each)), key=lambda row: -len(row["input_ids"]))
    total = torch.zeros((), device=DEVICE)
    for part in (made[: len(triples)], made[len(triples) :]):
        labels = filled([row["labels"][1:] for row in part], IGNORE)
        mask = filled([[1] * len(row["input_ids"]) for row in part], 0)
        hidden = model.model(filled([row["input_ids"] for row in part], 0), attention_mask=mask, use_cache=False)
        asked = labels != IGNORE
        logits = model.lm_head(hidden.last_hidden_state[:, :-1][asked])
        loss = functional.cross_entropy(logits.float(), labels[asked], reduction="sum")
        loss.backward()
        total += loss.detach()
    return total


def read_once(model: PreTrainedModel, triples: list[Triple]) -> torch.Tensor:
    """Return the same loss, with gradients, from one row a triple."""
    ids = filled([question + harmful + safe for question, safe, harmful, _ in triples], 0)
    places, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=DEVICE).tril().repeat(len(triples), 1, 1, 1)
    last, firsts = [], []
    for row, (question, safe, harmful, k) in enumerate(triples):
        q, h, r = len(question), len(harmful), len(safe)
        places[row, : q + h + r] = torch.tensor([*range(q + h), *range(q + k, q + k + r)])
        mask[row, 0, q + h :, q + k : q + h] = False
        labels[row, q - 1 : q + h - 1] = REFUSAL
        labels[row, q + h : q + h + r - 1] = torch.tensor(safe[1:])
        # The last token of the prefix has a second label: the first token of the safe response.
        last.append(q + k - 1)
        firsts.append(safe[0])
    hidden = model.model(ids, attention_mask=mask, position_ids=places, use_cache=False).last_hidden_state
    asked = labels != IGNORE
    logits = model.lm_head(torch.cat([hidden[asked], hidden[range(len(triples)), last]]))
    targets = torch.cat([labels[asked], torch.tensor(firsts, device=DEVICE)])
    loss = functional.cross_entropy(logits.float(), targets, reduction="sum")
    loss.backward()
    return loss.detach()


WAYS: dict[str, Callable[[PreTrainedModel, list[Triple]], torch.Tensor]] = {
    "two rows": two_rows,
    "read once": read_once,
}


def timed(way: str, model: PreTrainedModel, triples: list[Triple]) -> tuple[float, float]:
    """Return a way's loss, and the seconds that it and its gradients take."""
    start = time.perf_counter()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=models.inference_dtype() == torch.bfloat16):
        loss = float(WAYS[way](model, triples))  # waits for the GPU
    seconds = time.perf_counter() - start
    model.zero_grad()
    return loss, seconds


def gain(once: float, triples: int, others: int) -> float:
    """Return the time of a mixture with triples read once, as a share of that with two rows each."""
    middle = {part: sum(limits) / 2 for part, limits in LENGTHS.items()}
    both = triples * (2 * middle["question"] + 1.5 * middle["harmful"] + middle["safe"])
    return 1 - (1 - once) * both / (both + others * (middle["question"] + middle["helpful"]))


def main(base: str = "smollm2-135m", rounds: int = ROUNDS) -> None:
    """Print each round's seconds, their ratio, and what it comes to in a mixture."""
    model, rng = models.load(base, dtype=torch.float32, device=DEVICE).model.train(), random.Random(0)
    ratios = []
    for turn in range(rounds + 1):
        triples = [triple(rng) for _ in range(TRIPLES)]
        (apart, slow), (together, quick) = (timed(way, model, triples) for way in WAYS)
        if abs(together / apart - 1) > 0.01:
            raise ValueError(f"the losses differ: {apart:.2f} and {together:.2f}")
        if turn:  # the first warms up
            ratios.append(quick / slow)
            print(f"{turn} of {rounds}: two rows {slow:.2f} s, read once {quick:.2f} s", flush=True)
    once, study = statistics.median(ratios), read_profile("study")
    others = sum(study[name] for name in ("twins", "plain", "instructions"))
    print(f"{base}: a triple read once takes {once:.2f} of the time of its two rows")
    mixtures = {"the paper": (3_000, 60_000), "the study": (study["triples"], others)}
    print("; ".join(f"in the mixture of {of}, {gain(once, *numbers):.2f} of all" for of, numbers in mixtures.items()))


if __name__ == "__main__":
    main()
