"""DeRTa against GPT-4 by attack, on the paper's own labels and on our rules (arXiv 2407.09121, Table 2)."""

from typing import Any

from derta import paper, stats
from derta.audit.generations import Folder, question
from derta.audit.names import ATTACKS, Source
from derta.audit.verdicts import judge

# The two that Table 2 prints beside each other: model and arm.
FIRST, SECOND = ("GPT-4-turbo-0409", "none"), ("LLaMA3-70B", "derta")
# PAIR and AutoDAN were run on 50 of the 200 questions.
QUESTIONS = dict.fromkeys(ATTACKS.values(), 200) | {"PAIR": 50, "AutoDAN": 50}


def head_to_head(folder: Folder) -> list[dict[str, Any]]:
    """Compare how often both models are unsafe, attack by attack.

    By the ``paper`` the counts are those of its cells, and the test is Fisher's exact test, since it does not say which
    questions they are. By the ``rules`` the answers to the same question are paired, and the test is McNemar's.

    Returns:
        `attack`, `by`, `n`, the unsafe counts `first` (GPT-4) and `second` (DeRTa), the `difference` second − first as
        a fraction with its 95 % interval `low` and `high`, `p`, and `p_holm`, adjusted over the attacks of the same
        `by`.
    """
    rows = []
    for attack, n in QUESTIONS.items():
        cells = [paper.value(*model, attack) for model in (FIRST, SECOND)]
        counts = [round(n * cell / 100) for cell in cells if cell is not None]
        if len(counts) == 2:
            found = stats.two_rates(counts[0], n, counts[1], n)
            rows.append(_row(attack, "paper", n, counts, found, found.p))
        unsafe = [_unsafe(folder, Source(*model, attack)) for model in (FIRST, SECOND)]
        shared = sorted(unsafe[0].keys() & unsafe[1].keys())
        if shared:
            first, second = ([side[number] for number in shared] for side in unsafe)
            found = stats.crossed([int(b) - int(a) for a, b in zip(first, second, strict=True)], (-1, 1))
            p = stats.mcnemar(first, second)
            rows.append(_row(attack, "rules", len(shared), [sum(first), sum(second)], found, p))
    for by in ("paper", "rules"):
        family = [row for row in rows if row["by"] == by]
        for row, adjusted in zip(family, stats.holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = adjusted
    return rows


def _row(attack: str, by: str, n: int, counts: list[int], found: stats.Estimate, p: float) -> dict[str, Any]:
    row = {"attack": attack, "by": by, "n": n, "first": counts[0], "second": counts[1]}
    return row | {"difference": found.mean, "low": found.low, "high": found.high, "p": p}


def _unsafe(folder: Folder, source: Source) -> dict[int, bool]:
    """Return, by question, whether the rules call its answer unsafe; questions that are not known are left out."""
    numbered = {question(row)[0]: judge(row).verdict == "unsafe" for row in folder.generations.get(source, [])}
    return {number: unsafe for number, unsafe in numbered.items() if number >= 0}
