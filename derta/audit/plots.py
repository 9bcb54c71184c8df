"""The figures of the audit, in the style of `derta.figures`."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from derta import figures
from derta.figures import STYLE, TWO

ARM_STYLE = {"none": figures.ARM_STYLE["base"] | {"label": figures.ARM_LABELS["none"]}}
ARM_STYLE |= {arm: figures.ARM_STYLE[arm] for arm in ("vanilla", "dpo", "recaug", "derta")}


def asr_by_cell(rows: Sequence[dict], attacks: Sequence[str]) -> Figure:
    """Plot our ASR against the paper's, and the difference by attack.

    Args:
        rows: `arm`, `task`, `percent`, `low`, `high`, `at_most_percent` (ours) and `paper_percent`, one per cell.
        attacks: the order of the right panel.
    """
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(TWO, 3.9), layout="constrained", width_ratios=(1, 1.25))
        left.plot([0, 100], [0, 100], color="#888888", lw=0.8)
        left.fill_between([0, 100], [-10, 90], [10, 110], color="#EEEEEE", lw=0, zorder=0)
        arms = [arm for arm in ARM_STYLE if any(row["arm"] == arm for row in rows)]
        for place, arm in enumerate(arms):
            cells = [row for row in rows if row["arm"] == arm]
            x, y = np.array([[row["paper_percent"], row["percent"]] for row in cells]).T
            bars = [[row["percent"] - row["low"] for row in cells], [row["high"] - row["percent"] for row in cells]]
            style = ARM_STYLE[arm] | {"ls": "none", "ms": 4, "elinewidth": 0.7}
            left.errorbar(x, y, yerr=np.maximum(bars, 0), **style)
            left.vlines(x, y, [row["at_most_percent"] for row in cells], color="#AAAAAA", lw=2.5, alpha=0.6, zorder=1)
            at = [attacks.index(row["task"]) + (place - (len(arms) - 1) / 2) * 0.16 for row in cells]
            right.errorbar(at, y - x, yerr=np.maximum(bars, 0), **style)
        right.axhline(0, color="#888888", lw=0.8)
        right.axhspan(-10, 10, color="#EEEEEE", lw=0, zorder=0)
        left.set(
            title="ASR by cell (bars: if all unscored were unsafe)",
            xlabel="the paper, by hand, %",
            ylabel="rule judge, %",
        )
        left.set(xlim=(-3, 103), ylim=(-3, 103), aspect="equal")
        right.set(title="Rule judge − paper, by attack", ylabel="percentage points")
        right.set_xticks(range(len(attacks)), attacks, rotation=25, ha="right", rotation_mode="anchor")
        right.grid(axis="x", visible=False)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(arms))
        figure.suptitle(f"The released generations re-scored: {len(rows)} cells, 95 % Wilson intervals of our ASR")
    return figure


def refusal_positions(rows: Sequence[dict], unit: str) -> Figure:
    """Plot the cumulative share of refusals by the position at which they begin, with CodeAttack and without.

    Args:
        rows: `attacks` (panel title), `arm`, `position`, `n`, `fraction`, `low`, `high`.
        unit: of the positions, words or tokens.
    """
    panels = list(dict.fromkeys(row["attacks"] for row in rows))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(TWO, 3.3), sharey=True, layout="constrained")
        for ax, panel in zip(axes, panels, strict=True):
            for arm, style in ARM_STYLE.items():
                points = [row for row in rows if (row["attacks"], row["arm"]) == (panel, arm)]
                if not points:
                    continue
                x = [row["position"] for row in points]
                look = {"color": style["color"], "marker": style["marker"], "label": style["label"]}
                ax.plot(x, [100 * row["fraction"] for row in points], markevery=[0, 4, 9, 29], ms=4, lw=1.3, **look)
                low, high = [100 * row["low"] for row in points], [100 * row["high"] for row in points]
                ax.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)
            ax.set(title=panel, xlabel=f"the refusal begins at or before position ({unit})", ylim=(-2, 102))
        axes[0].set_ylabel("refusals, %")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(ARM_STYLE))
        figure.suptitle("Where safe responses refuse, LLaMA3-70B: cumulative share, 95 % Wilson intervals")
    return figure


def asr_by_category(rows: Sequence[dict]) -> Figure:
    """Plot the ASR by harm category, one line per category.

    Args:
        rows: `category`, `questions` (how many), `arm`, `percent`, `low`, `high`.
    """
    categories = list(dict.fromkeys(row["category"] for row in rows))
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(TWO, 0.34 * len(categories) + 1.4), layout="constrained")
        arms = [arm for arm in ARM_STYLE if any(row["arm"] == arm for row in rows)]
        for place, arm in enumerate(arms):
            cells = [row for row in rows if row["arm"] == arm]
            y = [categories.index(row["category"]) + (place - (len(arms) - 1) / 2) * 0.2 for row in cells]
            x = np.array([row["percent"] for row in cells])
            bars = [x - [row["low"] for row in cells], [row["high"] for row in cells] - x]
            ax.errorbar(x, y, xerr=np.maximum(bars, 0), ls="none", ms=4, elinewidth=0.8, **ARM_STYLE[arm])
        counts = {row["category"]: row["questions"] for row in rows}
        ax.set_yticks(range(len(categories)), [f"{name} ({counts[name]})" for name in categories])
        ax.set(xlabel="unsafe, % of completions", xlim=(-3, 103))
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(arms))
        figure.suptitle("ASR by harm category, LLaMA3-70B, all attacks but PAIR (questions): 95 % Wilson intervals")
    return figure
