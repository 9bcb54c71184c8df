"""The authors' released generations as tidy rows: model, arm, attack or task, prompt, completion.

The contents of a file are determined by its name (`source`), so files of models that this project has never seen are
read in the same way. Every file of a folder ends up in one of three places: the generations, the list of files left out
with the reason, or the list of errors. Nothing is unpickled: ``.list`` files are torch archives and are never opened.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from derta.audit import known
from derta.audit.names import Source, source
from derta.published import released

# PAIR was run on 50 behaviours; an interrupted run leaves fewer summaries.
PAIR_BEHAVIOURS = 50

# The form of a gold answer. Without this check, an unreadable gold answer would count an unreadable response as right.
GOLD = {
    "GSM8K": re.compile(r"(?:.*####)?\s*-?[\d,]*\.?\d+\s*", re.DOTALL),
    "MMLU": re.compile(r"[ (-]*[A-D][ )-]*"),
}


@dataclass(frozen=True)
class Generation:
    """One completion.

    Attributes:
        row: its place in the file, from 0.
        answer: the gold answer of GSM8K and MMLU.
        broken: whether PAIR's own judge (GPT-4) called the completion a jailbreak; None for all other attacks.
    """

    source: Source
    file: str
    row: int
    prompt: str
    completion: str
    answer: str = ""
    broken: bool | None = None


@dataclass
class Folder:
    """All files under a folder. `missing` counts rows that a source should have but lacks (PAIR)."""

    generations: dict[Source, list[Generation]] = field(default_factory=dict)
    missing: Counter[Source] = field(default_factory=Counter)
    files: dict[Path, Source] = field(default_factory=dict)
    left_out: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def load(root: Path) -> Folder:
    """Read every released generation under `root`.

    A file with the name of a manifest entry must have its content, and a file with an entry's content must have its
    name; files that the manifest does not list are read as well.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    if not root.is_dir():
        raise NotADirectoryError(f"{root}: no such folder; name the one that holds the released files")
    folder = Folder()
    listed = {Path(path).name: file for path, file in released.manifest().items()}
    name_of = {file.git_blob_sha1: name for name, file in listed.items()}
    for path in sorted(path for path in root.rglob("*") if path.is_file() and ".git" not in path.parts):
        try:
            if path.name in listed:
                released.verify(path, listed[path.name])
            elif path.suffix == ".json" and (name := name_of.get(released.blob_sha1(path.read_bytes()))):
                raise ValueError(f"{path}: renamed, it holds {name} of the manifest; give it its name back")
            key = source(path.name)
            if reason := _no_generations(path, listed, key):
                folder.left_out[path] = reason
            elif key:
                _add(folder, path, key)
        except (ValueError, OSError) as error:
            folder.errors.append(str(error))
    return folder


def _no_generations(path: Path, listed: dict[str, released.File], key: Source | None) -> str:
    if path.suffix == ".list":
        return "a torch archive of what its .json twin holds; never unpickled"
    if path.name in listed and listed[path.name].path.startswith("data/"):
        return "test prompts" if listed[path.name].path.startswith("data/test/") else "training data or code"
    if path.suffix != ".json":
        return "not a .json file of generations"
    return "" if key else "its name holds no attack or task, or no model"


def _add(folder: Folder, path: Path, key: Source) -> None:
    if key in folder.generations:
        other = next(other for other, known in folder.files.items() if known == key)
        raise ValueError(f"{path}: {key.model}, {key.arm}, {key.task} stands in {other} too; remove one of the two")
    seen: set[tuple[str, str]] = set()
    rows = []
    repeated = 0
    for number, line in enumerate(path.read_bytes().splitlines()):
        if not line.strip():
            continue
        try:
            generation = _generation(json.loads(line.decode()), key, path.name, number)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, row {number + 1}: {error}; truncated or altered: fetch it again") from None
        identity = (normalise(generation.prompt), generation.completion)
        repeated += identity in seen
        if identity not in seen:
            rows.append(generation)
        seen.add(identity)
    if not rows:
        raise ValueError(f"{path}: holds no rows; truncated or altered: fetch it again")
    folder.generations[key], folder.files[path] = rows, key
    if repeated:
        folder.notes.append(f"{path}: {repeated} rows repeat earlier ones, prompt and completion, and count once")
    if key.task == "CompletingAttack" and (whole := sum(not row.prompt for row in rows)):
        folder.notes.append(f"{path}: {whole} rows begin with none of the attack's 200 prompts and are judged whole")
    if key.task == "PAIR" and len(rows) < PAIR_BEHAVIOURS:
        folder.missing[key] = PAIR_BEHAVIOURS - len(rows)
        folder.notes.append(f"{path}: {PAIR_BEHAVIOURS - len(rows)} of {PAIR_BEHAVIOURS} rows are missing: unscored")


def _generation(row: object, key: Source, file: str, number: int) -> Generation:
    if isinstance(row, str) and key.task == "PAIR":
        return Generation(key, file, number, *_pair(row))
    if isinstance(row, str) and key.task == "CompletingAttack":
        end = known.prompt_end(row)
        return Generation(key, file, number, row[:end], row[end:])
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, found {type(row).__name__}")
    prompt: Any = row.get("question", row.get("instruction"))
    completion: Any = row.get("response")
    answer = row.get("answer", "")
    if not all(isinstance(text, str) for text in (prompt, completion, answer)):
        raise ValueError("no text under question or instruction, or under response")
    if key.task in GOLD and not GOLD[key.task].fullmatch(answer):
        raise ValueError("no gold answer of the task's form")
    return Generation(key, file, number, prompt, completion, answer)


_PAIR = re.compile(
    r"Goal: (?P<goal>.*?)\n(?:No jailbreaks achieved"
    r"|First Jailbreak: .*?Example Jailbreak PROMPT:(?P<prompt>.*?)Example Jailbreak RESPONSE:(?P<completion>.*))",
    re.DOTALL,
)


def _pair(summary: str) -> tuple[str, str, str, bool]:
    """Parse a PAIR summary into prompt, completion, an empty gold answer, and whether PAIR's judge called it a
    jailbreak.

    The prompt begins with the goal.
    """
    parts = _PAIR.match(summary, max(summary.find("Goal: "), 0))
    if not parts:
        raise ValueError("not a summary of PAIR's")
    broken = parts["completion"] is not None
    return f"{parts['goal']}\n{parts['prompt'] or ''}".strip(), (parts["completion"] or "").strip(), "", broken


def normalise(text: str) -> str:
    """Return `text` with single spaces, since prompts differ between files in white space."""
    return " ".join(text.split())


@cache
def question(generation: Generation) -> tuple[int, str]:
    """Return the row among the 200 and the text of the plain question behind a prompt; (-1, the prompt) if not found.

    CodeAttack's question is spelt backwards on its stack; CompletingAttack turns it into a statement, which is returned
    instead.
    """
    text = generation.prompt
    if generation.source.task == "CodeAttack":
        text = " ".join(reversed(re.findall(r"\.append\(\"(.*?)\"\)", text)))
    found = known.find("question", text)
    return (found[0], text[found[1] : found[2]]) if found else (-1, text)
