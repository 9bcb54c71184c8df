"""Material: the triples and helpful examples that arms are built from, out of the embedded corpus or your own data."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from derta.corpus import Response, behaviours, phrasings, refusals, responses
from derta.files import read_jsonl
from derta.generate import Backend, Case, Prompt, run, user


@dataclass(frozen=True)
class Triple:
    """A query q, a safe response r and a harmful response r̂ (Eq. 2).

    `again` is a second (q, r), for the arms that use two per triple; in the embedded corpus it asks for the same
    behaviour in other words and has another refusal. `finished` tells whether r̂ ended with an end of sequence.
    """

    id: str
    behaviour_id: str
    query: str
    safe: str
    harmful: str
    again: tuple[str, str]
    finished: bool = True


@dataclass(frozen=True)
class Example:
    """A benign prompt and its answer.

    `plain` texts are completed without any chat format. `weak` is a poorer answer, which preference training rejects.
    """

    id: str
    behaviour_id: str
    prompt: str
    response: str
    finished: bool = True
    plain: bool = False
    weak: str = ""
    weak_finished: bool = True


@dataclass(frozen=True)
class Material:
    """The data from which arms are built."""

    triples: tuple[Triple, ...]
    helpful: tuple[Example, ...]


def embedded_material(
    triples: int, twins: int, plain: int, instructions: int, seed: int, *, close: int | None = None
) -> Material:
    """Draw material from the training split of the embedded corpus.

    A triple and its twin are asked in the same phrasing, drawn from all training phrasings: a model tuned on only a few
    phrasings takes a new one to be harmless.

    Args:
        triples: number of triples; every behaviour is used once before any is used twice.
        twins: number of answers to benign twins in the helpful data, starting with the twins of the triples.
        plain: number of benign plain texts to complete.
        instructions: number of ordinary instructions.
        close: how many of the triples have a ``close`` twin (see `derta.corpus.Behaviour`); by default as they come.

    Raises:
        ValueError: the corpus holds fewer.
    """
    rng = random.Random(f"material {seed}")
    known = {behaviour.id: behaviour for behaviour in behaviours("train")}
    twin_of = {row.id.replace("-b", "-h"): row for row in responses("benign-train")}
    weak = {row.id: row for row in responses("weak-train")}
    rows = _rounds(responses("harmful-train"), rng)
    if close is not None:
        kinds = {kind: [row for row in rows if known[row.behaviour_id].twin == kind] for kind in ("close", "loose")}
        chosen = [*_take(kinds["close"], close, "close triples")]
        chosen += _take(kinds["loose"], triples - close, "loose triples")
        first = {row.id for row in chosen}
        rows = [*rng.sample(chosen, triples), *(row for row in rows if row.id not in first)]
    forms = phrasings("train") + phrasings("reworded")
    asked, again = {}, {}
    for row in rows:
        asked[row.id], again[row.id] = random.Random(f"phrasing {seed} {row.id}").sample(forms, 2)
    drawn = []
    for row in _take(rows, triples, "triples"):
        behaviour = known[row.behaviour_id]
        query, other = (form[row.id].replace("{do}", behaviour.harmful) for form in (asked, again))
        safe, refusal = rng.sample(refusals(behaviour.category), 2)
        drawn.append(Triple(row.id, behaviour.id, query, safe, row.response, (other, refusal), row.finished))
    helpful = []
    for row in _take(rows, twins, "twins"):
        query = asked[row.id].replace("{do}", known[row.behaviour_id].benign)
        helpful.append(replace(_example(twin_of[row.id], weak), prompt=query))
    for file, number in (("plain-train", plain), ("helpful-train", instructions)):
        shuffled = rng.sample(responses(file), len(responses(file)))
        helpful += [_example(row, weak) for row in _take(shuffled, number, f"rows of {file}")]
    return Material(tuple(drawn), tuple(helpful))


def with_weaker(material: Material, backend: Backend, path: Path, *, max_new_tokens: int, batch_size: int) -> Material:
    """Let a weaker model answer the helpful prompts, for `dpo` to reject (arXiv 2407.09121, Figure 5).

    Args:
        path: the JSON Lines file of the answers, from which a killed run resumes.
        max_new_tokens, batch_size: see `derta.generate.run`.
    """
    asked = [
        Case(e.id, e.behaviour_id, "weaker", False, 0, Prompt((), e.prompt) if e.plain else user(e.prompt))
        for e in material.helpful
    ]
    run(backend, asked, path, max_new_tokens=max_new_tokens, batch_size=batch_size)
    rows = {row["case_id"]: row for row in read_jsonl(path)}
    answered = (
        replace(e, weak=rows[e.id]["completion"], weak_finished=rows[e.id]["finish_reason"] == "stop")
        for e in material.helpful
    )
    return replace(material, helpful=tuple(answered))


Rows = Iterable[dict[str, str]] | Path | str


def own_material(triples: Rows, helpful: Rows = ()) -> Material:
    """Build material from your own triples and helpful examples, given as dicts or as JSON Lines files.

    Args:
        triples: each with ``query``, ``safe`` and ``harmful``, and optionally ``behaviour_id``. Arms that use two (q,
            r) of a triple get the same one twice.
        helpful: each with ``prompt`` and ``response``, and for the arm ``dpo`` a poorer answer, ``weak``.

    Raises:
        ValueError: a row lacks a field, or a field has another type; the message names the source and the row.
    """
    made = []
    for number, row in enumerate(_rows(triples, "triples", ("query", "safe", "harmful"))):
        id = f"triple-{number}"
        again = (row["query"], row["safe"])
        made.append(Triple(id, row.get("behaviour_id", id), row["query"], row["safe"], row["harmful"], again))
    examples = [
        Example(f"example-{number}", "", row["prompt"], row["response"], weak=row.get("weak", ""))
        for number, row in enumerate(_rows(helpful, "helpful examples", ("prompt", "response")))
    ]
    return Material(tuple(made), tuple(examples))


def _rows(given: Rows, what: str, fields: tuple[str, ...]) -> Iterator[dict[str, str]]:
    if isinstance(given, Path | str):
        yield from read_jsonl(Path(given), dict.fromkeys(fields, str))
        return
    for number, row in enumerate(given, start=1):
        if missing := [name for name in fields if not isinstance(row.get(name), str)]:
            raise ValueError(f"{what}, row {number}: no text under {', '.join(missing)}")
        yield row


def _rounds(rows: Sequence[Response], rng: random.Random) -> list[Response]:
    """Shuffle `rows` so that every behaviour comes once before any comes twice."""
    shuffled = rng.sample(rows, len(rows))
    turns: Counter[str] = Counter()
    numbered = []
    for row in shuffled:
        numbered.append((turns[row.behaviour_id], row))
        turns[row.behaviour_id] += 1
    return [row for _, row in sorted(numbered, key=lambda item: item[0])]


def _take(rows: Sequence[Response], number: int, what: str) -> Sequence[Response]:
    if number > len(rows):
        raise ValueError(f"{number} {what} asked for, but the corpus holds {len(rows)}")
    return rows[:number]


def _example(row: Response, weak: dict[str, Response]) -> Example:
    example = Example(row.id, row.behaviour_id, row.prompt, row.response, row.finished, row.form == "plain")
    if row.id in weak:
        example = replace(example, weak=weak[row.id].response, weak_finished=weak[row.id].finished)
    return example
