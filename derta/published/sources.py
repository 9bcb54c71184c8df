"""Published datasets by reference: each from its public home at a pinned revision, never copied here.

``load(name)`` downloads into the cache of `datasets`; ``load(name, folder)`` reads a local copy in the same form (a
clone of the dataset's repository), for machines without a network.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
from datasets import Dataset, load_dataset

from derta.corpus import refusals
from derta.files import read_csv
from derta.material import Example, Triple
from derta.requests import Request
from derta.runs import DATA, cache_dir


@dataclass(frozen=True)
class Source:
    """Where a dataset is published.

    Attributes:
        repository: on the Hugging Face hub or, with `file`, on GitHub.
        revision: the pinned commit.
        split: the split to load.
        columns: the columns that are used, with their types.
        licence: as its owners state it.
        reference: the paper.
        file: for GitHub, the CSV file in the repository.
    """

    repository: str
    revision: str
    split: str
    columns: dict[str, type]
    licence: str
    reference: str
    file: str = ""

    @property
    def github(self) -> str:
        """The address of the repository's files on GitHub at the pinned commit."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.revision}"


TYPES = {"str": str, "dict": dict, "bool": bool}


def _sources() -> dict[str, Source]:
    """Read ``data/sources.csv``; its `columns` are pairs like ``prompt:str``."""
    fields = ("name", "repository", "revision", "split", "columns", "licence", "reference")
    rows = read_csv(DATA / "sources.csv", fields)
    for row in rows:
        pairs = (pair.split(":") for pair in row["columns"].split())
        row["columns"] = {column: TYPES[kind] for column, kind in pairs}  # type: ignore[assignment]
    return {row.pop("name"): Source(**row) for row in rows}  # type: ignore[arg-type]


SOURCES = _sources()


def load(name: str, folder: str | Path | None = None) -> Dataset:
    """Load the rows of a published dataset, on disk rather than in memory.

    Args:
        name: one of `SOURCES`.
        folder: a local clone of the dataset's repository, to be read instead of its public home.

    Raises:
        ValueError: an unknown name, a missing column, or a local folder that does not hold the split.
        FileNotFoundError: no such folder.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown dataset {name!r}; expected one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    if folder is not None and not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; clone {source.repository} there, or leave it out")
    if source.file:
        path = Path(folder) / source.file if folder is not None else _fetched(source)
        rows = load_dataset("csv", data_files=str(path), split=source.split)
    elif folder is None:
        rows = load_dataset(source.repository, revision=source.revision, split=source.split)
    else:
        rows = load_dataset(str(folder), split=source.split)
    if missing := [column for column in source.columns if column not in rows.column_names]:
        raise ValueError(f"{name} ({folder or source.repository}): missing {', '.join(missing)}")
    return rows


def _fetched(source: Source) -> Path:
    """Download a file of a pinned commit once; the commit is part of its address and of its name."""
    kept = cache_dir() / "published" / source.repository / source.revision
    name = Path(source.file).name
    return Path(pooch.retrieve(f"{source.github}/{source.file}", known_hash=None, fname=name, path=kept))


def checked(name: str, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield `rows`, checking the types that `SOURCES` names.

    Raises:
        ValueError: a value of another type; the message names dataset and row.
    """
    for number, row in enumerate(rows, start=1):
        for column, kind in SOURCES[name].columns.items():
            if not isinstance(row[column], kind):
                found = type(row[column]).__name__
                raise ValueError(f"{name}, row {number}: {column} is of type {found}, expected {kind.__name__}")
        yield row


def beavertails_triples(rows: Iterable[dict[str, Any]]) -> tuple[list[Triple], Counter[str]]:
    """Make triples from BeaverTails' rows.

    q is the row's prompt, r̂ a response that its annotators found unsafe, and r a refusal of the embedded corpus that
    fits the first of the row's categories. The paper replaces both responses (by those of GPT-3.5, and of a model tuned
    to comply); here r̂ is BeaverTails' own.

    Returns:
        The triples, and the number of rows that were used or skipped, by reason.
    """
    triples: list[Triple] = []
    fate: Counter[str] = Counter()
    for number, row in enumerate(checked("beavertails", rows)):
        if row["is_safe"]:
            fate["its response is safe"] += 1
            continue
        category = next((name for name, applies in row["category"].items() if applies), "any")
        fitting = refusals(category)
        safe, other = fitting[number % len(fitting)], fitting[(number + 1) % len(fitting)]
        id = f"beavertails-{number}"
        triples.append(Triple(id, id, row["prompt"], safe, row["response"], (row["prompt"], other)))
        fate["used"] += 1
    return triples, fate


def evol_instruct_examples(rows: Iterable[dict[str, Any]]) -> list[Example]:
    """Make helpful examples from Evol-Instruct's instructions and answers."""
    return [
        Example(f"evol-instruct-{number}", "", row["instruction"], row["output"])
        for number, row in enumerate(checked("evol-instruct", rows))
    ]


def questions(name: str, rows: Iterable[dict[str, Any]]) -> list[Request]:
    """Return harmful questions to attack with: Do-Not-Answer's, or HarmBench's standard behaviours.

    They have no verb phrase, so `do` repeats the question.

    Raises:
        ValueError: a dataset of another kind.
    """
    if name not in ("do-not-answer", "harmbench"):
        raise ValueError(f"{name!r} has no questions to attack with; expected 'do-not-answer' or 'harmbench'")
    asked = []
    for number, row in enumerate(checked(name, rows)):
        if name == "do-not-answer":
            asked.append(Request(f"{name}-{number}", row["risk_area"], row["question"], row["question"]))
        elif row["FunctionalCategory"] == "standard":
            asked.append(Request(row["BehaviorID"], row["SemanticCategory"], row["Behavior"], row["Behavior"]))
    return asked
