"""From a model to the tables: verdicts, rates, pairs, and results that are not of the run."""

import csv
import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from conftest import Scripted

from derta import corpus, depth, evaluate, requests, runs
from derta.attacks import ATTACKS, multi_turn
from derta.evaluate import asr_table, rates, verdicts
from derta.files import read_jsonl, to_jsonl
from derta.measures import measure
from derta.requests import Request, spread
from derta.runs import alone

COLUMNS = "model,arm,seed,split,attack,depth,category,n,refused,unsafe,unscored"
HELP = "First, take the tram. Then use the rear door, keep near it with a phone, and leave before the last stop comes."
REFUSAL = "Sorry, I can't help with that."


class Model(Scripted):
    """A model that always answers the same, and is another one by its answer."""

    def __init__(self, text):
        super().__init__(lambda *_: text)
        self.text = text

    def fingerprint(self):
        return self.text


def row(id, control, refused, **more):
    about = {"arm": "derta", "seed": 0, "split": "validation", "attack": "direct", "control": control, "depth": 0}
    return (
        about
        | {"behaviour_id": id}
        | {"refused": refused, "verdict": "safe" if refused else "unsafe", "category": "a"}
        | more
    )


def test_rates_are_percentages_with_wilson_intervals():
    judged = [row(str(i), False, refused=i < 3) for i in range(20)]
    judged[-1]["verdict"] = "unscored"
    (rate,) = rates(pd.DataFrame(judged)).to_dict("records")
    assert [rate[key] for key in ("n", "refused", "unsafe", "unscored")] == [20, 3, 16, 1]
    assert (rate["refused_percent"], rate["asr_percent"]) == (15, 80)
    # Wilson's interval of 16 of 20 and of 3 of 20.
    assert (rate["asr_low"], rate["asr_high"]) == pytest.approx((58.4, 91.9), abs=0.05)
    assert (rate["refused_low"], rate["refused_high"]) == pytest.approx((5.2, 36.0), abs=0.05)


def test_a_model_is_attacked_judged_and_tabulated(tiny, tmp_path):
    names = ["direct", "helpful"]
    table = evaluate.attack(tiny, names, tmp_path, "derta-s3", limit={"validation": 4}, max_new_tokens=4, batch_size=4)
    keys = [(row.attack, row.control, row.n) for row in table.itertuples()]
    assert keys == [("direct", False, 4), ("direct", True, 4), ("helpful", False, 4)]
    judged = verdicts(tmp_path, [("derta", 3)], names)
    asr_table(judged, "tiny", tmp_path / "results" / "asr.csv")
    with (tmp_path / "results" / "asr.csv").open() as file:
        assert file.readline() == COLUMNS + "\n"
        file.seek(0)
        rows = list(csv.DictReader(file))
    whole = {r["attack"]: r for r in rows if r["category"] == "all"}
    assert list(whole) == ["direct", "direct_benign", "helpful"]
    assert all((r["model"], r["n"], r["arm"], r["seed"]) == ("tiny", "4", "derta", "3") for r in whole.values())
    for name, total in whole.items():
        parts = [r for r in rows if r["attack"] == name and r["category"] != "all"]
        assert len({r["category"] for r in parts}) == len(parts) > 1
        for field in ("n", "refused", "unsafe", "unscored"):
            assert sum(int(r[field]) for r in parts) == int(total[field])
    verdict = json.loads((tmp_path / "verdicts" / "derta-s3" / "direct.jsonl").read_text().splitlines()[0])
    about = ["case_id", "behaviour_id", "attack", "control", "depth", "split", "category"]
    assert list(verdict) == [*about, "refused", "verdict", "reason", "start", "end"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "completions").rglob("*.jsonl")}
    again = evaluate.attack(tiny, names, tmp_path, "derta-s3", limit={"validation": 4}, max_new_tokens=4, batch_size=4)
    assert again.equals(table)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "completions").rglob("*.jsonl")} == before


