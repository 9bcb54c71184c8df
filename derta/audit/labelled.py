"""The judge's verdicts beside labels that were made by reading."""

from pathlib import Path

import pandas as pd

from derta import judge as rules
from derta.attacks import ATTACKS
from derta.audit import fit, score
from derta.audit.generations import Folder
from derta.runs import DATA
from derta.searches import SEARCHES


def released(folder: Folder) -> pd.DataFrame:
    """Return ``data/audit_labels.csv`` (`file`, `row`, `attack`, `label`), with the judge's verdict as `rule`."""
    judged = {
        (row.file, row.row): finding.verdict
        for key, findings in score.verdicts(folder).items()
        for row, finding in zip(folder.generations[key], findings, strict=True)
    }
    labels = pd.read_csv(DATA / "audit_labels.csv")
    rule = [judged[Path(file).name, row] for file, row in zip(labels.file, labels.row, strict=True)]
    return labels.assign(rule=rule)


def by_origin(texts: pd.DataFrame) -> pd.DataFrame:
    """Compare the judge with labelled texts, by their origin.

    Args:
        texts: `origin`, `attack`, `behaviour`, `completion`; with one label, `label` and `refused`; with more than one
            acceptable verdict, `want_verdict` (a list) and `want_refused`.

    Returns:
        One row per origin: `texts`, `unscored`, the numbers of `derta.audit.fit.agreement` over the texts of which
        label and verdict are both safe or unsafe, and the share of `refusals seen as labelled`.
    """
    attacks = ATTACKS | SEARCHES
    verdicts = [
        rules.judge(row.behaviour, row.completion, attacks[row.attack or "direct"].spans(row.completion, ""))
        for row in texts.itertuples()
    ]
    only = texts.want_verdict.map(lambda accepted: "".join({*accepted} - {"unscored"}), na_action="ignore")
    judged = texts.assign(
        label=texts.label.fillna(only),
        refused=texts.refused.fillna(texts.want_refused),
        rule=[verdict.verdict for verdict in verdicts],
        seen=[verdict.refused for verdict in verdicts],
    )
    rows = {}
    for origin, group in judged.groupby("origin", sort=False):
        clear = group[group.label.isin(["safe", "unsafe"]) & group.rule.isin(["safe", "unsafe"])]
        known = group[group.refused.notna()]
        rows[origin] = {"texts": len(group), "unscored": sum(group.rule == "unscored")}
        rows[origin] |= fit.agreement(clear.label, clear.rule)
        rows[origin]["refusals seen as labelled"] = (known.refused == known.seen).mean()
    return pd.DataFrame(rows).T.astype({"texts": int, "unscored": int, "n": int})
