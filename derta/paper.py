"""The numbers that the paper reports: every cell of Tables 1, 2, 4 and 10 and of Figures 5 and 6, in percent."""

from functools import cache

from derta.files import read_csv
from derta.runs import DATA


@cache
def reported() -> tuple[dict, ...]:
    """Return the rows of ``data/reported.csv``; `value_percent` is a float."""
    rows = read_csv(DATA / "reported.csv", ("source", "model", "arm", "metric", "task", "value_percent"))
    return tuple(row | {"value_percent": float(row["value_percent"])} for row in rows)


def value(model: str, arm: str, task: str) -> float | None:
    """Return the reported percentage of a model and arm on an attack or task; None if the paper has none.

    GPT-3.5's helpfulness files are from version 0301, but the paper names 0125: both names find the same cell.
    """
    model = model.replace("GPT-3.5-turbo-0301", "GPT-3.5-turbo-0125")
    for row in reported():
        if (row["model"], row["arm"], row["task"]) == (model, arm, task):
            return row["value_percent"]
    return None
