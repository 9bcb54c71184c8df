"""Texts with their tokens marked: by the kind of label in a dataset, or by P(refusal)."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from derta.figures import STYLE, TWO

# The kinds of labels, with their colours.
LABELS = {
    "": ("no label", "#E8E8E8"),
    "token": ("label: the token itself", "#9ECAE9"),
    "refusal": ("label: the refusal token", "#F2A65A"),
}


def labels_by_token(rows: dict[str, list[tuple[str, str]]], width: int = 112) -> Figure:
    """Show rows of an arm's dataset, token by token, coloured by the kind of label.

    Args:
        rows: title → (token text, a kind of `LABELS`) per token.
        width: characters per line.
    """
    figure, _ = _texts({title: [(t, LABELS[kind][1]) for t, kind in tokens] for title, tokens in rows.items()}, width)
    handles = [Patch(color=colour, label=name) for name, colour in LABELS.values()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def refusal_by_token(rows: dict[str, list[tuple[str, float]]], width: int = 112) -> Figure:
    """Show a response token by token, coloured by P(refusal token) in the place of each token.

    Args:
        rows: title (of a model) → (token text, probability from 0 to 1) per token.
        width: characters per line.
    """
    # Light to dark, so that it can be read in grey; not so dark that the text could not.
    scale = ScalarMappable(plt.Normalize(0, 1.4), "YlOrBr")
    coloured = {
        title: list(zip([text for text, _ in tokens], scale.to_rgba(np.array([p for _, p in tokens])), strict=True))
        for title, tokens in rows.items()
    }
    figure, ax = _texts(coloured, width)
    shades = [i / 100 for i in range(101)]
    with plt.rc_context(STYLE):
        bar = figure.colorbar(scale, ax=ax, location="top", fraction=0.12, aspect=80, boundaries=shades)
        bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "25", "50", "75", "100"], fontsize=7)
        bar.set_label("P(refusal token) in the place of the token, percent", fontsize=8)
    return figure


def _texts(rows: dict[str, list[tuple[str, Any]]], width: int) -> tuple[Figure, plt.Axes]:
    """Draw texts of coloured tokens, each under its title."""
    lines: list[tuple[str, list[tuple[int, str, Any]]]] = []
    for title, tokens in rows.items():
        line: list[tuple[int, str, Any]] = []
        column, head = 0, title
        for text, colour in tokens:
            if column + len(text) > width:
                lines.append((head, line))
                line, column, head = [], 0, ""
            line.append((column, text, colour))
            column += len(text)
        lines.append((head, line))
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(TWO, 0.19 * (len(lines) + 0.6 * len(rows)) + 0.4), layout="constrained")
        y = 0.0
        for head, line in lines:
            y -= 1.6 if head else 1
            ax.text(-1, y, head, ha="right", va="center", fontsize=8)
            for column, text, colour in line:
                ax.add_patch(Rectangle((column, y - 0.42), len(text) - 0.12, 0.84, color=colour, lw=0))
                ax.text(column, y, text, va="center", family="monospace", fontsize=6.4, parse_math=False)
        ax.set(xlim=(-16, width), ylim=(y - 0.6, -0.8))
        ax.axis("off")
    return figure, ax
