"""Rows as CSV and JSON Lines, with errors that name file, row and remedy; a killed run loses no row."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that no half-written file is ever seen, even if the writer is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def mended(text: str) -> str:
    """Replace halves of surrogate pairs, which no file and no server takes, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def to_jsonl(rows: Iterable[dict[str, Any]]) -> str:
    """Return `rows` as JSON Lines."""
    return "".join(mended(json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append `rows` to a JSON Lines file and flush them to the disk before returning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(to_jsonl(rows))
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: Path, fields: Iterable[str] | dict[str, type] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON Lines file; see `placed_jsonl`."""
    for _, row in placed_jsonl(path, fields):
        yield row


def placed_jsonl(path: Path, fields: Iterable[str] | dict[str, type] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place (file and row, for messages) and the row for each line of a JSON Lines file that is not blank.

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
                text = line.decode("utf-8-sig")
                if not text.strip():
                    continue
                row = json.loads(text)
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: not UTF-8 ({error}); save the file as UTF-8") from None
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: not JSON ({error}); repair or delete the row") from None
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
            yield where, row


def read_csv(path: Path, fields: Iterable[str]) -> list[dict[str, str]]:
    """Read a CSV file whose header contains `fields`, none of them empty in any row; blank rows are skipped.

    Raises:
        ValueError: the file is not CSV in UTF-8, a column is missing, a row has more cells than the header, a cell is
            empty or an `id` occurs twice; the message names file and row (the header is row 1).
    """
    filled = _filled_rows(Path(path))
    _, header = next(filled, (1, []))
    if missing := [field for field in fields if field not in header]:
        raise ValueError(
            f"{path}: the header lacks {', '.join(missing)}; rename or add columns, parted by commas: {header}"
        )
    if twice := [field for field in fields if header.count(field) > 1]:
        raise ValueError(f"{path}: the header has {', '.join(twice)} twice; delete or rename one column")
    rows: list[dict[str, str]] = []
    seen: dict[str, int] = {}
    for number, cells in filled:
        where = f"{path}, row {number}"
        if len(cells) > len(header):
            raise ValueError(
                f"{where}: {len(cells)} cells under a header of {len(header)}; quote the cell that holds a comma"
            )
        row = dict(zip_longest(header, cells, fillvalue=""))
        if empty := [field for field in fields if not row[field].strip()]:
            raise ValueError(f"{where}: {', '.join(empty)} is empty; fill it in or delete the row")
        if "id" in fields and seen.setdefault(row["id"], number) != number:
            raise ValueError(f"{where}: the id {row['id']!r} is that of row {seen[row['id']]}; give it its own")
        rows.append(row)
    return rows


def _filled_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of the rows of a CSV file that are not blank."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, cells in enumerate(csv.reader(file, strict=True), start=1):
                if "\0" in "".join(cells):
                    raise ValueError(f"{path}, row {number}: holds a NUL character; save the file as UTF-8")
                if any(map(str.strip, cells)):
                    yield number, cells
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from None
    except csv.Error as error:
        raise ValueError(
            f"{path}, row {number + 1}: not CSV ({error}); close the quotation mark, double those within a quoted "
            "cell, or shorten the cell"
        ) from None


def write_csv(path: Path, rows: list[dict[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write `rows`, all with the same keys, as CSV; floats with six significant digits.

    Args:
        columns: the keys, for a table that may have no rows.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_atomically(path, text.getvalue())


def drop_torn_tail(path: Path) -> None:
    """Remove an incomplete last line, which a killed writer leaves behind."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