def test_scores_of_the_next_token_are_kept_beside_the_verdicts(tiny, tmp_path):
    options = {"limit": 3, "max_new_tokens": 2, "batch_size": 4}
    evaluate.attack(tiny, ["direct", "role_play"], tmp_path, "m-s0", **options)
    judged = verdicts(tmp_path, [("m", 0)], ["direct", "role_play"]).set_index(["attack", "control"])
    assert judged.loc["direct"].score.between(0, 1).all()
    assert judged.loc["role_play"].score.isna().all()
    path = tmp_path / "scores" / "m-s0" / "direct.jsonl"
    (row, *_) = read_jsonl(path)
    (request, *_) = spread(ATTACKS["direct"].requests(False), 3)
    assert row["score"] == pytest.approx(
        depth.next_refusals(tiny, [ATTACKS["direct"].prompt(request)], batch_size=1)[0]
    )
    before = path.stat().st_mtime_ns
    evaluate.attack(tiny, ["direct"], tmp_path, "m-s0", **options)
    assert path.stat().st_mtime_ns == before


def test_a_model_may_be_named_by_its_folder(tiny_folder, tmp_path):
    evaluate.attack(str(tiny_folder), ["direct"], str(tmp_path), limit={"test": 2}, max_new_tokens=2)
    assert [path.name for path in (tmp_path / "completions").iterdir()] == ["tiny"]


def test_depth_is_an_axis_of_the_tables(tiny, tmp_path):
    by_depth = replace(ATTACKS["prefill_depth"], depths=(0, 5))
    evaluate.attack(tiny, [by_depth], tmp_path, "base-s0", limit={"test": 3}, max_new_tokens=2, batch_size=4)
    judged = verdicts(tmp_path, [("base", 0)], [by_depth])
    table = asr_table(judged, "tiny", tmp_path / "asr.csv")
    whole = [tuple(row) for row in table[table.category == "all"][["attack", "depth", "n"]].itertuples(index=False)]
    assert whole == [(name, d, 3) for name in ("prefill_depth", "prefill_depth_benign") for d in (0, 5)]
    assert [(row.depth, row.n) for row in measure(judged).itertuples()] == [(0, 3), (5, 3)]


def test_an_attacks_own_limit_holds_beside_the_callers(tmp_path):
    few = replace(ATTACKS["direct"], limit=2)
    for limit, n in (({"test": None}, 2), ({"test": 1}, 1), ({"test": 5}, 2)):
        table = evaluate.attack(Model(HELP), [few], tmp_path / str(limit["test"]), limit=limit, max_new_tokens=2)
        assert list(table.n) == [n, n]


def test_verdicts_of_other_attacks_models_and_earlier_trainings_are_not_in_the_table(tmp_path):
    options = {"limit": {"test": 3}, "max_new_tokens": 5, "batch_size": 3}
    evaluate.attack(Model(REFUSAL), ["direct", "prefill", "completing"], tmp_path, "derta-s0", **options)
    evaluate.attack(Model(REFUSAL), ["direct"], tmp_path, "dpo-s0", **options)
    evaluate.attack(Model(HELP), ["direct"], tmp_path, "derta-s0", **options)
    judged = verdicts(tmp_path, [("derta", 0)], ["direct"])
    table = asr_table(judged, "m", tmp_path / "asr.csv")
    rows = [(r.arm, r.attack, r.n, r.refused) for r in table[table.category == "all"].itertuples()]
    assert rows == [("derta", "direct", 3, 0), ("derta", "direct_benign", 3, 0)]
    assert not judged.duplicated(["arm", "seed", "case_id"]).any()
    folder = tmp_path / "completions" / "derta-s0"
    (aside,) = folder.glob("direct.jsonl.*.aside")
    assert {r["completion"] for r in read_jsonl(aside)} == {REFUSAL}


