"""Released generations → tables: ASR by attack, accuracy by task, each with its 95 % Wilson interval."""

import csv
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from derta import paper, stats
from derta.audit import categories, compare, positions, tasks
from derta.audit.generations import Folder, load
from derta.audit.names import ATTACKS, Source
from derta.audit.verdicts import judge
from derta.judge import Verdict

# The paper's order.
ORDER = (*ATTACKS.values(), "GSM8K", "MMLU")


def verdicts(folder: Folder) -> dict[Source, list[Verdict]]:
    """Judge all completions of attacks, in the order of the rows."""
    return {
        key: [judge(generation) for generation in rows]
        for key, rows in folder.generations.items()
        if key.task in ATTACKS.values()
    }


def asr(folder: Folder) -> list[dict]:
    """Tabulate the ASR: `n`, `unsafe` and `unscored` counts, ASR and its interval in percent of n, per model, arm and
    attack; and `at_most_percent`, the ASR if all that is unscored were unsafe.

    Rows that a source lacks (PAIR) are part of n and unscored.
    """
    rows = []
    for key, judged in verdicts(folder).items():
        counts = Counter(finding.verdict for finding in judged)
        missing = folder.missing[key]
        row: dict[str, Any] = {"model": key.model, "arm": key.arm, "attack": key.task, "n": len(judged) + missing}
        row |= {"unsafe": counts["unsafe"], "unscored": counts["unscored"] + missing}
        row |= _percent(row["unsafe"], row["n"], "asr_percent")
        rows.append(row | {"at_most_percent": 100 * (row["unsafe"] + row["unscored"]) / row["n"]})
    return sorted(rows, key=lambda row: (row["model"], row["arm"], ORDER.index(row["attack"])))


def accuracy(folder: Folder) -> list[dict]:
    """Tabulate the accuracy: `n`, `correct` and `unparsed` counts, accuracy and its interval in percent.

    There is one row per model, arm and task.
    """
    rows = []
    for key, generations in folder.generations.items():
        if key.task not in tasks.EXTRACTORS:
            continue
        answers = [tasks.answer(generation) for generation in generations]
        correct = sum(given == tasks.gold(row) for given, row in zip(answers, generations, strict=True))
        row = {"model": key.model, "arm": key.arm, "task": key.task, "n": len(answers)}
        row |= {"correct": correct, "unparsed": sum(given is None for given in answers)}
        rows.append(row | _percent(correct, len(answers), "accuracy_percent"))
    return sorted(rows, key=lambda row: (row["model"], row["arm"], ORDER.index(row["task"])))


def over_refusal(folder: Folder) -> list[dict]:
    """Count, per model and arm, how many of the AlpacaEval responses refuse, by the judge's rules."""
    rows = []
    for key, generations in folder.generations.items():
        if key.task == "AlpacaEval":
            judged = [judge(generation) for generation in generations]
            refused = sum(finding.refused and finding.verdict == "safe" for finding in judged)
            row = {"model": key.model, "arm": key.arm, "task": key.task, "n": len(judged), "refused": refused}
            rows.append(row | _percent(refused, len(judged), "refused_percent"))
    return sorted(rows, key=lambda row: (row["model"], row["arm"]))


def audit(folder: Folder) -> list[dict]:
    """Join all of these into one table with the paper's numbers, the contents of ``data/audit.csv``."""
    rows = []
    for metric, count, table in (
        ("asr", "unsafe", asr(folder)),
        ("accuracy", "correct", accuracy(folder)),
        ("over_refusal", "refused", over_refusal(folder)),
    ):
        for row in table:
            task = row.get("attack") or row["task"]
            reported = None if metric == "over_refusal" else paper.value(row["model"], row["arm"], task)
            key = {"metric": metric, "model": row["model"], "arm": row["arm"], "task": task, "n": row["n"]}
            key |= {"count": row[count], "undecided": row.get("unscored", row.get("unparsed", 0))}
            key |= {"percent": row[f"{metric}_percent" if metric != "over_refusal" else "refused_percent"]}
            key |= {"low": row["low"], "high": row["high"], "at_most_percent": row.get("at_most_percent")}
            rows.append(key | {"paper_percent": reported})
    return rows


TABLES = {
    "score": (asr, "model,arm,attack,n,unsafe,unscored,asr_percent,low,high,at_most_percent"),
    "helpfulness": (accuracy, "model,arm,task,n,correct,unparsed,accuracy_percent,low,high"),
    "positions": (
        positions.table,
        "model,arm,attacks,refusals,first_five,first_five_low,first_five_high,"
        "after_thirty,after_thirty_low,after_thirty_high",
    ),
    "late": (positions.late, "model,arm,attack,late,substance"),
    "categories": (categories.table, "category,questions,arm,n,unsafe,percent,low,high"),
    "gpt4": (compare.head_to_head, "attack,by,n,first,second,difference,low,high,p,p_holm"),
    "audit": (audit, "metric,model,arm,task,n,count,undecided,percent,low,high,at_most_percent,paper_percent"),
}


def report(table: str, root: Path) -> bool:
    """Print one of `TABLES` as CSV, for all released files under `root`, at any depth.

    Files left out with the reason, remarks, and an error for every file that does not match its name go to stderr.

    Returns:
        Whether there was no error and at least one row.

    Raises:
        ValueError: an unknown table.
        NotADirectoryError: there is no such folder.
    """
    if table not in TABLES:
        raise ValueError(f"unknown table {table!r}; expected one of {', '.join(TABLES)}")
    folder = load(root)
    make, columns = TABLES[table]
    rows = make(folder)
    for path, reason in folder.left_out.items():
        print(f"left out: {path}: {reason}", file=sys.stderr)
    for note in folder.notes:
        print(f"note: {note}", file=sys.stderr)
    for error in folder.errors:
        print(f"error: {error}", file=sys.stderr)
    if not rows:
        print(f"error: {root}: holds no generations for this table", file=sys.stderr)
    writer = csv.DictWriter(sys.stdout, columns.split(","), lineterminator="\n")
    writer.writeheader()
    digits = ".3g" if table == "gpt4" else ".1f"  # fractions and p-values, or percent
    writer.writerows({k: f"{v:{digits}}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    return bool(rows) and not folder.errors


def _percent(successes: int, n: int, name: str) -> dict[str, float]:
    low, high = stats.wilson(successes, n)
    return {name: 100 * successes / n, "low": 100 * low, "high": 100 * high}
