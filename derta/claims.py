"""Claims of the paper and of its readers → verdicts, by rules that were stated before the results were read.

``data/claims.csv`` holds a claim in each row: in few words (``short``), where it is made, what it ``needs`` to be
testable at all, and its ``test``, both as checks of the form ``table[column=value, …].column < number``, separated by
semicolons. A check holds if the whole 95 % interval of the number, unadjusted for the number of claims, lies on its
side of the bound. What a claim needs is judged by the estimate. A p-value has no interval: what it does not show stays
open.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from derta.files import read_csv
from derta.runs import DATA

VERDICTS = ("reproduced", "partly", "contradicted", "left open", "not testable here")
CHECK = re.compile(r"(\w+)\[([^\]]*)\]\.(\w+) ([<>]) (-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Check:
    """A bound on one number of a table: the value of `column` in the row that has the values `where`."""

    table: str
    where: tuple[tuple[str, str], ...]
    column: str
    above: bool
    bound: float

    def __str__(self) -> str:
        chosen = ", ".join(f"{key}={value}" for key, value in self.where)
        return f"{self.table}[{chosen}].{self.column} {'>' if self.above else '<'} {self.bound:g}"


@dataclass(frozen=True)
class Claim:
    """A claim, where it is made, and the checks that decide it; see the module."""

    id: str
    source: str
    claim: str
    needs: tuple[Check, ...]
    test: tuple[Check, ...]


class Found(NamedTuple):
    """A number with its interval; without one, `low` and `high` are the number."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        interval = f" [{self.low:.3g}, {self.high:.3g}]" if self.low < self.high else ""
        return f"{self.value:.3g}{interval}"


def checks(text: str) -> tuple[Check, ...]:
    """Read checks from one cell.

    Raises:
        ValueError: a part of it is no check.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        read = CHECK.fullmatch(part)
        if read is None:
            raise ValueError(f"{part!r} is no check; expected table[column=value, …].column < number")
        table, chosen, column, sign, bound = read.groups()
        where = tuple((key, value) for key, _, value in (pair.strip().partition("=") for pair in chosen.split(",")))
        found.append(Check(table, where, column, sign == ">", float(bound)))
    return tuple(found)


def claims() -> tuple[Claim, ...]:
    """Return the claims of ``data/claims.csv``.

    Raises:
        ValueError: a check cannot be read; the message names file, row and text.
    """
    found = []
    for number, row in enumerate(read_csv(DATA / "claims.csv", ("id", "source", "claim", "test")), start=2):
        try:
            read = {name: checks(row.get(name, "")) for name in ("needs", "test")}
        except ValueError as error:
            raise ValueError(f"{DATA / 'claims.csv'}, row {number}: {error}") from None
        found.append(Claim(row["id"], row["source"], row["claim"], **read))
    return tuple(found)


def find(check: Check, tables: Mapping[str, pd.DataFrame]) -> Found | None:
    """Find the number of a check; None if there is no such result.

    Raises:
        ValueError: several rows have these values.
    """
    table = tables.get(check.table)
    if table is None or not {check.column, *(key for key, _ in check.where)} <= set(table):
        return None
    rows = table
    for key, wanted in check.where:
        rows = rows[rows[key].astype(str) == wanted]
    if len(rows) > 1:
        raise ValueError(f"{check}: {len(rows)} rows have these values; name more columns")
    if rows.empty or pd.isna(rows[check.column].iloc[0]):
        return None
    row = rows.iloc[0].to_dict()
    value = float(row[check.column])
    low, high = (float(row.get(f"{check.column}_{end}", row.get(end, value))) for end in ("low", "high"))
    return Found(value, low, high)


def judge(claim: Claim, tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Judge a claim.

    It is *reproduced* if all of its checks hold, and *partly* if some do. If none does, it is *contradicted* if the
    whole interval of one lies on the wrong side of its bound, and otherwise *left open*. It is *not testable here* if
    what it needs is not so, or if some of its checks have no result and the others hold.

    Args:
        tables: the tables of results that checks name, such as `derta.measures.differences`.

    Returns:
        `id`, `source`, `claim`, `verdict`, and as text the `numbers` of the checks, or why it is not testable.
    """
    about = {"id": claim.id, "source": claim.source, "claim": claim.claim}
    for need in claim.needs:
        found = find(need, tables)
        if found is None or not _beyond(found.value, need):
            said = "no result" if found is None else f"{found.value:.3g}"
            return about | {"verdict": VERDICTS[-1], "numbers": f"{need}: {said}"}
    results = [(check, find(check, tables)) for check in claim.test]
    holding = [_beyond(found.low if c.above else found.high, c) for c, found in results if found is not None]
    if len(holding) < len(results) and all(holding):
        missing = "; ".join(str(check) for check, found in results if found is None)
        return about | {"verdict": VERDICTS[-1], "numbers": f"no result: {missing}"}
    ends = [(c, found.high if c.above else found.low) for c, found in results if found and found.low < found.high]
    contradicted = any(not _beyond(end, c) for c, end in ends)
    if any(holding):
        verdict = "reproduced" if all(holding) else "partly"
    else:
        verdict = "contradicted" if contradicted else "left open"
    numbers = "; ".join(f"{check}: {'no result' if found is None else found}" for check, found in results)
    return about | {"verdict": verdict, "numbers": numbers}


def _beyond(value: float, check: Check) -> bool:
    return value > check.bound if check.above else value < check.bound
