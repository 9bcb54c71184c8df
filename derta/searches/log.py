"""The log of a search's rounds: one file per request, from which a killed search resumes."""

from pathlib import Path
from typing import Any

from derta.files import drop_torn_tail, read_jsonl
from derta.requests import Request
from derta.runs import set_aside


def read_log(log: Path, request: Request, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """Read the complete rows of a search's log, from which it resumes; a log of another question is set aside.

    Raises:
        ValueError: a row lacks one of `fields`; the message names file and row.
    """
    if not log.exists():
        return []
    drop_torn_tail(log)
    rows = list(read_jsonl(log, ("question", *fields)))
    if rows and rows[0]["question"] != request.question:
        set_aside(log, rows[0]["question"], "the question has changed")
        return []
    return rows


def queries(logs: Path) -> dict[str, int]:
    """Count how often a search asked each model (attacker, target, judge), over all requests of its `logs`."""
    counts: dict[str, int] = {}
    for log in sorted(logs.glob("*.jsonl")):
        for row in read_jsonl(log, ("queries",)):
            for model, number in row["queries"].items():
                counts[model] = counts.get(model, 0) + number
    return counts
