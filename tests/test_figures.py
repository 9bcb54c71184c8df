"""Figures: files, and what may be printed."""

import csv
import json
from itertools import pairwise

import pandas as pd
import pytest

from derta import figures, marked, plots
from derta.attacks import ATTACKS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DERTA_RUNS", str(tmp_path))
    return tmp_path / "test" / "figures"


def test_depth_figure_is_drawn_and_saved_with_its_data(folder):
    point = {"n": 3, "mean": 0.25, "low": 0.125, "high": 0.5}
    curves = [
        {"arm": arm, "kind": kind, "position": t} | point
        for arm in ("vanilla", "derta")
        for kind in ("harmful", "benign")
        for t in (1, 2)
    ]
    figure = plots.refusal_depth(curves, "tiny")
    assert [len(ax.lines) for ax in figure.axes] == [2, 2]
    assert list(figure.axes[0].lines[0].get_ydata()) == [25, 25]
    figures.save(figure, curves, "refusal_depth", "test")
    first = (folder / "refusal_depth.pdf").read_bytes()
    with (folder / "refusal_depth.csv").open() as file:
        assert [float(row["mean"]) for row in csv.DictReader(file)] == [0.25] * 8
    figures.save(plots.refusal_depth(curves, "tiny"), curves, "refusal_depth", "test", seeds=[3])
    assert (folder / "refusal_depth.pdf").read_bytes() == first
    facts = json.loads((folder / "refusal_depth.json").read_text())
    assert (facts["profile"], facts["seeds"]) == ("test", [3])
    assert b"/Type3" not in first, "some venues take no PDF with such fonts"
    assert b"/TrueType" in first or b"/CIDFontType2" in first


def test_attack_figure_shows_every_arm_twice_and_its_asr_and_selectivity_once():
    point = {"n": 4}
    for name in ("harmful", "benign", "asr", "selectivity"):
        point |= {name: 0.5, f"{name}_low": 0.2, f"{name}_high": 0.8}
    rows = [{"arm": arm, "attack": name} | point for arm in ("vanilla", "derta") for name in ("direct", "prefill")]
    labels = {name: attack.label for name, attack in ATTACKS.items()}
    upper, middle, lower = plots.refusals_by_attack(rows, labels, "tiny").axes
    assert [len(ax.containers) for ax in (upper, middle, lower)] == [4, 2, 2]
    assert [label.get_text() for label in lower.get_xticklabels()] == ["Direct question (4)", "Prefilled start (4)"]


def test_the_figure_by_arm_leaves_out_what_was_not_measured():
    rows = []
    for arm in ("vanilla", "derta", "words"):
        row = {"arm": arm, "attack": "direct", "n": 4}
        for name in ("auroc", "ordered", "selectivity"):
            row |= {name: 0.5, f"{name}_low": 0.25, f"{name}_high": 0.8}
        rows.append(row)
    rows[1]["auroc"] = float("nan")
    axes = plots.by_arm(rows, {"direct": "Direct\nquestion"}, "tiny").axes
    assert [len(ax.containers) for ax in axes] == [2, 3, 3]
    (point, _, (bar,)) = axes[1].containers[0]
    assert list(point.get_xdata()) == [50]
    assert [x for x, _ in bar.get_segments()[0]] == pytest.approx([25, 80])
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["vanilla", "DeRTa", "bag of words"]


def test_refusals_by_token_are_drawn_for_both_sides():
    tokens = range(1, 65)
    rows = [
        {"arm": arm, "attack": "direct", "control": control, "token": t, "n": 4, "mean": t / 64, "low": 0, "high": 1}
        for arm in ("vanilla", "derta")
        for control in (False, True)
        for t in tokens
    ]
    (ax,) = plots.refusals_begin(rows, {"direct": "Direct\nquestion"}, "tiny").axes
    assert [list(line.get_xdata()) for line in ax.lines] == [list(tokens)] * 4
    assert ax.lines[0].get_ydata()[31] == 50


def test_a_response_is_coloured_by_token_and_broken_into_lines():
    tokens = [("four", i / 40) for i in range(41)]
    ax, bar = marked.refusal_by_token({"vanilla": tokens, "DeRTa": tokens}, width=80).axes
    assert [text.get_text() for text in ax.texts if text.get_ha() == "right"] == ["vanilla", "", "", "DeRTa", "", ""]
    shades = [patch.get_facecolor() for patch in ax.patches]
    assert len(shades) == 82
    light = [0.3 * red + 0.59 * green + 0.11 * blue for red, green, blue, _ in shades[:41]]
    assert all(later <= before + 1e-6 for before, later in pairwise(light)), "not readable in grey"
    assert [label.get_text() for label in bar.get_xticklabels()] == ["0", "25", "50", "75", "100"]


def test_an_estimate_is_written_with_its_interval():
    assert figures.interval(0.5, 0.25, 0.8) == "50 [25, 80]"
    assert figures.interval(-0.001, -0.02, 0.01, signed=True) == "+0 [-2, +1]"
    assert figures.interval(0.567, 0.5, 0.62, scale=1, digits=2) == "0.57 [0.50, 0.62]"
    assert figures.interval(float("nan"), float("nan"), float("nan")) == "–"


def test_unsafe_text_is_masked_unless_asked_for():
    assert figures.mask("take the keys from the drawer", show=False) == "take the keys … [3 words masked]"
    assert figures.mask("take the keys from the drawer", show=True) == "take the keys from the drawer"


def test_a_table_for_readers_has_labels_and_is_written_as_markdown_and_latex(folder):
    rows = [{"arm": "harmful_prefix", "attack": "multi_turn", "percent": 21.5, "said": "a claim of 5 % & more " * 4}]
    shown = figures.named(pd.DataFrame(rows)).set_index("arm")
    label = ATTACKS["multi_turn"].label
    assert shown.index.to_list() == ["harmful prefix"]
    assert shown.attack.to_list() == [label]
    assert figures.named(pd.DataFrame({"arm": ["as released"]})).arm.to_list() == ["as released"]
    path = figures.save_table(rows, "claims", "test", shown=shown, caption="What was claimed.")
    assert path.read_text().startswith("arm,attack,percent,said\nharmful_prefix,multi_turn,21.5,")
    markdown = path.with_suffix(".md").read_text()
    assert [cell.strip() for cell in markdown.splitlines()[2].split("|")][1:4] == ["harmful prefix", label, "21.5"]
    latex = path.with_suffix(".tex").read_text()
    assert r"\caption{What was claimed.}" in latex
    assert rf"harmful prefix & {label} & 21.5 & a claim of 5 \% \& more" in latex
    assert r"\begin{tabular}{lllp{0.4\linewidth}}" in latex


def test_a_column_of_estimates_is_written_with_its_intervals():
    table = pd.DataFrame({"asr": [0.5, None], "asr_low": [0.25, None], "asr_high": [0.8, None]})
    assert figures.intervals(table, "asr") == ["50 [25, 80]", "–"]
    assert figures.intervals(table, "asr", scale=1, digits=1)[0] == "0.5 [0.2, 0.8]"
