"""The paper's reported numbers, as facts: every cell of Tables 1, 2, 4 and 10 and of Figures 5 and 6, in percent."""

from functools import cache

from derta.files import read_csv
from derta.runs import DATA


@cache
def reported() -> tuple[dict, ...]:
    """The rows of ``data/reported.csv``: `source`, `model`, `arm`, `metric`, `task`, and `value_percent` as a float."""
    rows = read_csv(DATA / "reported.csv", ("source", "model", "arm", "metric", "task", "value_percent"))
    return tuple(row | {"value_percent": float(row["value_percent"])} for row in rows)


def value(model: str, arm: str, task: str) -> float | None:
    """The reported percentage of a model and arm on an attack or task, None where the paper has none.

    GPT-3.5's helpfulness files are of version 0301, where the paper names 0125: both find its cell.
    """
    model = model.replace("GPT-3.5-turbo-0301", "GPT-3.5-turbo-0125")
    for row in reported():
        if (row["model"], row["arm"], row["task"]) == (model, arm, task):
            return row["value_percent"]
    return None
