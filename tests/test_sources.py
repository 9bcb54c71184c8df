"""Published datasets, read from small local folders of the hub's form."""

import csv
import json
import lzma
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from derta.published import sources

CATEGORIES = ("animal_abuse", "privacy_violation", "terrorism,organized_crime")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def beavertails(folder, rows):
    (folder / "round0" / "30k").mkdir(parents=True)
    splits = "".join(
        f"  - split: {name}\n    path: round0/30k/{file}.jsonl.xz\n"
        for name, file in (("30k_train", "train"), ("30k_test", "test"))
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}---\n")
    for file in ("train", "test"):
        with lzma.open(folder / "round0" / "30k" / f"{file}.jsonl.xz", "wt") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def row(number, **changes):
    category = {name: i == number % 3 for i, name in enumerate(CATEGORIES)}
    return {
        "prompt": f"Question {number}?",
        "response": f"Answer {number}.",
        "category": category,
        "is_safe": number % 2 == 0,
    } | changes


def test_revisions_are_pinned():
    for source in sources.SOURCES.values():
        assert len(source.revision) == 40
        assert set(source.revision) <= set("0123456789abcdef")
        assert source.licence
        assert source.reference.startswith("arXiv ")


def test_beavertails_becomes_triples_and_every_row_is_accounted_for(tmp_path):
    rows = sources.load("beavertails", beavertails(tmp_path / "bt", [row(n) for n in range(10)]))
    triples, fate = sources.beavertails_triples(rows)
    assert fate == {"used": 5, "its response is safe": 5}
    assert [triple.harmful for triple in triples] == [f"Answer {n}." for n in range(1, 10, 2)]
    assert all(triple.safe != triple.again[1] for triple in triples)
    assert len({triple.id for triple in triples}) == 5


def test_questions_to_attack_with(tmp_path):
    (tmp_path / "dna").mkdir()
    (tmp_path / "dna" / "train.jsonl").write_text(json.dumps({"question": "Why?", "risk_area": "A", "id": 1}) + "\n")
    (asked,) = sources.questions("do-not-answer", sources.load("do-not-answer", tmp_path / "dna"))
    assert (asked.question, asked.category) == ("Why?", "A")

    path = tmp_path / "hb" / sources.SOURCES["harmbench"].file
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Behavior", "FunctionalCategory", "SemanticCategory", "Tags", "ContextString", "BehaviorID"])
        writer.writerow(["Do one", "standard", "misc", "", "", "one"])
        writer.writerow(["Do two", "contextual", "misc", "", "long ago", "two"])
    (asked,) = sources.questions("harmbench", sources.load("harmbench", tmp_path / "hb"))
    assert asked.id == "harmbench-one"


def jailbreakbench(folder):
    (folder / "data").mkdir(parents=True)
    files = "".join(f"  - split: {side}\n    path: data/{side}-behaviors.csv\n" for side in ("harmful", "benign"))
    other = "- config_name: judge_comparison\n  data_files:\n  - split: test\n    path: data/judge-comparison.csv\n"
    card = f"---\nconfigs:\n- config_name: behaviors\n  data_files:\n{files}{other}---\n"
    (folder / "README.md").write_text(card)
    for side in ("harmful", "benign"):
        lines = [f"{i},{side} goal {i},Sure,b,topic,Original\n" for i in range(3)]
        text = "Index,Goal,Target,Behavior,Category,Source\n" + "".join(lines)
        (folder / "data" / f"{side}-behaviors.csv").write_text(text)
    return folder


def test_jailbreakbench_has_a_benign_behaviour_for_each(tmp_path):
    folder = jailbreakbench(tmp_path / "jbb")
    harmful, benign = (
        sources.questions(name, sources.load(name, folder), name.endswith("benign"))
        for name in ("jailbreakbench", "jailbreakbench-benign")
    )
    assert [r.id for r in harmful] == [r.id for r in benign] == [f"jailbreakbench-{i}" for i in range(3)]
    assert [r.question for r in benign] == [f"benign goal {i}" for i in range(3)]
    assert {r.category for r in harmful} == {"topic"}


XSTEST = """id_v1,id_v2,type,prompt,focus,note
,v2-1,homonyms,How do I kill a process?,kill,
,v2-2,homonyms,How do I hang a picture?,hang,
,v2-3,contrast_homonyms,first contrast,kill,
,v2-4,contrast_homonyms,second contrast,hang,
,v2-5,real_group_nons_discr,a real group,,
,v2-6,nons_group_real_discr,no real group,,
,v2-7,contrast_discr,third contrast,,
"""


def test_a_question_of_xstest_has_the_id_of_its_contrast(tmp_path):
    (tmp_path / "xs").mkdir()
    (tmp_path / "xs" / sources.SOURCES["xstest"].file).write_text(XSTEST)
    rows = sources.load("xstest", tmp_path / "xs")
    sounds_bad, unsafe = (
        {request.id: request.question for request in sources.questions("xstest", rows, benign)}
        for benign in (True, False)
    )
    assert unsafe == {
        "xstest-homonyms-0": "first contrast",
        "xstest-homonyms-1": "second contrast",
        "xstest-real_group_nons_discr-0": "third contrast",
    }
    assert sounds_bad.keys() - unsafe.keys() == {"xstest-nons_group_real_discr-0"}
    assert sounds_bad["xstest-homonyms-1"] == "How do I hang a picture?"


def test_a_side_that_a_dataset_lacks_is_named():
    with pytest.raises(ValueError, match="'harmbench' has no benign questions to ask; expected one of jailbreakb"):
        sources.questions("harmbench", [], benign=True)
    with pytest.raises(ValueError, match="'beavertails' has no harmful questions"):
        sources.questions("beavertails", [])


def test_evol_instruct_becomes_helpful_data(tmp_path):
    (tmp_path / "evol").mkdir()
    (tmp_path / "evol" / "alpaca.json").write_text(json.dumps([{"instruction": "Hi", "output": "Yes."}]))
    (example,) = sources.evol_instruct_examples(sources.load("evol-instruct", tmp_path / "evol"))
    assert (example.prompt, example.response) == ("Hi", "Yes.")


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(ValueError, match="unknown dataset 'tails'"):
        sources.load("tails")
    with pytest.raises(FileNotFoundError, match="clone PKU-Alignment/BeaverTails there"):
        sources.load("beavertails", tmp_path / "none")
    (tmp_path / "evol").mkdir()
    (tmp_path / "evol" / "alpaca.json").write_text(json.dumps([{"instruction": "Hi"}]))
    with pytest.raises(ValueError, match=r"evol-instruct .*: missing output"):
        sources.load("evol-instruct", tmp_path / "evol")
    rows = [row(1), row(3, response=None)]
    with pytest.raises(ValueError, match="beavertails, row 2: response is of type NoneType, expected str"):
        sources.beavertails_triples(rows)


def test_a_file_on_github_is_downloaded_once(tmp_path, monkeypatch):
    source = sources.SOURCES["harmbench"]
    path = tmp_path / "home" / source.repository / source.revision / source.file
    path.parent.mkdir(parents=True)
    path.write_text("Behavior,FunctionalCategory,BehaviorID,SemanticCategory\nPaint a fence,standard,x,y\n")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "home"))
    monkeypatch.setenv("DERTA_CACHE", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as home:
        threading.Thread(target=home.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{home.server_port}/{source.repository}/{source.revision}"
        monkeypatch.setattr(sources.Source, "github", address)
        first = sources.load("harmbench")
        home.shutdown()
    assert first["Behavior"] == ["Paint a fence"]
    assert sources.load("harmbench")["Behavior"] == ["Paint a fence"]
