"""The figures for reports: each as PDF and PNG, with its data as CSV."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from derta.files import write_atomically, write_csv
from derta.runs import figure_dir, provenance

# Okabe and Ito's colour-blind-safe colours; the markers distinguish the arms in print.
ARM_STYLE: dict[str, dict[str, str]] = {
    "base": {"color": "#666666", "marker": "s", "label": "before tuning"},
    "vanilla": {"color": "#0072B2", "marker": "o", "label": "vanilla"},
    "vanilla_half": {"color": "#56B4E9", "marker": "v", "label": "vanilla, half the safety data"},
    "harmful_prefix": {"color": "#009E73", "marker": "^", "label": "harmful prefix"},
    "rto": {"color": "#E69F00", "marker": "P", "label": "RTO"},
    "derta": {"color": "#D55E00", "marker": "D", "label": "DeRTa"},
    "recaug": {"color": "#CC79A7", "marker": "X", "label": "RecAug"},
    "dpo": {"color": "#000000", "marker": "*", "label": "DPO"},
}
STYLE: dict[str, Any] = {
    "figure.dpi": 110,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}


def mask(text: str, show: bool) -> str:
    """Return the first three words of a text that may be unsafe and the number of the others; all of it if `show`."""
    words = text.split()
    return text if show or len(words) <= 3 else f"{' '.join(words[:3])} … [{len(words) - 3} words masked]"


def refusal_depth(curves: Sequence[dict], model: str) -> Figure:
    """Plot the mean P(refusal token) by response position, along harmful responses and along those of the benign twins.

    Args:
        curves: rows of `results/depth.csv`: `arm`, `kind`, `position`, `n`, `mean`, `low`, `high` (fractions).
    """
    titles = {"harmful": "Along harmful responses", "benign": "Along benign twins' responses"}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.1), sharey=True, layout="constrained")
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
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(ARM_STYLE))
        figure.suptitle(f"Refusal depth, {model}: mean and 95 % interval over behaviours", fontsize=9)
    return figure


def refusals_by_attack(rows: Sequence[dict], labels: dict[str, str], model: str) -> Figure:
    """Plot the refusals of harmful requests and of their benign twins by attack, and the difference.

    Args:
        rows: rows of `evaluate.selectivity`, one per arm and attack.
        labels: labels of the attacks, in their order.
    """
    attacks = [name for name in labels if any(row["attack"] == name for row in rows)]
    arms = [arm for arm in ARM_STYLE if any(row["arm"] == arm for row in rows)]
    with plt.rc_context(STYLE):
        figure, (upper, lower) = plt.subplots(2, 1, figsize=(8.4, 6), layout="constrained", height_ratios=(3, 2))
        step = 0.78 / len(arms)
        for place, arm in enumerate(arms):
            shift = (place - (len(arms) - 1) / 2) * step
            points = {row["attack"]: row for row in rows if row["arm"] == arm}
            shown = [(i, points[name]) for i, name in enumerate(attacks) if name in points]
            style: dict[str, Any] = ARM_STYLE[arm] | {"ls": "none", "ms": 4.5, "capsize": 1.5, "lw": 1}
            for ax, field, move, suffix in (
                (upper, "harmful", -0.15 * step, ", harmful"),
                (upper, "benign", 0.15 * step, ", benign twin"),
                (lower, "selectivity", 0.0, ""),
            ):
                y = [100 * point[field] for _, point in shown]
                look = style | {"label": style["label"] + suffix} | ({"mfc": "white"} if field == "benign" else {})
                ax.errorbar([i + shift + move for i, _ in shown], y, yerr=_bars([p for _, p in shown], field), **look)
        upper.set(title="Refused: harmful requests and their benign twins", ylabel="percent", ylim=(-3, 103))
        lower.set(title="Selectivity: refused harmful − refused twin", ylabel="percentage points")
        lower.axhline(0, color="#888888", lw=0.8)
        for ax in (upper, lower):
            ax.set_xticks(range(len(attacks)), [labels[name] for name in attacks])
            ax.grid(axis="x", visible=False)
        figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(arms), 4))
        lower.set_xticks(range(len(attacks)), [f"{labels[name]}\n({_pairs(rows, name)})" for name in attacks])
        figure.suptitle(
            f"Attacks on {model}: unseen behaviours and phrasings; in brackets, pairs per model\n"
            "95 % intervals over seeds and behaviours",
            fontsize=9,
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
        figure, axes = plt.subplots(1, 3, figsize=(8.4, 3), layout="constrained")
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
        figure.suptitle(f"Prefilled replies on {model}: n = {n} pairs, 95 % intervals", fontsize=9)
    return figure


def labels_by_token(rows: dict[str, list[tuple[str, str]]], width: int = 112) -> Figure:
    """Show rows of an arm's dataset, token by token, coloured by the kind of label.

    Args:
        rows: title → (token text, ``""`` for no label, ``"token"`` or ``"refusal"``) per token.
        width: characters per line.
    """
    colours = {"": "#E8E8E8", "token": "#9ECAE9", "refusal": "#F2A65A"}
    names = {"": "no label", "token": "label: the token itself", "refusal": "label: the refusal token"}
    lines: list[tuple[str, list[tuple[int, str, str]]]] = []
    for title, tokens in rows.items():
        line: list[tuple[int, str, str]] = []
        column, head = 0, title
        for text, label in tokens:
            if column + len(text) > width:
                lines.append((head, line))
                line, column, head = [], 0, ""
            line.append((column, text, label))
            column += len(text)
        lines.append((head, line))
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(9, 0.19 * (len(lines) + 0.6 * len(rows)) + 0.4), layout="constrained")
        y = 0.0
        for head, line in lines:
            y -= 1.6 if head else 1
            ax.text(-1, y, head, ha="right", va="center", fontsize=8)
            for column, text, label in line:
                ax.add_patch(Rectangle((column, y - 0.42), len(text) - 0.12, 0.84, color=colours[label], lw=0))
                ax.text(column, y, text, va="center", family="monospace", fontsize=6.4, parse_math=False)
        ax.set(xlim=(-16, width), ylim=(y - 0.6, -0.8))
        ax.axis("off")
        handles = [Patch(color=colours[label], label=names[label]) for label in names]
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def save(figure: Figure, rows: Sequence[dict], name: str, profile: str, **facts) -> Path:
    """Write the figure `name` as PDF, PNG and CSV (`rows`) into the profile's folder, with the profile's provenance.

    Returns:
        The path of the PNG.
    """
    folder = figure_dir(profile)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
    figure.savefig(folder / f"{name}.png", dpi=200)
    plt.close(figure)
    write_csv(folder / f"{name}.csv", list(rows))
    write_atomically(folder / "provenance.json", json.dumps(provenance(profile=profile, **facts), indent=1) + "\n")
    return folder / f"{name}.png"
