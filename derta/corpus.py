"""The embedded corpus: behaviours with benign twins, the forms they are asked and answered in, and triples."""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Request:
    """One thing to ask for, in the forms an attack may need: a verb phrase and a full question."""

    id: str
    category: str
    do: str
    question: str


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
class Triple:
    """(q, r, r̂) of Eq. 2 with the benign twin's answer in the same form."""

    behaviour: Behaviour
    harmful: Response
    benign: Response
    refusal: str


@cache
def behaviours(split: str = "") -> tuple[Behaviour, ...]:
    """The behaviours of ``train``, ``test`` or, by default, both, in the order of the file."""
    rows = read_csv(DATA / "behaviours.csv", ("id", "split", "category", "harmful", "benign"))
    return tuple(Behaviour(**row) for row in rows if split in ("", row["split"]))


@cache
def phrasings(split: str) -> tuple[str, ...]:
    """Question templates with ``{do}`` for the verb phrase; those of ``test`` are never trained on."""
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
def responses(file: str) -> tuple[Response, ...]:
    """The base model's responses in ``data/responses/<file>.jsonl`` (see `derta.responses`)."""
    fields = ("id", "behaviour_id", "form", "prompt", "response", "finished")
    return tuple(Response(**row) for row in read_jsonl(RESPONSES / f"{file}.jsonl", fields))
