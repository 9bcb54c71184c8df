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
        host: where the repository is, ``hub`` (Hugging Face) or ``github``.
        repository: its owner and name there.
        revision: the pinned commit.
        split: the split to load.
        columns: the columns that are used, with their types.
        licence: as its owners state it.
        reference: the paper.
        file: the CSV file in the repository; empty for all that the hub knows of the split.
    """

    host: str
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


TYPES = {"str": str, "int": int, "dict": dict, "bool": bool}


def _sources() -> dict[str, Source]:
    """Read ``data/sources.csv``; its `columns` are pairs like ``prompt:str``."""
    fields = ("name", "host", "repository", "revision", "split", "columns", "licence", "reference")
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
    files = {"data_files": source.file} if source.file else {}
    if folder is not None:
        rows = load_dataset(str(folder), split=source.split, **files)
    elif source.host == "hub":
        rows = load_dataset(source.repository, revision=source.revision, split=source.split, **files)
    else:
        rows = load_dataset("csv", data_files=str(_fetched(source)), split=source.split)
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


# The columns of a dataset's id (empty: the number of the row), category and question.
ASKED = {
    "do-not-answer": ("", "risk_area", "question"),
    "harmbench": ("BehaviorID", "SemanticCategory", "Behavior"),
    "jailbreakbench": ("Index", "Category", "Goal"),
    "jailbreakbench-benign": ("Index", "Category", "Goal"),
    "xstest": ("", "type", "prompt"),
}
# XSTest's types whose unsafe contrasts have other names.
CONTRASTS = {"discr": "real_group_nons_discr", "privacy": "privacy_public"}


def questions(name: str, rows: Iterable[dict[str, Any]], benign: bool = False) -> list[Request]:
    """Return the questions of a dataset to ask a model.

    They have no verb phrase, so `do` repeats the question. A benign counterpart has the id of its harmful question: in
    JailbreakBench the behaviour of the same number, in XSTest the question of the same place in its type (50 of its 250
    benign ones have none).

    Args:
        benign: whether the benign side is asked for.

    Raises:
        ValueError: the dataset has no questions, or none of that side.
    """
    if name not in (
        known := ("jailbreakbench-benign", "xstest") if benign else [n for n in ASKED if not n.endswith("-benign")]
    ):
        side = "benign" if benign else "harmful"
        raise ValueError(f"{name!r} has no {side} questions to ask; expected one of {', '.join(known)}")
    asked: list[Request] = []
    for number, row in enumerate(checked(name, rows)):
        id, category, question = (str(row[column] if column else number) for column in ASKED[name])
        if name == "xstest":
            if category.startswith("contrast_") == benign:
                continue
            category = category.removeprefix("contrast_")
            category = CONTRASTS.get(category, category)
            id = f"{category}-{sum(request.category == category for request in asked)}"
        elif name == "harmbench" and row["FunctionalCategory"] != "standard":
            continue
        asked.append(Request(f"{name.removesuffix('-benign')}-{id}", category, question, question))
    return asked
