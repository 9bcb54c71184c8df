"""From triples to an arm's dataset."""

from collections import Counter

import pytest
from datasets import load_from_disk

from derta import arms, corpus, models
from derta.arms import Encoder, Example, Settings

SETTINGS = Settings(
    triples=20,
    plain=5,
    instructions=6,
    epochs=2,
    rto_dropout=0.9,
    max_response_tokens=40,
    batch_size=8,
    seed=0,
)


@pytest.fixture(scope="module")
def lm():
    return models.load_tokenizer("smollm2-135m")


def test_a_triple_counts_as_two_instances_in_both_arms(lm):
    for arm, kinds in (("vanilla", {"safety": 40}), ("derta", {"prefix": 20, "rto": 20})):
        dataset, summary = arms.build(lm, arm, SETTINGS)
        expected = {kind: 2 * n for kind, n in (kinds | {"helpful": 20 + 5 + 6}).items()}
        assert Counter(dataset["kind"]) == expected
        assert {kind: counts["rows"] for kind, counts in summary["kinds"].items()} == expected
        assert Counter(dataset["epoch"]) == {0: len(dataset) // 2, 1: len(dataset) // 2}


def test_labels_by_kind(lm):
    dataset, _ = arms.build(lm, "derta", SETTINGS)
    sorry = lm.refusal_id()
    for row in dataset:
        kept = [(token, label) for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        assert kept
        if row["kind"] == "rto":
            assert {label for _, label in kept} == {sorry}
        else:
            assert all(token == label for token, label in kept)
        if row["kind"] == "prefix":
            assert kept[-1][1] == lm.tokenizer.eos_token_id
            text = lm.tokenizer.decode([label for _, label in kept[:-1]])
            assert any(text == refusal for b in corpus.behaviours("train") for refusal in corpus.refusals(b.category))


def test_both_arms_share_their_helpful_rows(lm):
    def helpful(arm):
        dataset, _ = arms.build(lm, arm, SETTINGS)
        return sorted(tuple(row["input_ids"]) for row in dataset if row["kind"] == "helpful")

    assert helpful("vanilla") == helpful("derta")


def test_same_seed_same_bytes_and_epochs_differ(lm, tmp_path):
    for name in ("a", "b"):
        arms.save(*arms.build(lm, "derta", SETTINGS), tmp_path / name)
    a, b = (sorted((tmp_path / name).glob("*.arrow")) for name in ("a", "b"))
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b]
    dataset = load_from_disk(tmp_path / "a")
    rto = [
        {tuple(row["labels"]) for row in dataset if row["kind"] == "rto" and row["epoch"] == epoch} for epoch in (0, 1)
    ]
    assert rto[0] != rto[1]


def test_rows_of_a_step_are_sorted_by_length(lm):
    dataset, _ = arms.build(lm, "derta", SETTINGS)
    lengths = [len(ids) for ids in dataset["input_ids"]][: len(dataset) // 2]
    for start in range(0, len(lengths), SETTINGS.batch_size):
        step = lengths[start : start + SETTINGS.batch_size]
        assert step == sorted(step, reverse=True)


def test_every_behaviour_comes_once_before_any_comes_twice():
    drawn = arms.triples(400, seed=0)
    counts = Counter(triple.behaviour.id for triple in drawn)
    assert len(counts) == len(corpus.behaviours("train"))
    assert max(counts.values()) == 2


def test_a_response_that_is_too_long_is_cut_without_an_end_and_counted(lm):
    encode = Encoder(lm, max_response_tokens=5)
    _, ids = encode(Example("Hi", "one two three four five six seven"))
    assert len(ids) == 5
    assert lm.tokenizer.eos_token_id not in ids
    assert encode.cut == 1
    assert encode(Example("Hi", "Yes."))[1][-1] == lm.tokenizer.eos_token_id


def test_bad_input_is_named(lm):
    with pytest.raises(ValueError, match="the response to 'Hi' is empty"):
        Encoder(lm, 5)(Example("Hi", "  "))
    with pytest.raises(ValueError, match="10000 triples asked for, but the corpus holds 700"):
        arms.triples(10_000, seed=0)
    with pytest.raises(ValueError, match="unknown arm 'magic'"):
        arms.build(lm, "magic", SETTINGS)