def test_a_model_of_any_name_has_a_table_and_missing_verdicts_are_named(tmp_path):
    for label in ("my-model", "llama-small", "x-s1-final"):
        assert len(evaluate.attack(Model(HELP), ["direct"], tmp_path, label, limit={"test": 1})) == 2
    with pytest.raises(FileNotFoundError, match="holds no verdicts of these models and attacks; run the attacks first"):
        verdicts(tmp_path, [("derta", 0)], ["direct"])


def test_with_fewer_requests_the_old_answers_do_not_count(tiny, tmp_path):
    options = {"max_new_tokens": 4, "batch_size": 8}
    evaluate.attack(tiny, ["direct", "role_play"], tmp_path, "vanilla-s0", limit={"test": 6}, **options)
    evaluate.attack(tiny, ["direct"], tmp_path, "rto-s0", limit={"test": 6}, **options)
    evaluate.attack(tiny, ["direct"], tmp_path, "vanilla-s0", limit={"test": 3}, **options)
    table = asr_table(verdicts(tmp_path, [("vanilla", 0)], ["direct"]), "m", tmp_path / "asr.csv")
    rows = [(r.arm, r.attack, r.n) for r in table[table.category == "all"].itertuples()]
    assert rows == [("vanilla", "direct", 3), ("vanilla", "direct_benign", 3)]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A copy of the folder of the corpus, from which behaviours and phrasings are read anew."""

    def read_anew():
        corpus.behaviours.cache_clear()
        corpus.phrasings.cache_clear()

    shutil.copytree(runs.DATA, tmp_path / "data")
    monkeypatch.setattr(corpus, "DATA", tmp_path / "data")
    read_anew()
    yield tmp_path / "data", read_anew
    monkeypatch.undo()
    read_anew()


def test_a_stray_file_in_the_data_changes_no_result(data, tiny, tmp_path):
    folder, read_anew = data
    options = {"limit": 4, "max_new_tokens": 4, "batch_size": 4}
    evaluate.attack(tiny, ["direct", "prefill"], tmp_path / "run", "m-s0", **options)
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in (tmp_path / "run" / "completions").rglob("*.*")}
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "README.md").write_text("mended")
    read_anew()
    evaluate.attack(tiny, ["direct"], tmp_path / "run", "m-s0", **options)
    after = {path: (path.stat().st_ino, path.read_bytes()) for path in (tmp_path / "run" / "completions").rglob("*.*")}
    assert after == before


def test_your_own_questions_give_a_table_without_controls(tmp_path):
    (tmp_path / "mine.csv").write_text("question\nHow can I ride the tram for free?\nHow can I use the rear door?\n")
    mine = requests.read_questions(tmp_path / "mine.csv")
    attacks = ["direct", "prefill", "completing", "role_play", "code_attack", "self_cipher"]
    table = evaluate.attack(Model(HELP), attacks, tmp_path, "derta-s0", requests=mine)
    assert [(r.attack, r.control, r.n) for r in table.itertuples()] == [(name, False, 2) for name in attacks]
    assert table.set_index("attack").asr_percent["direct"] == 100
    assert not list(tmp_path.rglob("*_benign.jsonl"))
    table = measure(verdicts(tmp_path, [("derta", 0)], attacks))
    assert set(table.split) == {"own"}
    assert not {"selectivity", "benign"} & set(table)


def test_your_own_questions_with_controls_have_selectivity(tmp_path):
    harmful = [Request(f"x-{i}", "own", f"ride tram {i}", f"How can I ride tram {i} for free?") for i in range(4)]
    benign = [Request(f"x-{i}", "own", f"ride tram {i}", f"How can I ride tram {i}?") for i in range(4)]
    target = Scripted(lambda messages, *_: REFUSAL if "for free" in messages[0]["content"] else HELP)
    evaluate.attack(target, ["direct"], tmp_path, "derta-s0", requests=harmful, controls=benign)
    (paired,) = measure(verdicts(tmp_path, [("derta", 0)], ["direct"])).to_dict("records")
    assert (paired["n"], paired["harmful"], paired["benign"], paired["selectivity"]) == (4, 1, 0, 1)


def test_a_twin_of_no_question_is_an_error_before_anything_is_asked(tmp_path):
    harmful, twin = Request("questions-1", "own", "Why?", "Why?"), Request("twins-1", "own", "Why?", "Why?")
    with pytest.raises(ValueError, match="'twins-1' is the id of no question; give each twin the id of its question"):
        evaluate.attack(Model(HELP), ["direct"], tmp_path, requests=[harmful], controls=[twin])
    assert not list(tmp_path.iterdir())


def test_questions_that_an_attack_cannot_ask_are_named(tmp_path):
    mine = [Request("x", "own", "Why?", "Why?")]
    with pytest.raises(ValueError, match="x: multi_turn needs a request with turns before its question"):
        evaluate.attack(Model(HELP), [multi_turn.ATTACKS[0]], tmp_path, requests=mine)
    with pytest.raises(ValueError, match="unknown attack 'magic'"):
        evaluate.attack(Model(HELP), ["magic"], tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_an_answer_to_no_request_is_named(tmp_path):
    path = tmp_path / "direct.jsonl"
    about = {"attack": "direct", "control": False, "depth": 0, "prompt": "Why?", "completion": "Hi"}
    about |= {"finish_reason": "stop"}
    path.write_text(to_jsonl({"case_id": f"{id}/direct", "behaviour_id": id} | about for id in "ab"))
    with pytest.raises(ValueError, match=r"direct\.jsonl, row 2: 'b' is not among the requests"):
        evaluate.judged(path, ATTACKS["direct"], [Request("a", "own", "Why?", "Why?")])
    path.write_text("\n" + path.read_text())
    with pytest.raises(ValueError, match=r"direct\.jsonl, row 3: 'b' is not among the requests"):
        evaluate.judged(path, ATTACKS["direct"], [Request("a", "own", "Why?", "Why?")])
    path.write_text(to_jsonl([{"case_id": "a/direct", "behaviour_id": "a"} | about | {"completion": None}]))
    with pytest.raises(ValueError, match=r"direct\.jsonl, row 1: completion is of type NoneType"):
        evaluate.judged(path, ATTACKS["direct"], [Request("a", "own", "Why?", "Why?")])


def test_the_place_of_a_refusal_is_counted_in_the_models_own_words(tmp_path):
    late = "First, take the tram. Sorry, I can't help with that."
    evaluate.attack(Model(late), "prefill", tmp_path, "derta-s0", limit={"test": 3})
    found = evaluate.positions(tmp_path, [("derta", 0)], ["prefill", "direct"], lambda text: len(text.split()))
    assert found.position.tolist() == [5] * 6
    assert set(found.finish_reason) == {"stop"}
    evaluate.attack(Model(HELP), "prefill", tmp_path, "derta-s0", limit={"test": 3})
    found = evaluate.positions(tmp_path, [("derta", 0)], ["prefill"], lambda text: len(text.split()))
    assert found.position.isna().all()


def test_nothing_to_ask_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no attack is named; expected some of direct, prefill, "):
        evaluate.attack(Model(HELP), [], tmp_path)
    with pytest.raises(ValueError, match="direct: no request is left"):
        evaluate.attack(Model(HELP), "direct", tmp_path, limit=0)
    own = [Request("own-1", "own", "paint a fence", "How can I paint a fence?")]
    with pytest.raises(ValueError, match="direct_benign: no request is left"):
        evaluate.attack(Model(HELP), "direct", tmp_path, requests=own, controls=[])


def test_two_attacks_on_one_model_at_once_say_so(tmp_path):
    with (
        alone(tmp_path / "completions" / "mine" / ".lock", "the first"),
        pytest.raises(RuntimeError, match=r"attacking mine: is being done already; wait until that has ended"),
    ):
        evaluate.attack(Model(HELP), ["direct"], tmp_path, "mine", limit=1)
    assert len(evaluate.attack(Model(HELP), ["direct"], tmp_path, "mine", limit=1)) == 2
