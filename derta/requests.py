"""Requests: the questions of an evaluation, on behaviours and in phrasings that no model is trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from derta import corpus
from derta.files import read_csv
from derta.generate import Prompt
from derta.runs import DATA

# The splits of the corpus on which models are evaluated.
EVALUATION = ("validation", "test")


@dataclass(frozen=True)
class Request:
    """One request, in the forms that attacks may need.

    Attributes:
        do: the behaviour as a verb phrase; the question again if there is none.
        question: the full question.
        turns: the turns of a conversation before the question.
        response: a compliant response, for attacks that use a part of it.
        split: the split of the corpus that it is of, or the published source; ``own`` if it is of none.
        prompts: the prompts that were published with it, by attack; an attack uses its own for the others.
    """

    id: str
    category: str
    do: str
    question: str
    turns: tuple[dict[str, str], ...] = ()
    response: str = ""
    split: str = "own"
    prompts: Mapping[str, Prompt] = field(default_factory=dict)


def of_split(split: str, benign: bool) -> list[Request]:
    """Return the behaviours of a split, or their benign twins, each in one of the split's phrasings.

    A behaviour and its twin share position and phrasing, so that an attack and its control are paired.
    """
    forms = corpus.phrasings(split)
    asked = [(b, b.benign if benign else b.harmful) for b in corpus.behaviours(split)]
    return [
        Request(b.id, b.category, do, forms[i % len(forms)].replace("{do}", do), split=split)
        for i, (b, do) in enumerate(asked)
    ]


def held_out(benign: bool) -> list[Request]:
    """Return the behaviours of all `EVALUATION` splits, or their benign twins; see `of_split`."""
    return [request for split in EVALUATION for request in of_split(split, benign)]


def held_out_conversations(benign: bool) -> list[Request]:
    """Return innocent conversations whose last turn asks for a held-out behaviour, or for its twin.

    A behaviour without a conversation of its own comes at the end of another's, on another topic.
    """
    phrases, conversations = {b.id: b.harmful for b in corpus.behaviours()}, corpus.conversations()
    own, found = {c.behaviour_id: c for c in conversations}, []
    for number, request in enumerate(held_out(benign)):
        conversation = own.get(request.id, conversations[number % len(conversations)])
        question = conversation.harmful.replace(phrases[conversation.behaviour_id], request.do)
        found.append(replace(request, question=question, turns=conversation.turns))
    return found


def held_out_responses(benign: bool) -> list[Request]:
    """Return the held-out behaviours, or their twins, for which the corpus has a long response, with that response."""
    of = {request.id: request for request in held_out(benign)}
    return [
        replace(of[row.behaviour_id], question=row.prompt, response=row.response)
        for split in EVALUATION
        for row in corpus.responses(f"{'benign' if benign else 'harmful'}-{split}")
    ]


def instructions(benign: bool = True) -> list[Request]:
    """Return the held-out ordinary instructions."""
    return [Request(i.id, i.kind, i.text, i.text, split="validation") for i in corpus.instructions("validation")]


def borderline(benign: bool) -> list[Request]:
    """Return benign questions that sound bad, in the spirit of XSTest (arXiv 2308.01263), or as many on the same topics
    that are bad."""
    rows = read_csv(DATA / "borderline.csv", ("id", "type", "text", "unsafe"))
    asked = [(row, row["text"] if benign else row["unsafe"]) for row in rows]
    return [Request(row["id"], row["type"], text, text, split="validation") for row, text in asked]


def read_questions(path: Path | str) -> list[Request]:
    """Read your own questions from a CSV file.

    The column ``question`` is required; ``id``, ``category`` and ``do`` (the behaviour as a verb phrase) are optional.

    Raises:
        ValueError: see `derta.files.read_csv`; or an id occurs twice.
    """
    rows = read_csv(Path(path), ("question",))
    asked = [
        Request(
            row.get("id") or f"{Path(path).stem}-{number}",
            row.get("category") or "own",
            row.get("do") or row["question"],
            row["question"],
        )
        for number, row in enumerate(rows, start=1)
    ]
    seen: dict[str, int] = {}
    for number, request in enumerate(asked, start=2):
        if seen.setdefault(request.id, number) != number:
            raise ValueError(f"{path}, row {number}: the id {request.id!r} is that of row {seen[request.id]}")
    return asked


def spread(requests: Sequence[Request], limit: int | Mapping[str, int | None] | None) -> list[Request]:
    """Select at most `limit` of `requests`, spread evenly over them and so over their categories.

    Args:
        limit: the number, or the number by split of the corpus; None for all. A split that is not named has none.
    """
    if isinstance(limit, Mapping):
        splits = dict.fromkeys(request.split for request in requests)
        return [r for split in splits for r in spread([r for r in requests if r.split == split], limit.get(split, 0))]
    n = len(requests) if limit is None else min(limit, len(requests))
    return [requests[i * len(requests) // n] for i in range(n)]
