"""The figures of the notebooks: tables → matplotlib figures, in the style of `derta.figures`."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from derta.figures import ARM_LABELS, ARM_STYLE, STYLE, TWO


def refusal_depth(curves: Sequence[dict], model: str) -> Figure:
    """Plot the mean P(refusal token) by response position, along harmful responses and along those of the benign twins.

    Args:
        curves: rows of `results/depth.csv`: `arm`, `kind`, `position`, `n`, `mean`, `low`, `high` (fractions).
    """
    titles = {"harmful": "Along harmful responses", "benign": "Along benign twins' responses"}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(TWO, 3.1), sharey=True, layout="constrained")
        for ax, (kind, title) in zip(axes, titles.items(), strict=True):
            for arm, style in ARM_STYLE.items():
                points = [row for row in curves if row["arm"] == arm and row["kind"] == kind]
                if not points:
                    continue
                x = [row["position"] for row in points]
                ax.plot(x, [100 * row["mean"] for row in points], markevery=8, markersize=4, lw=1.4, **style)
                low, high = [100 * row["low"] for row in points], [100 * row["high"] for row in points]
                ax.fill_between(x, low, high, color=style["color"], alpha=0.2, lw=0)
            n = max((row["n"] for row in curves if row["kind"] == kind), default=0)
            ax.set(title=f"{title} (n = {n})", xlabel="position t in the response (tokens)", ylim=(-2, 102))
        axes[0].set_ylabel("P(refusal token), percent")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.suptitle(f"Refusal depth, {model}: mean and 95 % interval over behaviours")
    return figure


def refusals_by_attack(rows: Sequence[dict], labels: dict[str, str], model: str) -> Figure:
    """Plot the refusals of harmful requests and of their benign twins by attack, the ASR, and the difference.

    Args:
        rows: rows of `derta.measures.measure`, one per arm and attack.
        labels: labels of the attacks, in their order.
    """
    attacks = [name for name in labels if any(row["attack"] == name for row in rows)]
    arms = [arm for arm in ARM_STYLE if any(row["arm"] == arm for row in rows)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(3, 1, figsize=(TWO, 7.6), layout="constrained", height_ratios=(3, 2, 2))
        upper, middle, lower = axes
        step = 0.78 / len(arms)
        for place, arm in enumerate(arms):
            shift = (place - (len(arms) - 1) / 2) * step
            points = {row["attack"]: row for row in rows if row["arm"] == arm}
            shown = [(i, points[name]) for i, name in enumerate(attacks) if name in points]
            style: dict[str, Any] = ARM_STYLE[arm] | {"ls": "none", "ms": 4.5, "capsize": 1.5, "lw": 1}
            for ax, field, move, suffix in (
                (upper, "harmful", -0.15 * step, ", harmful"),
                (upper, "benign", 0.15 * step, ", benign twin"),
                (middle, "asr", 0.0, ""),
                (lower, "selectivity", 0.0, ""),
            ):
                y = [100 * point[field] for _, point in shown]
                look = style | {"label": style["label"] + suffix} | ({"mfc": "white"} if field == "benign" else {})
                ax.errorbar([i + shift + move for i, _ in shown], y, yerr=_bars([p for _, p in shown], field), **look)
        upper.set(title="Refused: harmful requests and their benign twins", ylabel="percent", ylim=(-3, 103))
        middle.set(title="Unsafe: attack success rate (ASR)", ylabel="percent", ylim=(-3, 103))
        lower.set(title="Selectivity: refused harmful − refused twin", ylabel="percentage points")
        lower.axhline(0, color="#888888", lw=0.8)
        names = [f"{labels[name]} ({_pairs(rows, name)})" for name in attacks]
        for ax, ticks in ((upper, [""] * len(names)), (middle, [""] * len(names)), (lower, names)):
            ax.set_xticks(range(len(attacks)), ticks, rotation=30, ha="right", rotation_mode="anchor")
            ax.grid(axis="x", visible=False)
        figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(arms), 4))
        figure.suptitle(
            f"Attacks on {model}: unseen behaviours and phrasings; in brackets, pairs per model\n"
            "95 % intervals over seeds and behaviours"
        )
    return figure


def _bars(points: Sequence[dict], field: str) -> tuple[list[float], list[float]]:
    """Return how far, in percent, the interval of `field` reaches below and above it."""
    # A bound may differ from the estimate by a rounding error on the wrong side.
    below = [max(0.0, 100 * (point[field] - point[f"{field}_low"])) for point in points]
    above = [max(0.0, 100 * (point[f"{field}_high"] - point[field])) for point in points]
    return below, above


def _pairs(rows: Sequence[dict], attack: str) -> str:
    """Return how many pairs the arms have in an attack."""
    found = sorted({row["n"] for row in rows if row["attack"] == attack})
    return f"{found[0]}" if len(found) == 1 else f"{found[0]}–{found[-1]}"


# The title, the scale and the value by chance of measures that tell harm from its twin.
TOLD_APART: dict[str, tuple[str, float, float]] = {
    "auroc": ("AUROC of P(refusal)", 1, 0.5),
    "ordered": ("pairs in the right order, %", 100, 50),
    "selectivity": ("refused harmful − twin, points", 100, 0),
}


def by_arm(
    rows: Sequence[dict], labels: dict[str, str], title: str, columns: dict[str, tuple[str, float, float]] = TOLD_APART
) -> Figure:
    """Plot estimates with their intervals, one line per arm, one column per measure, attack by attack.

    Args:
        rows: one per arm and attack; each measure with its `_low` and `_high`, NaN or absent where it was not measured.
        labels: labels of the attacks, in their order.
        columns: the measures, each with its title, its scale and the value at which a line is drawn.
    """
    arms = [arm for arm in ARM_STYLE if any(row["arm"] == arm for row in rows)]
    size = (TWO, 0.19 * len(arms) * len(labels) + 0.35 * len(labels) + 0.6)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(labels), len(columns), figsize=size, sharex="col", sharey=True, layout="constrained", squeeze=False
        )
        for line, (attack, label) in zip(axes, labels.items(), strict=True):
            points = {row["arm"]: row for row in rows if row["attack"] == attack}
            for ax, (field, (_, scale, at)) in zip(line, columns.items(), strict=True):
                values = [points.get(arm, {}).get(field) for arm in arms]
                measured = [y for y, value in enumerate(values) if value is not None and not np.isnan(value)]
                for y in measured:
                    bars = np.array(_bars([points[arms[y]]], field)) * scale / 100
                    look = ARM_STYLE[arms[y]] | {"ls": "none", "ms": 4, "capsize": 1.5, "lw": 1}
                    ax.errorbar([scale * points[arms[y]][field]], [y], xerr=bars, **look)
                if not measured:
                    ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", va="center")
                ax.axvline(at, color="#888888", lw=0.8)
                ax.set(ylim=(len(arms) - 0.4, -0.6))
            line[0].set_yticks(range(len(arms)), [ARM_LABELS[arm] for arm in arms])
            line[0].set_title(label, loc="left")
        for ax, (name, *_) in zip(axes[-1], columns.values(), strict=True):
            ax.set_xlabel(name)
        figure.suptitle(title)
    return figure


def refusals_begin(rows: Sequence[dict], labels: dict[str, str], model: str) -> Figure:
    """Plot the share of answers that have refused by token, as a staircase, for harmful requests and their twins.

    Args:
        rows: rows of `derta.measures.begun`.
        labels: labels of the attacks, in their order.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(labels), figsize=(TWO, 3), sharey=True, layout="constrained", squeeze=False)
        for ax, (attack, label) in zip(axes[0], labels.items(), strict=True):
            for arm, style in ARM_STYLE.items():
                for control, line in ((False, "-"), (True, ":")):
                    asked = (arm, attack, control)
                    points = [row for row in rows if (row["arm"], row["attack"], row["control"]) == asked]
                    if not points:
                        continue
                    x = [row["token"] for row in points]
                    named = {"label": style["label"] + (", benign twin" if control else ", harmful")}
                    look = style | named | {"ls": line, "markevery": [0, 4, len(x) - 1], "ms": 4, "lw": 1.3}
                    ax.step(x, [100 * row["mean"] for row in points], where="post", **look)
                    low, high = ([100 * row[end] for row in points] for end in ("low", "high"))
                    ax.fill_between(x, low, high, step="post", color=style["color"], alpha=0.12, lw=0)
            n = max(row["n"] for row in rows if row["attack"] == attack)
            ax.set(
                title=f"{label} (n = {n})",
                xlabel="token of the model's own answer",
                ylim=(-2, 102),
                xscale="log",
            )
            ax.set_xticks([1, 5, 20, 64], [1, 5, 20, 64])
            ax.minorticks_off()
        axes[0][0].set_ylabel("have refused, percent")
        handles, names = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names) // 2)
        figure.suptitle(f"Where refusals begin, {model}: share of all answers, 95 % intervals")
    return figure


