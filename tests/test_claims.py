"""Claims: a rule is read as it is written, and the verdict follows from the interval."""

import pandas as pd
import pytest

from derta import claims
from derta.attacks import ATTACKS
from derta.claims import Check, Claim
from derta.files import read_csv
from derta.runs import CHECKOUT

# Tables that a profile may lack: `small` tunes no further, and no profile has models of several sizes.
UNKNOWN = {"lasting", "sizes"}

TABLES = {
    "measures": pd.DataFrame(
        [
            {"arm": "base", "attack": "prefill", "depth": 0, "asr": 0.6, "asr_low": 0.1, "asr_high": 0.9},
            {"arm": "derta", "attack": "prefill", "depth": 0, "asr": 0.1, "asr_low": 0.05, "asr_high": 0.2},
            {"arm": "derta", "attack": "deep", "depth": 10, "asr": 0.3, "asr_low": 0.25, "asr_high": 0.4},
            {"arm": "derta", "attack": "deep", "depth": 50, "asr": 0.4, "asr_low": 0.3, "asr_high": 0.5},
            {"arm": "probe", "attack": "deep", "depth": 10},
        ]
    ),
    "differences": pd.DataFrame([{"measure": "asr", "difference": -0.3, "low": -0.4, "high": -0.2}]),
}
DERTA = "measures[arm=derta, attack=prefill].asr"


def verdict(test, needs=""):
    claim = Claim("x", "Table 2", "It helps.", claims.checks(needs), claims.checks(test))
    return claims.judge(claim, TABLES)["verdict"]


def test_a_check_is_read_as_it_is_written():
    (check,) = claims.checks("differences[first=a, second=b].difference > -0.05")
    assert check == Check("differences", (("first", "a"), ("second", "b")), "difference", True, -0.05)
    assert str(check) == "differences[first=a, second=b].difference > -0.05"
    assert claims.checks("") == ()
    with pytest.raises(ValueError, match="'asr > 1' is no check; expected table"):
        claims.checks("asr > 1")


@pytest.mark.parametrize(
    ("test", "wanted"),
    [
        (f"{DERTA} < 0.25", "reproduced"),
        (f"{DERTA} < 0.15", "left open"),
        (f"{DERTA} > 0.2", "contradicted"),
        (f"{DERTA} < 0.15; {DERTA} > 0.3", "contradicted"),
        (f"{DERTA} < 0.25; {DERTA} > 0.2", "partly"),
        ("differences[measure=asr].difference < 0", "reproduced"),
        ("differences[measure=asr].difference > -0.3", "left open"),
        ("differences[measure=asr].difference > -0.2", "contradicted"),
        (f"{DERTA} < 0.25; differences[measure=auroc].difference > 0", "not testable here"),
        (f"{DERTA} > 0.25; differences[measure=auroc].difference > 0", "contradicted"),
        (f"{DERTA} > 0.15; differences[measure=auroc].difference > 0", "left open"),
        ("differences[measure=auroc].difference > 0", "not testable here"),
        ("elsewhere[x=1].y > 0", "not testable here"),
        ("measures[arm=probe, attack=deep].asr > 0", "not testable here"),
        ("measures[arm=derta, attack=deep, depth=50].asr > 0.2", "reproduced"),
        ("measures[arm=derta, attack=deep, depth=50].depth < 0", "left open"),
    ],
)
def test_the_whole_interval_has_to_lie_on_one_side(test, wanted):
    assert verdict(test) == wanted


def test_what_a_claim_needs_is_judged_by_the_estimate():
    assert verdict(f"{DERTA} < 0.25", "measures[arm=base, attack=prefill].asr > 0.5") == "reproduced"
    assert verdict(f"{DERTA} < 0.25", "measures[arm=base, attack=prefill].asr > 0.7") == "not testable here"
    assert verdict(f"{DERTA} < 0.25", "measures[arm=base, attack=other].asr > 0.7") == "not testable here"


def test_a_check_of_several_rows_is_an_error():
    with pytest.raises(ValueError, match=r"deep\]\.asr > 0: 2 rows have these values"):
        verdict("measures[arm=derta, attack=deep].asr > 0")


def test_every_claim_has_a_rule_and_names_known_arms_and_attacks():
    found = claims.claims()
    assert len({claim.id for claim in found}) == len(found) >= 35
    known = {"measures", "differences", "positions", "begun", "cases"}
    known |= {"helpfulness", "categories", "lasting", "ambiguous", "gpt4", "released", "sizes"}
    for claim in found:
        assert claim.test
        for check in (*claim.needs, *claim.test):
            assert check.table in known
            if check.table in ("measures", "differences", "begun"):
                assert dict(check.where)["attack"] in {*ATTACKS, "pair", "autodan"}
                assert "split" in dict(check.where)


@pytest.mark.parametrize("profile", ["small", "study", "further"])
def test_the_committed_verdicts_follow_from_the_committed_tables(profile):
    folder = CHECKOUT / "figures" / profile
    committed = {row["id"]: row for row in read_csv(folder / "claims.csv", ("id", "verdict", "numbers"))}
    found = claims.claims()
    assert committed.keys() == {claim.id for claim in found}
    tables = {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}
    for claim in found:
        named = {check.table for check in (*claim.needs, *claim.test)}
        if named <= tables.keys() | UNKNOWN:
            assert claims.judge(claim, tables) == committed[claim.id]
        else:
            assert (profile, named) == ("study", {"categories"})
