"""The figures that reports cite: PDF, PNG and the CSV behind each."""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from derta.runs import ROOT, provenance, write_atomically, write_csv

# Okabe and Ito's colour-blind-safe colours; the marker tells the arms apart in print.
ARM_STYLE = {
    "base": {"color": "#666666", "marker": "s", "label": "before tuning"},
    "vanilla": {"color": "#0072B2", "marker": "o", "label": "vanilla"},
    "derta": {"color": "#D55E00", "marker": "D", "label": "DeRTa"},
}
ATTACK_LABEL = {
    "direct": "Direct\nquestion",
    "prefill": "Prefilled\nstart",
    "completing": "Completing-\nAttack",
    "role_play": "Role play",
    "helpful": "Ordinary\ninstructions",
    "borderline": "Borderline\nbenign",
}
STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}


def mask(text: str, show: bool) -> str:
    """The first three words of a text that may be unsafe and the number of the others; all of it where `show`."""
    words = text.split()
    return text if show or len(words) <= 3 else f"{' '.join(words[:3])} … [{len(words) - 3} words masked]"


def refusal_depth(curves: Sequence[dict], model: str) -> Figure:
    """Mean P(refusal token) by response position, along harmful responses and along the benign twins'.

    Args:
        curves: rows of `results/depth.csv`: `arm`, `kind`, `position`, `n`, `mean`, `low`, `high` (fractions).
    """
    titles = {"harmful": "Along harmful responses", "benign": "Along the benign twins' responses"}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.9), sharey=True, layout="constrained")
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
        axes[0].legend(loc="center right")
        figure.suptitle(f"Refusal depth, {model}: mean and 95 % bootstrap interval over behaviours", fontsize=9)
    return figure


def refusals_by_attack(rates: Sequence[dict], selectivity: Sequence[dict], model: str) -> Figure:
    """Refusals of harmful requests and of their benign twins by attack, and the difference.

    Args:
        rates: rows with `arm`, `attack`, `benign` (bool), `n` and `rate`, `low`, `high` (fractions).
        selectivity: rows with `arm`, `attack`, `n`, `selectivity`, `low`, `high` (fractions).
    """
    attacks = [name for name in ATTACK_LABEL if any(row["attack"] == name for row in selectivity)]
    arms = [arm for arm in ARM_STYLE if any(row["arm"] == arm for row in rates)]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.3), layout="constrained", width_ratios=(3, 2))
        for place, arm in enumerate(arms):
            shift = (place - (len(arms) - 1) / 2) * 0.24
            style = {k: v for k, v in ARM_STYLE[arm].items() if k != "label"} | {"ls": "none", "ms": 5, "capsize": 2}
            for benign in (False, True):
                points = {row["attack"]: row for row in rates if row["arm"] == arm and row["benign"] is benign}
                label = f"{ARM_STYLE[arm]['label']}, {'benign twin' if benign else 'harmful'}"
                face = {"mfc": "white"} if benign else {}
                _error_bars(left, attacks, points, "rate", shift + 0.08 * benign, style | face | {"label": label})
            points = {row["attack"]: row for row in selectivity if row["arm"] == arm}
            _error_bars(right, attacks, points, "selectivity", shift, style | {"label": ARM_STYLE[arm]["label"]})
        n = max(row["n"] for row in selectivity)
        left.set(title="Refused: harmful requests and benign twins", ylabel="percent", ylim=(-3, 103))
        right.set(title="Selectivity: refused harmful − refused twin", ylabel="percentage points")
        right.axhline(0, color="#888888", lw=0.8)
        for ax in (left, right):
            ax.set_xticks(range(len(attacks)), [ATTACK_LABEL[name] for name in attacks])
            ax.grid(axis="x", visible=False)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        note = "Wilson (left) and paired bootstrap (right) 95 % intervals"
        figure.suptitle(f"Attacks on {model}, unseen behaviours and phrasings, n = {n} per point; {note}", fontsize=9)
    return figure


def _error_bars(ax, attacks, points, field, shift, style):
    """Draw `field` of each attack's point with its interval, in percent."""
    shown = [(i, points[name]) for i, name in enumerate(attacks) if name in points]
    y = [100 * point[field] for _, point in shown]
    below = [max(0.0, 100 * (point[field] - point["low"])) for _, point in shown]
    above = [max(0.0, 100 * (point["high"] - point[field])) for _, point in shown]
    ax.errorbar([i + shift for i, _ in shown], y, yerr=[below, above], **style)


def save(figure: Figure, rows: Sequence[dict], name: str, profile: str, **facts) -> Path:
    """Write ``figures/<profile>/<name>`` as PDF, PNG and CSV (`rows`, fractions), and the profile's provenance."""
    folder = ROOT / "figures" / profile
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
    figure.savefig(folder / f"{name}.png")
    write_csv(folder / f"{name}.csv", list(rows))
    write_atomically(folder / "provenance.json", json.dumps(provenance(profile=profile, **facts), indent=1) + "\n")
    return folder / f"{name}.png"
