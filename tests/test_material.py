"""Material: drawn from the embedded corpus, or of your own."""

import json
from collections import Counter

import pytest

from derta import corpus
from derta.material import Example, Material, Triple, embedded_material, own_material, with_weaker
from tests.conftest import Scripted


def test_a_draw_takes_every_behaviour_once_before_any_twice():
    material = embedded_material(triples=2900, twins=2900, plain=3, instructions=5, seed=0)
    counts = Counter(triple.behaviour_id for triple in material.triples)
    assert set(counts.values()) == {1, 2}
    assert len(counts) == len({row.behaviour_id for row in corpus.responses("harmful-train")})
    assert all(triple.again[0] != triple.query for triple in material.triples)
    twins = [example.id for example in material.helpful if example.behaviour_id and not example.plain]
    assert [id.replace("-b", "-h") for id in twins] == [triple.id for triple in material.triples]
    again = embedded_material(triples=2900, twins=3200, plain=3, instructions=5, seed=0)
    assert again.triples == material.triples
    more = [example.id for example in again.helpful if example.behaviour_id and not example.plain]
    assert more[:2900] == twins
    assert len(set(more)) == 3200
    with pytest.raises(ValueError, match=r"10000 triples asked for, but the corpus holds \d+"):
        embedded_material(triples=10_000, twins=0, plain=0, instructions=0, seed=0)


def test_a_triple_and_its_twin_are_asked_in_the_same_training_phrasing():
    material = embedded_material(triples=1500, twins=1500, plain=0, instructions=0, seed=0)
    known = {b.id: b for b in corpus.behaviours("train")}
    forms = {*corpus.phrasings("train"), *corpus.phrasings("reworded")}
    seen = set()
    for triple, twin in zip(material.triples, material.helpful, strict=True):
        behaviour = known[triple.behaviour_id]
        form = triple.query.replace(behaviour.harmful, "{do}")
        assert twin.prompt == form.replace("{do}", behaviour.benign)
        seen |= {form, triple.again[0].replace(behaviour.harmful, "{do}")}
    assert seen == forms


TRIPLE = {"query": "Why?", "safe": "Sorry, no.", "harmful": "First, take a brush."}
HELPFUL = {"prompt": "Say hello.", "response": "Hello!"}


def test_triples_and_helpful_examples_of_your_own_come_from_dicts_or_files(tmp_path):
    (tmp_path / "triples.jsonl").write_text(
        json.dumps(TRIPLE) + "\n" + json.dumps(TRIPLE | {"behaviour_id": "b"}) + "\n"
    )
    (tmp_path / "helpful.jsonl").write_text(json.dumps(HELPFUL) + "\n")
    material = own_material(tmp_path / "triples.jsonl", str(tmp_path / "helpful.jsonl"))
    assert material == own_material([TRIPLE, TRIPLE | {"behaviour_id": "b"}], [HELPFUL])
    first, second = material.triples
    assert first == Triple("triple-0", "triple-0", "Why?", "Sorry, no.", "First, take a brush.", ("Why?", "Sorry, no."))
    assert (second.id, second.behaviour_id) == ("triple-1", "b")
    assert material.helpful == (Example("example-0", "", "Say hello.", "Hello!"),)
    assert own_material([TRIPLE]).helpful == ()


@pytest.mark.parametrize("field", TRIPLE)
@pytest.mark.parametrize("value", [None, 3])
def test_a_row_of_your_own_without_a_text_is_named(tmp_path, field, value):
    bad = TRIPLE | {field: value}
    with pytest.raises(ValueError, match=f"triples, row 2: no text under {field}"):
        own_material([TRIPLE, bad])
    (tmp_path / "t.jsonl").write_text(json.dumps(TRIPLE) + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(ValueError, match=rf"t\.jsonl, row 2: {field} is of type"):
        own_material(tmp_path / "t.jsonl")
    with pytest.raises(ValueError, match="helpful examples, row 1: no text under response"):
        own_material([TRIPLE], [{"prompt": "Hi"}])


def test_close_triples_are_as_many_as_asked_for_and_two_seeds_differ():
    close = {b.id for b in corpus.behaviours("train") if b.twin == "close"}
    counts = {}
    for seed in (0, 1):
        material = embedded_material(triples=60, twins=60, plain=0, instructions=5, seed=seed, close=45)
        counts[seed] = {triple.behaviour_id for triple in material.triples}
        assert len(counts[seed]) == 60
        assert len(counts[seed] & close) == 45
    assert len(counts[0] & counts[1]) < 15
    material = embedded_material(triples=4, twins=9, plain=0, instructions=0, seed=0, close=1)
    twins = {example.id.replace("-b", "-h") for example in material.helpful}
    assert len(twins) == 9
    assert {triple.id for triple in material.triples} < twins
    with pytest.raises(ValueError, match=r"9000 close triples asked for, but the corpus holds \d+"):
        embedded_material(triples=9000, twins=0, plain=0, instructions=0, seed=0, close=9000)


def test_a_weaker_model_answers_what_dpo_rejects(tmp_path):
    helpful = (Example("a", "", "How?", "So."), Example("b", "", "Once", " upon a time", plain=True))
    weaker = Scripted(lambda messages, start, seed, i: f"answer to {messages[0]['content'] if messages else start}")
    path = tmp_path / "weaker.jsonl"
    made = with_weaker(Material((), helpful), weaker, path, max_new_tokens=9, batch_size=2)
    assert [(e.id, e.response, e.weak, e.weak_finished) for e in made.helpful] == [
        ("a", "So.", "answer to How?", True),
        ("b", " upon a time", "answer to Once", True),
    ]
    asked = len(weaker.asked)
    assert with_weaker(Material((), helpful), weaker, path, max_new_tokens=9, batch_size=2) == made
    assert len(weaker.asked) == asked
