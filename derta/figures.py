"""What the figures for reports have in common: style, colours, masking, and their files with data and provenance."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from derta.attacks import ATTACKS
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
    "vanilla_paper": {"color": "#0072B2", "marker": "o", "label": "vanilla, the paper's recipe", "mfc": "white"},
    "derta_paper": {"color": "#D55E00", "marker": "D", "label": "DeRTa, the paper's recipe", "mfc": "white"},
    "derta_close": {"color": "#D55E00", "marker": "h", "label": "DeRTa, with close pairs", "mfc": "white"},
    "derta_words": {"color": "#D55E00", "marker": "p", "label": "DeRTa, several words"},
    "reopened": {"color": "#0072B2", "marker": "<", "label": "vanilla, turn opened anew", "mfc": "white"},
    "probe": {"color": "#666666", "marker": "d", "label": "linear probe, before tuning", "mfc": "white"},
    "words": {"color": "#666666", "marker": "x", "label": "bag of words"},
}
ARM_LABELS = {arm: style["label"] for arm, style in ARM_STYLE.items()} | {"none": "as released"}
ATTACK_LABELS = {name: attack.label for name, attack in ATTACKS.items()} | {"pair": "PAIR", "autodan": "AutoDAN"}
MEASURE_LABELS = {
    "harmful": "harmful refused",
    "benign": "twin refused",
    "asr": "unsafe (ASR)",
    "selectivity": "selectivity",
    "auroc": "AUROC",
    "ordered": "pairs in order",
}
# Widths in inches: of one column and of two, in which the text of the figures has eight points.
ONE, TWO = 3.35, 6.9
STYLE: dict[str, Any] = {
    "figure.dpi": 130,
    "font.size": 8,
    "axes.titlesize": 8,
    "figure.titlesize": 8,
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


def named(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table for readers: in its columns `arm`, `attack` and `measure`, labels in the place of known names."""
    labels = {"arm": ARM_LABELS, "attack": ATTACK_LABELS, "measure": MEASURE_LABELS}
    return table.assign(**{column: table[column].replace(of) for column, of in labels.items() if column in table})


def interval(mean: float, low: float, high: float, scale: float = 100, digits: int = 0, signed: bool = False) -> str:
    """Return an estimate with its interval for a table: by default a fraction, in percent; – where there is none."""
    if mean is None or mean != mean:
        return "–"
    form = f"{'+' if signed else ''}z.{digits}f"
    return "{} [{}, {}]".format(*(format(scale * x, form) for x in (mean, low, high)))


def intervals(table: pd.DataFrame, name: str, **form: Any) -> list[str]:
    """Return the estimates of a column with their intervals in ``<name>_low`` and ``<name>_high``; see `interval`."""
    cells = table[[name, f"{name}_low", f"{name}_high"]].astype(float)
    return [interval(*row, **form) for row in cells.itertuples(index=False)]


def save(figure: Figure, rows: Sequence[dict], name: str, profile: str, **facts) -> Path:
    """Write the figure `name` as PDF and PNG into the profile's folder, with its data; see `save_table`.

    Returns:
        The path of the PNG.
    """
    folder = save_table(rows, name, profile, **facts).parent
    with plt.rc_context(STYLE):  # which decides how fonts are embedded
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
        figure.savefig(folder / f"{name}.png", dpi=200)
    plt.close(figure)
    return folder / f"{name}.png"


def save_table(
    rows: Sequence[dict],
    name: str,
    profile: str,
    columns: Sequence[str] = (),
    shown: pd.DataFrame | None = None,
    **facts: Any,
) -> Path:
    """Write the table `name` as CSV into the profile's folder, and its provenance with `facts` as JSON.

    Args:
        columns: the keys of the rows, for a table that may have none.
        shown: the table for readers, which is written as Markdown and as LaTeX (booktabs), with the fact `caption`.

    Returns:
        The path of the CSV.
    """
    folder = figure_dir(profile)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / f"{name}.csv", list(rows), columns)
    write_atomically(folder / f"{name}.json", json.dumps(provenance(profile=profile, **facts), indent=1) + "\n")
    if shown is not None:
        flat = shown.reset_index() if any(shown.index.names) else shown
        write_atomically(folder / f"{name}.md", flat.to_markdown(index=False) + "\n")
        wide = [flat[column].astype(str).str.len().max() > 60 for column in flat]
        latex = flat.to_latex(
            index=False,
            escape=True,
            float_format="{:g}".format,
            column_format="".join(r"p{0.4\linewidth}" if it else "l" for it in wide),
            caption=facts["caption"],
            label=f"tab:{name}",
        )
        write_atomically(folder / f"{name}.tex", latex)
    return folder / f"{name}.csv"
