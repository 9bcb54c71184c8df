"""What a search keeps of its rounds: a file per request, from which a search that was killed goes on."""

from pathlib import Path
from typing import Any

from derta.files import drop_torn_tail, read_jsonl
from derta.requests import Request
from derta.runs import set_aside


def read_log(log: Path, request: Request, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """The whole rows of a search's log, from which it goes on; a log of another question is set aside.

    Raises:
        ValueError: a row lacks one of `fields`; the message names file and row.
    """
    if not log.exists():
        return []
    drop_torn_tail(log)
    rows = list(read_jsonl(log, ("question", *fields)))
    if rows and rows[0]["question"] != request.question:
        set_aside(log, rows[0]["question"], "the question is another one now")
        return []
    return rows


def queries(logs: Path) -> dict[str, int]:
    """How often a search asked each model (attacker, target, judge), over all requests of its `logs`."""
    counts: dict[str, int] = {}
    for log in sorted(logs.glob("*.jsonl")):
        for row in read_jsonl(log, ("queries",)):
            for model, number in row["queries"].items():
                counts[model] = counts.get(model, 0) + number
    return counts
