"""The numbers of README and docs are those of the tables in ``figures/``."""

import re
import shutil

import pandas as pd
import pytest

from derta.runs import CHECKOUT
from tools import readme

FIGURES = CHECKOUT / "figures"


@pytest.mark.parametrize("page", readme.PAGES)
def test_the_numbers_are_those_of_the_tables(page):
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    assert readme.fill(text, readme.blocks(FIGURES)) == text


def test_every_block_has_its_place():
    text = "".join((CHECKOUT / page).read_text(encoding="utf-8") for page in readme.PAGES)
    for name in readme.blocks(FIGURES):
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- /{name} -->") == 1


def test_an_altered_number_is_noticed(tmp_path):
    for profile in ("study", "small"):
        if (FIGURES / profile).is_dir():
            shutil.copytree(FIGURES / profile, tmp_path / profile)
    before = readme.blocks(tmp_path)
    for path in tmp_path.glob("*/measures.csv"):
        table = pd.read_csv(path)
        table.loc[(table.arm == "derta") & (table.attack == "prefill"), "harmful"] = 0.123
        table.to_csv(path, index=False)
    after = readme.blocks(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"numbers", "headline", "terms"}
    assert "| 12 / " in after["numbers"]
    assert "DeRTa 12 %" in after["headline"]


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
