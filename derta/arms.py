"""Triples and helpful data → the dataset of one arm, labels and order included.

An arm is what a model is tuned on. All arms share the helpful data; they differ in what becomes of a triple
(q, r, r̂), which counts as two instances (arXiv 2407.09121, Section 4.1 and Table 4; RecAug and DPO after the released
results):

================== ======================================= ===================================
arm                of each triple                          the paper's safety data
================== ======================================= ===================================
``vanilla``        two (q, r)                              6K (q, r)
``vanilla_half``   one (q, r)                              3K (q, r)
``harmful_prefix`` one (q, r̂_<k → r)                       3K (q, r̂_<k → r)
``rto``            one (q, r), one RTO (q, r̂)              3K (q, r) + 3K RTO
``derta``          one (q, r̂_<k → r), one RTO (q, r̂)       3K (q, r̂_<k → r) + 3K RTO
``recaug``         two (q, r̂_<k → r)                       6K (q, r̂_<k → r)
``dpo``            one pair, r chosen and r̂ rejected       3K pairs, for one epoch after vanilla
================== ======================================= ===================================

One relabelled copy of the data is written per epoch, with its own prefix lengths and its own label dropout, in the
order in which a trainer reads it in one pass. Where two arms have the same row of a triple, they have it with the same
prefix length and the same dropout.
"""

import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from derta import models, objective
from derta.encode import DatasetSettings, Encoder, LeftOut
from derta.files import write_atomically
from derta.material import Example, Material, Triple
from derta.objective import IGNORE, Row
from derta.runs import digest, set_aside

# What becomes of a triple. `again` is its second (q, r).
ARMS = {
    "vanilla": ("safety", "again"),
    "vanilla_half": ("safety",),
    "harmful_prefix": ("prefix",),
    "rto": ("safety", "rto"),
    "derta": ("prefix", "rto"),
    "recaug": ("prefix", "prefix"),
    "dpo": ("pair",),
}

IDS = List(Value("int32"))
ABOUT = {"kind": Value("string"), "behaviour_id": Value("string"), "epoch": Value("int32")}
ROW = Features({"input_ids": IDS, "labels": IDS} | ABOUT)
PAIR = Features({"prompt_ids": IDS, "chosen_ids": IDS, "rejected_ids": IDS} | ABOUT)


@dataclass
class Instance:
    """What a row is made of: token ids of the rendered query, of a response or prefix given without labels, and of the
    response to be learned; for a pair also the rejected one."""

    kind: str
    behaviour_id: str
    query: str
    prompt: Sequence[int]
    target: Sequence[int]
    given: Sequence[int] = ()
    rejected: Sequence[int] | None = None
    cut: bool = False
    plain: bool = False


@dataclass
class Summary:
    """What became of the data, over all epochs: per kind the rows, tokens, labels and rows that were cut; and what was
    left out, by reason."""

    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def count(self, kind: str, tokens: int, labels: int, cut: bool) -> None:
        counts = self.kinds.setdefault(kind, {"rows": 0, "tokens": 0, "labels": 0, "cut": 0})
        for name, number in (("rows", 1), ("tokens", tokens), ("labels", labels), ("cut", cut)):
            counts[name] += number


def helpful(example: Example, encode: Encoder, pair: bool, rng: random.Random) -> Instance:
    """A benign request and its answer; in a pair, the answer of a weaker model is rejected."""
    prompt = encode.prompt(example.prompt, example.plain)
    room = encode.room(prompt)
    target = encode.response(example.response, finished=example.finished, plain=example.plain)
    instance = Instance(
        "helpful",
        example.behaviour_id,
        example.prompt,
        prompt,
        target[:room],
        cut=len(target) > room,
        plain=example.plain,
    )
    if pair:
        if not example.weak:
            raise LeftOut("no weaker response to reject")
        instance.rejected = encode.response(example.weak, finished=example.weak_finished)[:room]
    return instance


def safety(part: str, triple: Triple, encode: Encoder, rng: random.Random) -> Instance:
    """One of the instances (see `ARMS`) that an arm makes of a triple; a triple with an empty text has none in any arm,
    so that arms stay comparable."""
    query, refusal = triple.again if part == "again" else (triple.query, triple.safe)
    prompt = encode.prompt(query)
    room = encode.room(prompt)
    safe = encode.response(refusal, finished=True)
    harmful = encode.response(triple.harmful, finished=triple.finished)
    if part in ("safety", "again"):
        return Instance("safety", triple.behaviour_id, query, prompt, safe[:room], cut=len(safe) > room)
    if part == "rto":
        return Instance("rto", triple.behaviour_id, query, prompt, harmful[:room], cut=len(harmful) > room)
    if part == "pair":
        cut = max(len(safe), len(harmful)) > room
        return Instance("safety", triple.behaviour_id, query, prompt, safe[:room], rejected=harmful[:room], cut=cut)
    before = max(room - len(safe), 0)
    harmful = encode.response(triple.harmful, finished=False)
    cut = len(harmful) > before or len(safe) > room
    if encode.settings.prefix_unit == "words":
        words = triple.harmful.strip().split(" ")
        number = 0 if rng.random() < 1 / 3 else rng.randint(1, max(len(words) - 2, 1))
        given = encode.lm.ids(" ".join(words[:number]))[:before] if number else []
    else:
        given = harmful[: rng.randint(0, min(len(harmful), before))]
    return Instance("prefix", triple.behaviour_id, query, prompt, safe[:room], given=given, cut=cut)


