"""Verdict files and tables."""

import csv
import json

import pytest

from derta import evaluate
from derta.evaluate import paired_rates


def row(refused):
    return {"refused": refused, "verdict": "safe" if refused else "unsafe"}


def test_selectivity_is_paired_by_behaviour():
    harmful = {"a": row(True), "b": row(True), "c": row(False), "only here": row(True)}
    benign = {"a": row(False), "b": row(True), "c": row(False)}
    rates = paired_rates(harmful, benign)
    assert rates["n"] == 3
    assert (rates["harmful"], rates["benign"]) == pytest.approx((2 / 3, 1 / 3))
    assert rates["selectivity"] == pytest.approx(1 / 3)
    assert rates["selectivity_low"] <= 1 / 3 <= rates["selectivity_high"]
    assert rates["harmful_low"] < 2 / 3 < rates["harmful_high"]


def test_from_a_model_to_the_table(tiny, tmp_path):
    run = tmp_path / "run"
    names = ["direct", "direct_benign", "helpful"]
    folder = run / "completions" / "derta-s3"
    evaluate.attack(tiny, names, folder, limit=4, max_new_tokens=4, batch_size=4)
    table = evaluate.asr_table(run, "tiny")
    with (run / "results" / "asr.csv").open() as file:
        assert [{k: str(v) for k, v in r.items()} for r in table] == list(csv.DictReader(file))
    whole = {r["attack"]: r for r in table if r["category"] == "all"}
    assert set(whole) == set(names)
    assert all(r["n"] == 4 and r["arm"] == "derta" and r["seed"] == 3 for r in whole.values())
    parts = [r for r in table if r["attack"] == "direct" and r["category"] != "all"]
    for field in ("n", "refused", "unsafe", "unscored"):
        assert sum(r[field] for r in parts) == whole["direct"][field]
    verdict = json.loads((run / "verdicts" / "derta-s3" / "direct.jsonl").read_text().splitlines()[0])
    assert list(verdict) == ["case_id", "refused", "verdict", "reason", "start", "end"]


def test_depth_is_an_axis_of_the_table(tiny, tmp_path):
    run = tmp_path / "run"
    names = ["prefill_depth", "prefill_depth_benign"]
    options = {"limit": 3, "max_new_tokens": 2, "batch_size": 4, "depths": (0, 5)}
    evaluate.attack(tiny, names, run / "completions" / "base-s0", **options)
    table = [row for row in evaluate.asr_table(run, "tiny") if row["category"] == "all"]
    assert [(row["attack"], row["depth"], row["n"]) for row in table] == [(n, d, 3) for n in names for d in (0, 5)]
    judged = evaluate.verdicts(run / "verdicts" / "base-s0")
    assert paired_rates(judged["prefill_depth/5"], judged["prefill_depth_benign/5"])["n"] == 3


def test_completions_made_in_another_way_are_removed(tiny, tmp_path):
    folder = tmp_path / "completions" / "derta-s0"
    evaluate.attack(tiny, ["direct"], folder, limit=2, max_new_tokens=2, batch_size=2)
    evaluate.attack(tiny, ["helpful"], folder, limit=2, max_new_tokens=2, batch_size=2)
    assert (folder / "direct.jsonl").exists()
    evaluate.attack(tiny, ["helpful"], folder, limit=2, max_new_tokens=3, batch_size=2)
    assert not (folder / "direct.jsonl").exists()
