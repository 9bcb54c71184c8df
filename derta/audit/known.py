"""The authors' test prompts as hashes of their words: they can be found in a text without being kept here."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache

from derta.files import read_csv, read_jsonl
from derta.published import released
from derta.runs import DATA


@dataclass(frozen=True)
class Known:
    """A released test prompt, known only by the hash of its words: its text is not in this project."""

    row: int
    words: int
    sha256: str


@cache
def _known(kind: str) -> dict[str, list[Known]]:
    """Return the prompts of a kind (``completing`` or ``question``) by the hash of their first three words, longest
    first."""
    prompts: dict[str, list[Known]] = {}
    for row in read_csv(DATA / "released_prompts.csv", ("kind", "row", "words", "head", "sha256")):
        if row["kind"] == kind:
            prompts.setdefault(row["head"], []).append(Known(int(row["row"]), int(row["words"]), row["sha256"]))
    return {head: sorted(group, key=lambda known: -known.words) for head, group in prompts.items()}


def spell(text: str) -> list[re.Match]:
    """Split a text into runs of letters and of digits.

    A capital begins a new run, so that a refusal glued to the end of a prompt is seen.
    """
    return list(re.finditer(r"[^\W\d_][^\W\d_A-Z]*|\d+", text))


def sha(words: list[str]) -> str:
    """Return the SHA-256 of words joined by single spaces."""
    return hashlib.sha256(" ".join(words).encode(errors="replace")).hexdigest()


def hash_prompts() -> list[dict]:
    """Make the rows of ``data/released_prompts.csv`` from the released test prompts (`released.fetch`)."""
    rows = []
    for kind, name in (("completing", "completionattack"), ("question", "illegal_instructions_200")):
        path = released.fetch(f"data/test/safety_{name}.json")
        for number, prompt in enumerate(read_jsonl(path, {"question": str})):
            words = [place[0].lower() for place in spell(prompt["question"])]
            row = {"kind": kind, "row": number, "words": len(words)}
            rows.append(row | {"head": sha(words[:3])[:16], "sha256": sha(words)})
    return rows


def find(kind: str, text: str, starts: int | None = None) -> tuple[int, int, int] | None:
    """Find a known prompt that starts at one of the first `starts` words of `text`.

    Returns:
        Its row, and the start and end of its characters in `text`; None if there is none.
    """
    places = spell(text)
    words = [place[0].lower() for place in places]
    for start in range(len(words) - 2)[:starts]:
        for known in _known(kind).get(sha(words[start : start + 3])[:16], ()):
            if sha(words[start : start + known.words]) == known.sha256:
                return known.row, places[start].start(), places[start + known.words - 1].end()
    return None


def prompt_end(text: str) -> int:
    """Return where the CompletingAttack prompt at the start of `text` ends; 0 if `text` starts with none."""
    found = find("completing", text, starts=1)
    if not found:
        return 0
    rest = re.compile(r"[^\w\s]*").match(text, found[2])
    return rest.end() if rest else found[2]
