"""The embedded corpus: behaviours with benign twins, and the forms in which they are asked and answered."""

from dataclasses import dataclass
from functools import cache

from derta.files import read_csv, read_jsonl
from derta.runs import DATA

RESPONSES = DATA / "responses"


@dataclass(frozen=True)
class Behaviour:
    """A mild misconduct as a verb phrase, and its benign twin: as close in wording as possible, clearly innocent.

    `twin` is ``close`` if both begin with the same verb and differ in a later word or two, otherwise ``loose``.
    """

    id: str
    split: str
    twin: str
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
class Response:
    """A response of the base model to `prompt`; `finished` tells whether it ended with an end of sequence."""

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
    """Innocent turns (alternating user and assistant), then a message that asks for a held-out behaviour or its twin.

    The last message is a user's; `harmful` and `benign` use the same words.
    """

    id: str
    behaviour_id: str
    turns: tuple[dict[str, str], ...]
    harmful: str
    benign: str


@cache
def behaviours(split: str = "") -> tuple[Behaviour, ...]:
    """Return the behaviours of ``train``, ``choice`` (held out for choosing settings), ``validation``, ``test`` or, by
    default, all, in the order of the file."""
    rows = read_csv(DATA / "behaviours.csv", ("id", "split", "twin", "category", "harmful", "benign"))
    return tuple(Behaviour(**row) for row in rows if split in ("", row["split"]))


@cache
def phrasings(split: str) -> tuple[str, ...]:
    """Return question templates with ``{do}`` for the verb phrase.

    The base model answered those of ``train``. Triples and twins are asked in those of ``train`` and ``reworded``. No
    model is trained on those of ``choice``, ``validation`` and ``test``.
    """
    return tuple(
        row["template"] for row in read_csv(DATA / "phrasings.csv", ("split", "template")) if row["split"] == split
    )


@cache
def openers() -> tuple[Opener, ...]:
    """Return openings of replies, used only in training data; attacks have their own."""
    return tuple(Opener(**row) for row in read_csv(DATA / "openers.csv", ("form", "template")))


@cache
def plain_prompts() -> tuple[str, ...]:
    """Return texts to be completed without any chat format, used only in helpful training data."""
    return tuple(row["template"] for row in read_csv(DATA / "plain.csv", ("template",)))


@cache
def instructions(split: str) -> tuple[Instruction, ...]:
    """Return ordinary benign instructions of ``train``, ``choice`` or ``validation``."""
    rows = read_csv(DATA / "instructions.csv", ("id", "split", "kind", "text"))
    return tuple(Instruction(**row) for row in rows if row["split"] == split)


@cache
def refusals(category: str) -> tuple[str, ...]:
    """Return the refusal texts that fit a category: its own and those for any category."""
    rows = read_csv(DATA / "refusals.csv", ("category", "text"))
    return tuple(row["text"] for row in rows if row["category"] in (category, "any"))


@cache
def exact_match() -> tuple[Question, ...]:
    """Return easy questions with one short answer: arithmetic, everyday knowledge, multiple choice."""
    rows = read_csv(DATA / "exact_match.csv", ("id", "kind", "question", "answer"))
    return tuple(Question(row["id"], row["kind"], row["question"], tuple(row["answer"].split("|"))) for row in rows)


@cache
def conversations() -> tuple[Conversation, ...]:
    """Return short conversations whose last turn asks for a held-out behaviour or its twin."""
    types = {"id": str, "behaviour_id": str, "turns": list, "harmful": str, "benign": str}
    rows = read_jsonl(DATA / "conversations.jsonl", types)
    return tuple(Conversation(**row | {"turns": tuple(row["turns"])}) for row in rows)


@cache
def responses(file: str) -> tuple[Response, ...]:
    """Return the base model's responses in ``data/responses/<file>.jsonl`` (made by ``tools/responses.py``)."""
    types = {"id": str, "behaviour_id": str, "form": str, "prompt": str, "response": str, "finished": bool}
    return tuple(Response(**row) for row in read_jsonl(RESPONSES / f"{file}.jsonl", types))
