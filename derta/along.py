"""Models along a tuning: what they refuse, and what they cost, by the number of optimiser steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from derta import depth, evaluate, helpfulness, measures, models
from derta.corpus import Response
from derta.models import LM

PLACES = ("direct", "prefill")


class Followed(NamedTuple):
    """What `follow` finds, each with `arm` and `steps`.

    Attributes:
        refused: rows of `derta.measures.measure`.
        changes: rows of `derta.measures.differences`, each step less the first.
        costs: rows of `derta.helpfulness.means`.
        curves: rows of `derta.depth.curve` along the harmful responses.
    """

    refused: pd.DataFrame
    changes: pd.DataFrame
    costs: pd.DataFrame
    curves: pd.DataFrame


def follow(
    root: Path,
    folders: Mapping[tuple[str, int], str | Path],
    seed: int,
    base: LM,
    *,
    harmful: Sequence[Response],
    costs: Mapping[str, Any],
    positions: int,
    **asked: Any,
) -> Followed:
    """Measure models asked directly and after a prefilled start, with refusals, their costs and refusal depth.

    Args:
        root: where answers and measures are kept; a killed run resumes from there.
        folders: each model by arm and number of steps, in the order of the steps.
        base: the model before tuning.
        harmful: the responses along which P(refusal) is read.
        costs: `questions`, `texts`, `tokens` and `batch_size` of `derta.helpfulness.measure`.
        positions: of refusal depth, see `derta.depth.refusal_probabilities`.
        asked: the further arguments of `derta.evaluate.attack`.
    """
    paid: list[pd.DataFrame] = []
    curves: list[dict[str, Any]] = []
    for (arm, steps), folder in folders.items():
        name, lm = f"{arm}@{steps}", models.load(str(folder))
        label = evaluate.label(name, seed)
        evaluate.attack(lm, PLACES, root, label, **asked)
        found = helpfulness.measure(lm, base, root / "helpfulness" / label, **costs)
        paid.append(found.assign(arm=arm, steps=steps, seed=seed))
        read = [(lm.chat(row.prompt), row.response) for row in harmful]
        kept = root / "scores" / label / "depth.jsonl"
        along = depth.refusal_probabilities(lm, read, positions=positions, batch_size=16, path=kept)
        curves += [{"arm": arm, "steps": steps} | point for point in depth.curve(along)]
    verdicts = evaluate.verdicts(root, [(f"{arm}@{steps}", seed) for arm, steps in folders], PLACES)
    start = {arm: min(steps for other, steps in folders if other == arm) for arm, _ in folders}
    since = [(f"{arm}@{start[arm]}", f"{arm}@{steps}") for arm, steps in folders if steps > start[arm]]
    changes, refused = measures.differences(verdicts, since, ["harmful", "benign"]), measures.measure(verdicts)
    for rows, names in ((changes, changes.second), (refused, refused.arm)):
        rows[["arm", "steps"]] = [name.split("@") for name in names]
    means = helpfulness.means(pd.concat(paid), ["arm", "steps"])
    return Followed(refused.astype({"steps": int}), changes.astype({"steps": int}), means, pd.DataFrame(curves))
