"""The README's numbers are those of the tables in ``figures/``."""

import shutil

import pandas as pd

from derta.runs import CHECKOUT
from tools import readme

FIGURES = CHECKOUT / "figures"


def test_the_numbers_are_those_of_the_tables():
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert readme.fill(text, readme.block(FIGURES)) == text


def test_an_altered_number_is_noticed(tmp_path):
    for profile in ("study", "small"):
        if (FIGURES / profile).is_dir():
            shutil.copytree(FIGURES / profile, tmp_path / profile)
    before = readme.block(tmp_path)
    for path in tmp_path.glob("*/measures.csv"):
        table = pd.read_csv(path)
        table.loc[(table.arm == "derta") & (table.attack == "prefill"), "harmful"] = 0.123
        table.to_csv(path, index=False)
    assert readme.block(tmp_path) != before
    assert "| 12 / " in readme.block(tmp_path)
