"""The embedded corpus: counts, the border between training and evaluation, and the forms."""

from collections import Counter
from itertools import product

from derta import corpus
from derta.attacks import completing, prefill
from derta.judge import REFUSAL, content_words


def test_counts():
    split = Counter(b.split for b in corpus.behaviours())
    assert split["train"] >= 300
    assert split["test"] >= 120
    assert len({b.category for b in corpus.behaviours("test")}) == len({b.category for b in corpus.behaviours()}) == 9
    assert len(corpus.phrasings("train")) >= 6
    assert len(corpus.phrasings("test")) >= 6
    assert len({b.id for b in corpus.behaviours()}) == len(corpus.behaviours())


def test_training_and_evaluation_share_no_behaviour_phrasing_or_instruction():
    phrases = {
        split: {p for b in corpus.behaviours(split) for p in (b.harmful, b.benign)} for split in ("train", "test")
    }
    assert not phrases["train"] & phrases["test"]
    assert not set(corpus.phrasings("train")) & set(corpus.phrasings("test"))
    assert not {i.text for i in corpus.instructions("train")} & {i.text for i in corpus.instructions("test")}


def test_no_near_duplicates_across_the_split():
    def words(phrase):
        return {word[:5] for word in content_words(phrase)}

    train = [(b.harmful, words(b.harmful)) for b in corpus.behaviours("train")]
    test = [(b.harmful, words(b.harmful)) for b in corpus.behaviours("test")]
    near = [(a, b) for (a, x), (b, y) in product(train, test) if len(x & y) / len(x | y) >= 0.5]
    assert not near


def test_training_responses_belong_to_training_behaviours_and_phrasings():
    test_ids = {b.id for b in corpus.behaviours("test")}
    by_id = {b.id: b for b in corpus.behaviours()}
    for file in ("harmful-train", "benign-train"):
        for row in corpus.responses(file):
            assert row.behaviour_id not in test_ids
            behaviour = by_id[row.behaviour_id]
            do = behaviour.harmful if file.startswith("harmful") else behaviour.benign
            assert row.prompt in {p.replace("{do}", do) for p in corpus.phrasings("train")}


def test_harmful_responses_and_those_of_the_twins_have_the_same_forms():
    benign = {r.id: r for r in corpus.responses("benign-train")}
    pairs = [(r, benign[r.id.replace("-h", "-b")]) for r in corpus.responses("harmful-train")]
    assert len(pairs) == 700
    assert all(a.form == b.form for a, b in pairs)
    assert len({a.form for a, _ in pairs}) == 5


def test_no_response_refuses_and_none_is_empty():
    for file in ("harmful-train", "benign-train", "plain-train", "helpful-train", "harmful-test", "benign-test"):
        assert not [r.id for r in corpus.responses(file) if REFUSAL.search(r.response) or not r.response.strip()]


def test_attacks_do_not_reuse_training_forms():
    templates = {o.template for o in corpus.openers()} | set(corpus.plain_prompts())
    assert prefill.START not in templates
    assert completing.TEXT not in templates
    assert not [t for t in templates if prefill.START.startswith(t)]
