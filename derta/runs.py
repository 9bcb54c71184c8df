"""Where files lie, how rows are written and read, and where a result comes from."""

import csv
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"


def cache_dir() -> Path:
    """The cache of models and downloads: ``DERTA_CACHE``, or ``~/.cache/derta``."""
    return Path(os.environ.get("DERTA_CACHE", "~/.cache/derta")).expanduser()


def run_dir(profile: str) -> Path:
    """The folder of one profile's files: ``DERTA_RUNS/<profile>``, or ``runs/<profile>`` beside the package."""
    return Path(os.environ.get("DERTA_RUNS", ROOT / "runs")).expanduser() / profile


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader, or a killed writer, never leaves half a file behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def to_jsonl(rows: Iterable[dict[str, Any]]) -> str:
    """`rows` as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append `rows` to a JSON Lines file and push them to the disk before returning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(to_jsonl(rows))
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: Path, fields: Iterable[str] | dict[str, type] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON Lines file.

    Args:
        fields: names that each row must hold, or a mapping of names to their types.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: a row is not a JSON object in UTF-8, lacks one of `fields`, holds a value of another type or, where
            `id` is among them, the id of an earlier row; the message names file and row.
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
    """Read a CSV file whose header holds `fields`, none of them empty in any row.

    Raises:
        ValueError: the file is not UTF-8, a column is missing, a cell is empty or an `id` comes twice; the message
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


def digest(*parts: Any) -> str:
    """A short hash of JSON-able values and of the contents of paths (folders: every file below, sorted)."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            for file in sorted(part.rglob("*")) if part.is_dir() else [part]:
                if file.is_file() and "__pycache__" not in file.parts:
                    sha.update(file.relative_to(part.parent).as_posix().encode() + file.read_bytes())
        else:
            sha.update(json.dumps(part, sort_keys=True, default=list).encode())
    return sha.hexdigest()[:16]


def made_from(folder: Path, inputs: dict[str, Any]) -> None:
    """Make sure that what lies in `folder` was made from `inputs`: what was made from others is removed.

    Raises:
        ValueError: the folder holds files of another origin.
    """
    path = folder / "inputs.json"
    if not path.exists() and any(file.suffix != ".part" for file in folder.glob("*")):
        raise ValueError(f"{folder}: holds files, but no inputs.json that tells their origin; choose another folder")
    if not path.exists() or json.loads(path.read_text()) != inputs:
        shutil.rmtree(folder, ignore_errors=True)
        write_atomically(path, json.dumps(inputs, indent=1))


def made_of(model: str) -> dict[str, Any] | None:
    """What the model in the folder `model` was made from by `derta.train`; None for any other model."""
    path = Path(model) / "provenance.json"
    return json.loads(path.read_text())["inputs"] if path.exists() else None


def provenance(**facts: Any) -> dict[str, Any]:
    """Where a result comes from: the commit, the versions and the machine, and `facts` of the caller's."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    return facts | {
        "commit": commit,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
