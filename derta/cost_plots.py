"""The figures of what a defence costs, and of how it comes and goes along a tuning."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from derta.figures import ARM_STYLE, STYLE, TWO

# What is measured of each, with its unit and scale.
ACCURACY = ("accuracy, percentage points", 100)
LIKELIHOOD = ("NLL, nats per token", 1)
TITLES = {"exact_match": "easy questions", "gsm8k": "GSM8K", "mmlu": "MMLU"}


def differences(rows: pd.DataFrame, pairs: Sequence[tuple[str, str]], model: str) -> Figure:
    """Plot differences between models in accuracy and in likelihood.

    Args:
        rows: those of `derta.helpfulness.differences`.
        pairs: which are shown.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(TWO, 2.6), layout="constrained")
        for ax, (measure, (title, scale)) in zip(axes, {"accuracy": ACCURACY, "nll": LIKELIHOOD}.items(), strict=True):
            own = rows[rows.measure == measure]
            kinds = list(dict.fromkeys(own.of))
            for place, (first, second) in enumerate(pairs):
                found = own[(own["first"] == first) & (own["second"] == second)]
                y = [kinds.index(kind) + 0.2 * (place - 1) for kind in found.of]
                bars = [scale * (found.difference - found.low), scale * (found.high - found.difference)]
                look: dict[str, Any] = ARM_STYLE[second] | {"ls": "none", "ms": 4, "capsize": 1.5, "lw": 1}
                look |= {"label": f"{ARM_STYLE[second]['label']} less {ARM_STYLE[first]['label']}"}
                look |= {"color": "#000000", "marker": "s"} if first == "vanilla" else {}
                ax.errorbar(scale * found.difference, y, xerr=bars, **look)
            ax.axvline(0, color="#888888", lw=0.8)
            n = own.groupby("of").n.first()
            ax.set_yticks(range(len(kinds)), [f"{TITLES.get(kind, kind)} (n = {n[kind]})" for kind in kinds])
            ax.set(xlabel=title, ylim=(len(kinds) - 0.5, -0.5))
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        figure.suptitle(f"What tuning costs {model}: 95 % intervals, line: no difference")
    return figure


def by_steps(refused: pd.DataFrame, costs: pd.DataFrame, title: str) -> Figure:
    """Plot refusals, accuracy and likelihood by the number of steps; see `derta.along.Followed` for the rows."""
    panels = {"harmful": "refused harmful, %", "benign": "refused twin, %"}
    prices = {"accuracy": ("easy questions, % right", 100), "nll": ("answers, nats per token", 1)}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 4, figsize=(TWO, 2.6), layout="constrained")
        for arm in dict.fromkeys(refused.arm):
            style = ARM_STYLE[arm] | {"ms": 4, "lw": 1.1, "capsize": 1.5}
            for attack, look in {"prefill": {}, "direct": {"mfc": "white", "ls": ":"}}.items():
                points = refused[(refused.arm == arm) & (refused.attack == attack)].sort_values("steps")
                place = "after a started reply" if attack == "prefill" else "asked directly"
                named = style | look | {"label": f"{style['label']}, {place}"}
                for ax, field in zip(axes, panels, strict=False):
                    below, above = points[field] - points[f"{field}_low"], points[f"{field}_high"] - points[field]
                    ax.errorbar(points.steps, 100 * points[field], yerr=[100 * below, 100 * above], **named)
            for ax, (measure, (_, scale)) in zip(axes[2:], prices.items(), strict=True):
                points = costs[(costs.arm == arm) & (costs.measure == measure)].sort_values("steps")
                bars = [scale * (points["mean"] - points.low), scale * (points.high - points["mean"])]
                ax.errorbar(points.steps, scale * points["mean"], yerr=bars, **style)
        for ax, name in zip(axes, [*panels.values(), *(name for name, _ in prices.values())], strict=True):
            ax.set(title=name, xlabel="optimiser steps")
        for ax in axes[:2]:
            ax.set(ylim=(-3, 103))
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        figure.suptitle(title)
    return figure


def depth_by_steps(curves: pd.DataFrame) -> Figure:
    """Plot mean P(refusal) by response position, a curve for each number of steps; see `derta.along.Followed`."""
    arms = list(dict.fromkeys(curves.arm))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(arms), figsize=(TWO, 2.6), sharey=True, layout="constrained", squeeze=False)
        shades = plt.colormaps["viridis"].resampled(len(set(curves.steps)) + 1)
        for ax, arm in zip(axes[0], arms, strict=True):
            own = curves[curves.arm == arm]
            for place, (after, points) in enumerate(own.groupby("steps")):
                look = {"color": shades(place), "lw": 1.3, "label": f"after {after} steps"}
                ax.plot(points.position, 100 * points["mean"], **look)
            title = f"{ARM_STYLE[arm]['label']} (n = {own.n.max()})"
            ax.set(title=title, xlabel="position in a harmful response (tokens)")
        axes[0][0].set(ylabel="mean P(refusal token), %", ylim=(-2, 102))
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper")
    return figure
