"""The numbers of README and docs are those of the tables in ``figures/``."""

import re
import shutil
from statistics import mean

import nbformat
import pandas as pd
import pytest

from derta import paper
from derta.runs import CHECKOUT
from tools import readme

FIGURES = CHECKOUT / "figures"
# What looks like a result: a mean before and after, a count of a number, a share, a decimal number.
RESULT = re.compile(r"\d+(?:\.\d+)? → \d+(?:\.\d+)?|\d+ of \d+|\d[\d,]*(?:\.\d+)? ?%|\d+\.\d+")
NOT_PROSE = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)|arXiv [\d.]+|[A-Za-z]+[\d.]+-[\d.]+B", re.S)


@pytest.mark.parametrize("page", readme.PAGES)
def test_the_numbers_are_those_of_the_tables(page):
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    assert readme.fill(text, readme.blocks(FIGURES)) == text


def test_every_block_has_its_place():
    text = "".join((CHECKOUT / page).read_text(encoding="utf-8") for page in readme.PAGES)
    for name in readme.blocks(FIGURES):
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- /{name} -->") == 1


def test_an_altered_number_is_noticed(tmp_path):
    for profile in ("study", "further"):
        shutil.copytree(FIGURES / profile, tmp_path / profile)
    before = readme.blocks(tmp_path)
    path = tmp_path / "study" / "measures.csv"
    table = pd.read_csv(path)
    table.loc[(table.arm == "derta") & (table.attack == "prefill"), "harmful"] = 0.123
    table.to_csv(path, index=False)
    after = readme.blocks(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"numbers", "headline", "terms"}
    assert "| 12 / " in after["numbers"]
    assert "DeRTa 12 %" in after["headline"]


def test_a_verdict_that_lacks_a_result_is_taken_from_the_profile_that_has_one():
    def verdicts(*rows):
        return pd.DataFrame([dict(zip(("id", "verdict", "numbers"), row, strict=True)) for row in rows])

    untested = "not testable here"
    here = verdicts(("a", "reproduced", "x: 1"), ("b", untested, "no result: y"), ("c", untested, "no result: z"))
    there = verdicts(("a", "contradicted", "x: 2"), ("b", "left open", "y: 3"), ("c", untested, "no result: z"))
    found = readme.completed(here, there)
    assert found.verdict.tolist() == ["reproduced", "left open", untested]
    assert found.numbers.tolist() == ["x: 1", "profile further: y: 3", "no result: z"]
    assert found.id.tolist() == ["a", "b", "c"]


def test_the_readme_is_short_and_its_links_lead_somewhere():
    for path in (CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_the_tests_that_a_promise_names_exist():
    text = (CHECKOUT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 20
    assert not [name for name in named if not (CHECKOUT / "tests" / f"{name}.py").is_file()]


def means(model, attacks):
    """The paper's means before and after DeRTa."""
    before, after = (mean(paper.value(model, arm, attack) for attack in attacks) for arm in ("vanilla", "derta"))
    return f"{before:.1f} → {after:.1f}"


def test_the_notebooks_prose_has_no_number_of_a_run():
    others = ["PAIR", "JailbreakChat", "SelfCipher", "CompletingAttack", "AutoDAN"]
    # Each with where it is from: results of a run are computed in cells, and stand nowhere else.
    known = {
        **dict.fromkeys(["4.1", "4.2"], "sections of the paper"),
        **dict.fromkeys(["50 %", "0.5"], "chance"),
        **dict.fromkeys(["95 %", "0.95"], "the level of intervals; the paper's label dropout"),
        "20 %": "the rule of what is testable",
        "0.7": "a temperature",
        **dict.fromkeys(["99.5 %", "22.3 %", "79 of 82", "80 %", "75 %", "90 %"], "Section 1, Figure 4 and case study"),
        f"{5 * 3_000 / 66_000:.1f} %": "the share of RTO's labels at a dropout of 95 %",
        "5 %": "what that dropout leaves",
        f"{100 * 3_000 / 66_000:.1f} %": "the share of RTO's rows",
        "106 of 129": "the audit of rules before they were corrected",
        f"{100 * 106 / 129:.1f} %": "the same",
        **dict.fromkeys(["58 of 60", "40 of 40"], "the extractors before their last rules"),
        means("Mistral-8x7B", others): "a headline, over five attacks",
        means("LLaMA3-70B", [*others, "CodeAttack"]): "the other headline, over six",
        means("LLaMA3-8B", others): "Table 10",
        "62.8 → 16.9": "Figure 6",
    }
    found = set()
    for path in sorted((CHECKOUT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "markdown":
                said = set(RESULT.findall(NOT_PROSE.sub("", cell.source)))
                assert said <= known.keys(), f"{path.name}: {said - known.keys()}"
                found |= said
    assert found == known.keys()