def label(instance: Instance, refusal_id: int, dropout: float, rng: random.Random) -> Row:
    """The row of an instance: `input_ids` and `labels` or, for a pair, what TRL's `DPOTrainer` collates."""
    if instance.rejected is not None:
        return {
            "prompt_ids": list(instance.prompt),
            "chosen_ids": list(instance.target),
            "rejected_ids": list(instance.rejected),
        }
    if instance.kind == "rto":
        keep = [rng.random() >= dropout for _ in instance.target]
        # A trainer would drop a row that has no label.
        keep[rng.randrange(len(keep))] |= not any(keep)
        return objective.rto(instance.prompt, instance.target, refusal_id, keep)
    if instance.given:
        return objective.harmful_prefix(instance.prompt, instance.given, instance.target, len(instance.given))
    return objective.supervised(instance.prompt, instance.target)


Make = Callable[[random.Random], Instance]


def generator(settings: DatasetSettings, epoch: int, name: str) -> random.Random:
    """The random numbers of one instance (prefix length, label dropout) in one epoch, whatever else is made."""
    return random.Random(f"{settings.seed} {epoch} {name}")


def instances(arm: str, material: Material, encode: Encoder) -> list[tuple[str, Make]]:
    """The arm's instances, each with a name that is the same in every arm and a function that makes it.

    Raises:
        ValueError: an unknown arm, or an id that comes twice.
    """
    if arm not in ARMS:
        raise ValueError(f"unknown arm {arm!r}; expected one of {', '.join(ARMS)}")
    parts = ARMS[arm]
    made: list[tuple[str, Make]] = [
        (f"helpful/{example.id}", partial(helpful, example, encode, parts == ("pair",))) for example in material.helpful
    ]
    for triple in material.triples:
        for i, part in enumerate(parts):
            name = f"{part}/{triple.id}/{parts[:i].count(part)}"
            made.append((name, partial(safety, part, triple, encode)))
    if twice := [name for name, n in Counter(name for name, _ in made).items() if n > 1]:
        raise ValueError(f"the id of {twice[0]!r} is not unique; give each triple and each example its own")
    return made


def build(arm: str, material: Material, model: str, folder: Path | str, **settings: Any) -> Path:
    """Write the dataset of an arm into `folder`, and return it.

    Args:
        arm: one of `ARMS`.
        material: see `derta.material.embedded_material` and `derta.material.own_material`.
        model: the name or folder of the model to be tuned, for its tokenizer and chat format.
        settings: see `DatasetSettings`.

    Raises:
        ValueError: see `DatasetSettings`, `instances` and `write`.
    """
    encode = Encoder(models.load_tokenizer(model), DatasetSettings(**settings))
    write(instances(arm, material, encode), encode, Path(folder))
    return Path(folder)


def write(planned: Sequence[tuple[str, Make]], encode: Encoder, folder: Path) -> Summary:
    """Write the rows of `instances` to `folder` in the order of training, and a ``summary.json`` beside them.

    Each row has `kind`, `behaviour_id` and `epoch`. Rows are made one optimiser step at a time, so memory holds the
    texts and their tokens, but no rows.

    Raises:
        ValueError: no instance has a row, or the folder holds other files than a dataset.
    """
    summary, settings = Summary(), encode.settings

    def rows() -> Iterator[dict[str, Any]]:
        order = (
            (epoch, *item)
            for epoch in range(settings.epochs)
            for item in random.Random(f"order {settings.seed} {epoch}").sample(planned, len(planned))
        )
        in_order = (row for epoch, name, make in order if (row := _row(name, make, epoch, encode, summary)))
        while step := list(islice(in_order, settings.batch_size)):
            yield from sorted(step, key=tokens, reverse=True)

    made_rows = rows()
    first = next(made_rows, None)
    if first is None:
        raise ValueError(f"{folder}: no row is left ({', '.join(summary.left_out)}); look at the data")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
        dataset = Dataset.from_generator(
            lambda: chain([first], made_rows),
            features=PAIR if "prompt_ids" in first else ROW,
            cache_dir=cache,
            fingerprint="derta",
        )
        made = Path(cache) / "made"
        dataset.save_to_disk(made)
        write_atomically(made / "summary.json", json.dumps(vars(summary), indent=1))
        _put(made, folder)
    return summary


def _put(made: Path, folder: Path) -> None:
    """Give a dataset its place; one with other rows that lies there is set aside, one with the same rows stays."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "summary.json").exists():
            raise ValueError(f"{folder}: holds files that are not a dataset of derta; choose another folder")
        new, old = (digest(*sorted(path.glob("data-*.arrow"))) for path in (made, folder))
        if new == old:
            return
        set_aside(folder, old, "its rows are other ones now")
    elif folder.exists():
        folder.rmdir()
    made.rename(folder)


def tokens(row: dict[str, Any]) -> int:
    """How many tokens a row holds; of a pair, the prompt once."""
    return sum(len(ids) for column, ids in row.items() if column.endswith("_ids"))


def _row(name: str, make: Make, epoch: int, encode: Encoder, summary: Summary) -> dict | None:
    """A row, counted; or None and why."""
    rng = generator(encode.settings, epoch, name)
    try:
        instance = make(rng)
    except LeftOut as reason:
        summary.left_out.setdefault(str(reason), []).append(f"{name} in epoch {epoch + 1}")
        return None
    row = label(instance, encode.refusal_id, encode.settings.rto_dropout, rng)
    labels = sum(label != IGNORE for label in row.get("labels", [*instance.target, *(instance.rejected or ())]))
    summary.count(instance.kind, tokens(row), labels, instance.cut)
    return row | {"kind": instance.kind, "behaviour_id": instance.behaviour_id, "epoch": epoch}
