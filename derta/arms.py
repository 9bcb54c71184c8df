"""Triples → the dataset of one arm, labels and order included.

An arm is what a model is tuned on. All arms share the helpful data; they differ in their safety data, where one triple
(q, r, r̂) counts as two instances (arXiv 2407.09121, Section 4.1):

============ =====================================
arm          safety data per triple
============ =====================================
``vanilla``  two (q, r)
``derta``    one (q, r̂_<k → r), one RTO (q, r̂)
============ =====================================

One relabelled copy of the data is written per epoch, with its own prefix lengths and its own label dropout, in the
order in which a trainer reads it in one pass.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from derta import objective
from derta.corpus import Triple, behaviours, phrasings, refusals, responses
from derta.models import LM
from derta.objective import IGNORE, Row
from derta.runs import write_atomically

ARMS = ("vanilla", "derta")


@dataclass(frozen=True)
class Example:
    """A prompt and its answer as text; `plain` texts are completed without any chat format."""

    prompt: str
    response: str
    finished: bool = True
    plain: bool = False


@dataclass(frozen=True)
class Settings:
    """How an arm's dataset is made.

    Attributes:
        triples: how many (q, r, r̂); each brings its benign twin as a helpful row.
        plain: how many benign plain texts to complete.
        instructions: how many ordinary instructions.
        epochs: relabelled copies, written one after the other.
        rto_dropout: share of RTO labels dropped, drawn anew per epoch (the paper: 0.95 with full fine-tuning).
        max_response_tokens: longer responses are cut there, and counted.
        batch_size: rows per optimiser step; within a step, rows are sorted by length to save padding.
    """

    triples: int
    plain: int
    instructions: int
    epochs: int
    rto_dropout: float
    max_response_tokens: int
    batch_size: int
    seed: int


def triples(number: int, seed: int) -> list[Triple]:
    """Draw triples from the training behaviours, every behaviour once before any comes twice.

    Raises:
        ValueError: the corpus holds fewer.
    """
    rng = random.Random(f"triples {seed}")
    benign = {row.id: row for row in responses("benign-train")}
    by_behaviour: dict[str, list] = {}
    for row in responses("harmful-train"):
        twin = row.id.replace("-h", "-b")
        if twin in benign:
            by_behaviour.setdefault(row.behaviour_id, []).append((row, benign[twin]))
    known = {behaviour.id: behaviour for behaviour in behaviours("train")}
    rounds = []
    for turn in range(max(map(len, by_behaviour.values()))):
        ids = [id for id, pairs in by_behaviour.items() if len(pairs) > turn]
        rounds += [(id, *by_behaviour[id][turn]) for id in rng.sample(ids, len(ids))]
    if number > len(rounds):
        raise ValueError(f"{number} triples asked for, but the corpus holds {len(rounds)}")
    return [
        Triple(known[id], harmful, twin, rng.choice(refusals(known[id].category)))
        for id, harmful, twin in rounds[:number]
    ]


def helpful(settings: Settings) -> list[Example]:
    """Helpful data other than the twins: plain texts to complete, and ordinary instructions."""
    rng = random.Random(f"helpful {settings.seed}")
    examples = []
    for file, number in (("plain-train", settings.plain), ("helpful-train", settings.instructions)):
        rows = responses(file)
        if number > len(rows):
            raise ValueError(f"{number} rows of {file} asked for, but the corpus holds {len(rows)}")
        for row in rng.sample(rows, number):
            examples.append(Example(row.prompt, row.response, row.finished, row.form == "plain"))
    return examples


class Encoder:
    """Texts → token ids for one model, cutting and counting what is too long."""

    def __init__(self, lm: LM, max_response_tokens: int):
        self.lm, self.limit = lm, max_response_tokens
        self.refusal_id = lm.refusal_id()
        self.cut = 0

    def __call__(self, example: Example) -> tuple[list[int], list[int]]:
        """Prompt and response ids; the end of sequence follows a response that ended by itself and was not cut.

        Raises:
            ValueError: an empty response.
        """
        prompt = self.lm.plain(example.prompt) if example.plain else self.lm.chat(example.prompt)
        response = example.response.rstrip() if example.plain else example.response.strip()
        if not response:
            raise ValueError(f"the response to {example.prompt[:60]!r} is empty; draw it again or delete the row")
        if example.plain and not response[0].isspace() and not prompt[-1].isspace():
            response = " " + response
        ids = self.lm.ids(response)
        if len(ids) > self.limit:
            self.cut += 1
            return self.lm.ids(prompt), ids[: self.limit]
        return self.lm.ids(prompt), ids + [self.lm.tokenizer.eos_token_id] * example.finished


def safety_rows(
    arm: str, triple: Triple, encode: Encoder, dropout: float, rng: random.Random
) -> Iterator[tuple[str, Row]]:
    """The two safety instances (kind, row) that `arm` makes of a triple."""
    prompt, safe = encode(Example(triple.harmful.prompt, triple.refusal))
    if arm == "vanilla":
        yield "safety", objective.supervised(prompt, safe)
        phrasing = rng.choice(phrasings("train")).replace("{do}", triple.behaviour.harmful)
        refusal = rng.choice(refusals(triple.behaviour.category))
        yield "safety", objective.supervised(*encode(Example(phrasing, refusal)))
    elif arm == "derta":
        _, harmful = encode(Example(triple.harmful.prompt, triple.harmful.response, finished=False))
        yield "prefix", objective.harmful_prefix(prompt, harmful, safe, rng.randint(0, len(harmful)))
        keep = [rng.random() >= dropout for _ in harmful]
        keep[rng.randrange(len(keep))] |= not any(keep)
        yield "rto", objective.rto(prompt, harmful, encode.refusal_id, keep)
    else:
        raise ValueError(f"unknown arm {arm!r}; expected one of {', '.join(ARMS)}")


def build(lm: LM, arm: str, settings: Settings) -> tuple[Dataset, dict]:
    """The rows of `arm` with `input_ids`, `labels`, `kind`, `behaviour_id` and `epoch`, in the order of training, and a
    summary: per kind the rows, tokens and labels of all epochs, and how many responses were cut."""
    encode = Encoder(lm, settings.max_response_tokens)
    drawn = triples(settings.triples, settings.seed)
    shared = [("", encode(example)) for example in helpful(settings)]
    for triple in drawn:
        twin = triple.benign
        shared.append((triple.behaviour.id, encode(Example(twin.prompt, twin.response, twin.finished))))
    rows = []
    for epoch in range(settings.epochs):
        rng = random.Random(f"{arm} {settings.seed} {epoch}")
        copy = [(objective.supervised(*ids), "helpful", behaviour_id) for behaviour_id, ids in shared]
        for triple in drawn:
            for kind, row in safety_rows(arm, triple, encode, settings.rto_dropout, rng):
                copy.append((row, kind, triple.behaviour.id))
        rng.shuffle(copy)
        for start in range(0, len(copy), settings.batch_size):
            step = sorted(copy[start : start + settings.batch_size], key=lambda item: -len(item[0]["input_ids"]))
            rows += [row | {"kind": kind, "behaviour_id": id, "epoch": epoch} for row, kind, id in step]
    return Dataset.from_list(rows), summarise(rows, encode.cut)


def summarise(rows: Sequence[dict], cut: int) -> dict:
    """Counts per kind over all epochs: rows, tokens, labelled positions."""
    summary: dict = {"responses_cut": cut, "kinds": {}}
    for row in rows:
        counts = summary["kinds"].setdefault(row["kind"], {"rows": 0, "tokens": 0, "labels": 0})
        counts["rows"] += 1
        counts["tokens"] += len(row["input_ids"])
        counts["labels"] += sum(label != IGNORE for label in row["labels"])
    return summary


def save(dataset: Dataset, summary: dict, folder: Path) -> None:
    """Write an arm's dataset with its summary beside it."""
    dataset.save_to_disk(folder)
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1))
