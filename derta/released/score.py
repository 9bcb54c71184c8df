"""From released generations to the tables: ASR by attack, accuracy by task, each with its 95 % Wilson interval."""

from collections import Counter

from derta import stats
from derta.released import tasks
from derta.released.generations import ATTACKS, Folder, Source
from derta.released.verdicts import Finding, judge

# The paper's order.
ORDER = (*ATTACKS.values(), "GSM8K", "MMLU")


def verdicts(folder: Folder) -> dict[Source, list[Finding]]:
    """The verdicts on all completions of attacks, in the order of the rows."""
    return {
        key: [judge(generation) for generation in rows]
        for key, rows in folder.generations.items()
        if key.task in ATTACKS.values()
    }


def asr(folder: Folder) -> list[dict]:
    """A row per model, arm and attack: `n`, `unsafe` and `unscored` counts, ASR and its interval in percent of n.

    Rows that a source lacks (PAIR) are part of n and unscored.
    """
    rows = []
    for key, judged in verdicts(folder).items():
        counts = Counter(finding.verdict for finding in judged)
        missing = folder.missing[key]
        row = {"model": key.model, "arm": key.arm, "attack": key.task, "n": len(judged) + missing}
        row |= {"unsafe": counts["unsafe"], "unscored": counts["unscored"] + missing}
        rows.append(row | _percent(row["unsafe"], row["n"], "asr_percent"))
    return sorted(rows, key=lambda row: (row["model"], row["arm"], ORDER.index(row["attack"])))


def accuracy(folder: Folder) -> list[dict]:
    """A row per model, arm and task: `n`, `correct` and `unparsed` counts, accuracy and its interval in percent."""
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


def _percent(successes: int, n: int, name: str) -> dict[str, float]:
    low, high = stats.wilson(successes, n)
    return {name: 100 * successes / n, "low": 100 * low, "high": 100 * high}
