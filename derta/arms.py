"""The arms: triples and helpful data → labelled instances.

An arm is the data that a model is tuned on. All arms share the helpful data; they differ in the instances that they
make of a triple (q, r, r̂), which counts as two (arXiv 2407.09121, Section 4.1 and Table 4; RecAug and DPO follow the
released results):

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

One more is an extension: ``derta_words`` draws the RTO label of each position from `derta.models.REFUSAL_WORDS`,
against an attacker who forbids one.

A row that two arms have in common has the same prefix length and the same label dropout in both.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from derta import objective
from derta.encode import DatasetSettings, Encoder, LeftOut
from derta.material import Example, Material, Triple
from derta.objective import Row

# The instances that an arm makes of a triple. `again` is its second (q, r).
ARMS = {
    "vanilla": ("safety", "again"),
    "vanilla_half": ("safety",),
    "harmful_prefix": ("prefix",),
    "rto": ("safety", "rto"),
    "derta": ("prefix", "rto"),
    "recaug": ("prefix", "prefix"),
    "dpo": ("pair",),
    "derta_words": ("prefix", "rto_words"),
}


@dataclass
class Instance:
    """A training instance before it becomes a row.

    `prompt` holds the token ids of the rendered query, `given` those of a response prefix without labels, `target`
    those of the response to learn and `rejected`, for a pair, those of the rejected response. `words` marks RTO labels
    that are drawn from several words.
    """

    kind: str
    behaviour_id: str
    query: str
    prompt: Sequence[int]
    target: Sequence[int]
    given: Sequence[int] = ()
    rejected: Sequence[int] | None = None
    words: bool = False
    cut: bool = False
    plain: bool = False


def helpful(example: Example, encode: Encoder, pair: bool, rng: random.Random) -> Instance:
    """Make the instance of a benign request and its answer; in a pair, the poorer answer is rejected."""
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
    """Make one of the instances (see `ARMS`) of a triple.

    A triple with an empty text has no instance in any arm, so that the arms stay comparable.
    """
    query, refusal = triple.again if part == "again" else (triple.query, triple.safe)
    prompt = encode.prompt(query)
    room = encode.room(prompt)
    safe = encode.response(refusal, finished=True)
    harmful = encode.response(triple.harmful, finished=triple.finished)
    if part in ("safety", "again"):
        return Instance("safety", triple.behaviour_id, query, prompt, safe[:room], cut=len(safe) > room)
    if part in ("rto", "rto_words"):
        return Instance(
            "rto",
            triple.behaviour_id,
            query,
            prompt,
            harmful[:room],
            words=part == "rto_words",
            cut=len(harmful) > room,
        )
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


def label(instance: Instance, encode: Encoder, rng: random.Random) -> Row:
    """Turn an instance into a row: `input_ids` and `labels`, or for a pair the columns that `DPOTrainer` collates."""
    if instance.rejected is not None:
        return {
            "prompt_ids": list(instance.prompt),
            "chosen_ids": list(instance.target),
            "rejected_ids": list(instance.rejected),
        }
    if instance.kind == "rto":
        keep = [rng.random() >= encode.settings.rto_dropout for _ in instance.target]
        # A trainer would drop a row that has no label.
        keep[rng.randrange(len(keep))] |= not any(keep)
        words = encode.refusal_ids if instance.words else [encode.refusal_id]
        return objective.rto(instance.prompt, instance.target, rng.choices(words, k=len(keep)), keep)
    if instance.given:
        return objective.harmful_prefix(instance.prompt, instance.given, instance.target, len(instance.given))
    return objective.supervised(instance.prompt, instance.target)


Make = Callable[[random.Random], Instance]


def generator(settings: DatasetSettings, epoch: int, name: str) -> random.Random:
    """Return the random generator of one instance in one epoch, for its prefix length and label dropout.

    It does not depend on any other instance.
    """
    return random.Random(f"{settings.seed} {epoch} {name}")


def instances(arm: str, material: Material, encode: Encoder) -> list[tuple[str, Make]]:
    """List the arm's instances, each with a name that is the same in every arm and a function that makes it.

    Raises:
        ValueError: an unknown arm, or an id that occurs twice.
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
