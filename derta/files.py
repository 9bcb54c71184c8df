"""Rows as CSV and JSON Lines, with errors that name file, row and remedy; a killed run loses no row."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that no half-written file is ever seen, even if the writer is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def to_jsonl(rows: Iterable[dict[str, Any]]) -> str:
    """Return `rows` as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append `rows` to a JSON Lines file and flush them to the disk before returning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(to_jsonl(rows))
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: Path, fields: Iterable[str] | dict[str, type] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON Lines file.

    Args:
        fields: names that each row must have, or a mapping of names to their types.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: a row is not a JSON object in UTF-8, lacks one of `fields`, has a value of another type or, if `id`
            is one of the fields, repeats the id of an earlier row; the message names file and row.
    """
    types = fields if isinstance(fields, dict) else {}
    seen: dict[str, int] = {}
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, row {number}"
            try:
                row = json.loads(line.decode("utf-8"))
            except ValueError as error:
                raise ValueError(f"{where}: not JSON in UTF-8 ({error}); repair or delete the row") from None
            if not isinstance(row, dict):
                raise ValueError(f"{where}: expected an object, found {type(row).__name__}")
            if missing := [field for field in fields if field not in row]:
                raise ValueError(f"{where}: missing {', '.join(missing)}")
            for name, kind in types.items():
                if not isinstance(row[name], kind):
                    found = type(row[name]).__name__
                    raise ValueError(f"{where}: {name} is of type {found}, expected {kind.__name__}; repair the row")
            if "id" in fields and seen.setdefault(row["id"], number) != number:
                raise ValueError(f"{where}: the id {row['id']!r} is that of row {seen[row['id']]}; give it its own")
            yield row


def read_csv(path: Path, fields: Iterable[str]) -> list[dict[str, str]]:
    """Read a CSV file whose header contains `fields`, none of them empty in any row.

    Raises:
        ValueError: the file is not UTF-8, a column is missing, a cell is empty or an `id` occurs twice; the message
            names file and row (the header is row 1).
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [field for field in fields if field not in (reader.fieldnames or [])]:
                raise ValueError(f"{path}: the header lacks {', '.join(missing)}")
            rows = list(reader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from None
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        if empty := [field for field in fields if not (row[field] or "").strip()]:
            raise ValueError(f"{path}, row {number}: {', '.join(empty)} is empty; fill it in or delete the row")
        if "id" in fields and seen.setdefault(row["id"], number) != number:
            raise ValueError(f"{path}, row {number}: the id {row['id']!r} is that of row {seen[row['id']]}")
    return rows


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write `rows`, all with the same keys, as CSV; floats with six significant digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_atomically(path, text.getvalue())


def drop_torn_tail(path: Path) -> None:
    """Remove an incomplete last line, which a killed writer leaves behind."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
