"""The authors' test prompts, known by the hashes of their words: they are found in a text without being kept here."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache

from derta.files import read_csv, read_jsonl
from derta.published import released
from derta.runs import DATA


@dataclass(frozen=True)
class Known:
    """A released test prompt, known by the hash of its words alone: its text is not in this project."""

    row: int
    words: int
    sha256: str


@cache
def _known(kind: str) -> dict[str, list[Known]]:
    """The prompts of a kind (``completing`` or ``question``) by the hash of their first three words, longest first."""
    prompts: dict[str, list[Known]] = {}
    for row in read_csv(DATA / "released_prompts.csv", ("kind", "row", "words", "head", "sha256")):
        if row["kind"] == kind:
            prompts.setdefault(row["head"], []).append(Known(int(row["row"]), int(row["words"]), row["sha256"]))
    return {head: sorted(group, key=lambda known: -known.words) for head, group in prompts.items()}


def spell(text: str) -> list[re.Match]:
    """Runs of letters and of digits; a capital begins a new one, so that a refusal glued to a prompt's end is seen."""
    return list(re.finditer(r"[^\W\d_][^\W\d_A-Z]*|\d+", text))


def sha(words: list[str]) -> str:
    """SHA-256 of words with single spaces between them."""
    return hashlib.sha256(" ".join(words).encode(errors="replace")).hexdigest()


def hash_prompts() -> list[dict]:
    """The rows of ``data/released_prompts.csv``, made from the released test prompts (`released.fetch`)."""
    rows = []
    for kind, name in (("completing", "completionattack"), ("question", "illegal_instructions_200")):
        path = released.fetch(f"data/test/safety_{name}.json")
        for number, prompt in enumerate(read_jsonl(path, {"question": str})):
            words = [place[0].lower() for place in spell(prompt["question"])]
            row = {"kind": kind, "row": number, "words": len(words)}
            rows.append(row | {"head": sha(words[:3])[:16], "sha256": sha(words)})
    return rows


def find(kind: str, text: str, starts: int | None = None) -> tuple[int, int, int] | None:
    """Row, first and last character of a known prompt that stands in `text`, at one of its first `starts` words."""
    places = spell(text)
    words = [place[0].lower() for place in places]
    for start in range(len(words) - 2)[:starts]:
        for known in _known(kind).get(sha(words[start : start + 3])[:16], ()):
            if sha(words[start : start + known.words]) == known.sha256:
                return known.row, places[start].start(), places[start + known.words - 1].end()
    return None


def prompt_end(text: str) -> int:
    """Where the CompletingAttack prompt that `text` begins with ends; 0 if it begins with none of them."""
    found = find("completing", text, starts=1)
    if not found:
        return 0
    rest = re.compile(r"[^\w\s]*").match(text, found[2])
    return rest.end() if rest else found[2]