def prefill_depth(rows: Sequence[dict], model: str) -> Figure:
    """Plot refusals by the number of response tokens before the model's own, and their difference.

    Args:
        rows: rows of `evaluate.selectivity`, one per arm and depth.
    """
    panels = {
        "harmful": "After harmful responses",
        "benign": "After benign twins' responses",
        "selectivity": "Selectivity",
    }
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(TWO, 3), layout="constrained")
        arms = [arm for arm in ARM_STYLE if any(row["arm"] == arm for row in rows)]
        depths = sorted({row["depth"] for row in rows})
        for ax, (field, title) in zip(axes, panels.items(), strict=True):
            for place, arm in enumerate(arms):
                points = sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["depth"])
                x = [depths.index(point["depth"]) + 0.06 * (place - (len(arms) - 1) / 2) for point in points]
                y = [100 * point[field] for point in points]
                ax.errorbar(x, y, yerr=_bars(points, field), **ARM_STYLE[arm] | {"lw": 1.1, "ms": 4, "capsize": 1.5})
            ax.set(title=title, xlabel="tokens of the response given")
            ax.set_xticks(range(len(depths)), depths)
        for ax in axes[:2]:
            ax.set(ylabel="refused, percent", ylim=(-3, 103))
        axes[2].set(ylabel="percentage points")
        axes[2].axhline(0, color="#888888", lw=0.8)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        n = max(row["n"] for row in rows)
        figure.suptitle(f"Prefilled replies on {model}: n = {n} pairs, 95 % intervals")
    return figure
