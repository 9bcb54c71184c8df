"""The paper's reported numbers, as facts: every cell of Tables 1, 2, 4 and 10 and of Figures 5 and 6, in percent."""

from collections.abc import Sequence
from functools import cache

from derta.runs import DATA, read_csv


@cache
def reported() -> tuple[dict, ...]:
    """The rows of ``data/reported.csv``: `source`, `model`, `arm`, `metric`, `task`, and `value_percent` as a float."""
    rows = read_csv(DATA / "reported.csv", ("source", "model", "arm", "metric", "task", "value_percent"))
    return tuple(row | {"value_percent": float(row["value_percent"])} for row in rows)


def value(model: str, arm: str, task: str, sources: Sequence[str] = ()) -> float | None:
    """The reported percentage of a model and arm on an attack or task, None where the paper has none.

    Args:
        sources: tables and figures to look in; by default all.
    """
    for row in reported():
        if (row["model"], row["arm"], row["task"]) == (model, arm, task) and (not sources or row["source"] in sources):
            return row["value_percent"]
    return None
