"""The embedded corpus: behaviours with benign twins, the forms they are asked and answered in, and draws from it."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from derta.runs import DATA, read_csv, read_jsonl

RESPONSES = DATA / "responses"


@dataclass(frozen=True)
class Behaviour:
    """A mild misconduct as a verb phrase, and its benign twin: as near in wording as can be, clearly innocent."""

    id: str
    split: str
    category: str
    harmful: str
    benign: str


@dataclass(frozen=True)
class Instruction:
    """An ordinary benign instruction."""

    id: str
    split: str
    kind: str
    text: str


@dataclass(frozen=True)
class Opener:
    """The first words of a started reply; `form` is prose, steps, list, story or code."""

    form: str
    template: str


# A reply that was not started.
FREE = Opener("free", "")


@dataclass(frozen=True)
class Request:
    """One thing to ask for, in the forms an attack may need: a verb phrase (or the question again) and a full question;
    for some also the turns of a conversation before it, or a response that complies."""

    id: str
    category: str
    do: str
    question: str
    turns: tuple[dict[str, str], ...] = ()
    response: str = ""


@dataclass(frozen=True)
class Response:
    """A response of the base model to `prompt`; `finished` tells whether it ended by itself."""

    id: str
    behaviour_id: str
    form: str
    prompt: str
    response: str
    finished: bool


@dataclass(frozen=True)
class Question:
    """A question with one exact answer; `answers` holds its accepted spellings."""

    id: str
    kind: str
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Conversation:
    """Innocent turns (alternating user and assistant) and a last message of the user's that asks for a held-out
    behaviour (`harmful`) or, in the same words, for its twin (`benign`)."""

    id: str
    behaviour_id: str
    turns: tuple[dict[str, str], ...]
    harmful: str
    benign: str


@dataclass(frozen=True)
class Triple:
    """(q, r, r̂) of Eq. 2, and for arms that make two (q, r) of a triple the second one, `again`: in the embedded corpus
    the query in other words with another refusal. `finished` tells whether r̂ ended by itself."""

    id: str
    behaviour_id: str
    query: str
    safe: str
    harmful: str
    again: tuple[str, str]
    finished: bool = True


@dataclass(frozen=True)
class Example:
    """A benign prompt and its answer. `plain` texts are completed without any chat format; `weak` is the answer of a
    weaker model, which preference training rejects."""

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
    """What the arms are made of."""

    triples: tuple[Triple, ...]
    helpful: tuple[Example, ...]


@cache
def behaviours(split: str = "") -> tuple[Behaviour, ...]:
    """The behaviours of ``train``, ``test`` or, by default, both, in the order of the file."""
    rows = read_csv(DATA / "behaviours.csv", ("id", "split", "category", "harmful", "benign"))
    return tuple(Behaviour(**row) for row in rows if split in ("", row["split"]))


@cache
def phrasings(split: str) -> tuple[str, ...]:
    """Question templates with ``{do}`` for the verb phrase: the base model answered those of ``train``, triples and
    twins are asked in those of ``train`` and ``reworded``, and those of ``test`` are never trained on."""
    return tuple(
        row["template"] for row in read_csv(DATA / "phrasings.csv", ("split", "template")) if row["split"] == split
    )


@cache
def openers() -> tuple[Opener, ...]:
    """Openings of replies, used in training data only; attacks have their own."""
    return tuple(Opener(**row) for row in read_csv(DATA / "openers.csv", ("form", "template")))


@cache
def plain_prompts() -> tuple[str, ...]:
    """Texts to be completed without any chat format, used in helpful training data only."""
    return tuple(row["template"] for row in read_csv(DATA / "plain.csv", ("template",)))


@cache
def instructions(split: str) -> tuple[Instruction, ...]:
    """Ordinary benign instructions of ``train`` or ``test``."""
    rows = read_csv(DATA / "instructions.csv", ("id", "split", "kind", "text"))
    return tuple(Instruction(**row) for row in rows if row["split"] == split)


@cache
def borderline() -> tuple[Request, ...]:
    """Benign questions that sound bad, in the spirit of XSTest (arXiv 2308.01263)."""
    rows = read_csv(DATA / "borderline.csv", ("id", "type", "text"))
    return tuple(Request(row["id"], row["type"], row["text"], row["text"]) for row in rows)


@cache
def refusals(category: str) -> tuple[str, ...]:
    """Refusal texts that fit a category: its own and those for any."""
    rows = read_csv(DATA / "refusals.csv", ("category", "text"))
    return tuple(row["text"] for row in rows if row["category"] in (category, "any"))


@cache
def exact_match() -> tuple[Question, ...]:
    """Easy questions with one short answer: arithmetic, everyday knowledge, multiple choice."""
    rows = read_csv(DATA / "exact_match.csv", ("id", "kind", "question", "answer"))
    return tuple(Question(row["id"], row["kind"], row["question"], tuple(row["answer"].split("|"))) for row in rows)


@cache
def conversations() -> tuple[Conversation, ...]:
    """Short conversations whose last turn asks for a held-out behaviour or its twin."""
    types = {"id": str, "behaviour_id": str, "turns": list, "harmful": str, "benign": str}
    rows = read_jsonl(DATA / "conversations.jsonl", types)
    return tuple(Conversation(**row | {"turns": tuple(row["turns"])}) for row in rows)


@cache
def responses(file: str) -> tuple[Response, ...]:
    """The base model's responses in ``data/responses/<file>.jsonl`` (see `derta.responses`)."""
    types = {"id": str, "behaviour_id": str, "form": str, "prompt": str, "response": str, "finished": bool}
    return tuple(Response(**row) for row in read_jsonl(RESPONSES / f"{file}.jsonl", types))


def material(triples: int, twins: int, plain: int, instructions: int, seed: int) -> Material:
    """Draw what an arm is made of from the embedded corpus.

    A triple and its twin are asked in the same phrasing, drawn from all training phrasings: a model that is tuned on
    few of them takes a new one for harmless.

    Args:
        triples: how many; every behaviour comes once before any comes twice.
        twins: how many answers to benign twins among the helpful data, first those in the same form as the triples.
        plain: how many benign plain texts to complete.
        instructions: how many ordinary instructions.

    Raises:
        ValueError: the corpus holds fewer.
    """
    rng = random.Random(f"material {seed}")
    known = {behaviour.id: behaviour for behaviour in behaviours("train")}
    twin_of = {row.id.replace("-b", "-h"): row for row in responses("benign-train")}
    weak = {row.id: row for row in responses("weak-train")}
    rows = _rounds(responses("harmful-train"), rng)
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
        rows = responses(file)
        helpful += [_example(row, weak) for row in _take(rng.sample(rows, len(rows)), number, f"rows of {file}")]
    return Material(tuple(drawn), tuple(helpful))


def _rounds(rows: Sequence[Response], rng: random.Random) -> list[Response]:
    """`rows` in random order, but every behaviour once before any twice."""
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
