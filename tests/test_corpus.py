"""The embedded corpus: counts, the border between training and evaluation, and the forms."""

import re
from collections import Counter
from itertools import combinations, product

import pytest

from derta import corpus, models
from derta.judge import judge, refusal
from derta.requests import EVALUATION
from derta.sentences import stems


def test_the_corpus_is_as_large_as_promised():
    split = Counter(b.split for b in corpus.behaviours())
    assert split["train"] >= 300
    assert len(corpus.phrasings("train")) >= 6
    for name, least in (("validation", 120), ("test", 200)):
        assert split[name] >= least
        assert len({b.category for b in corpus.behaviours(name)}) == len({b.category for b in corpus.behaviours()}) == 9
        assert len(corpus.phrasings(name)) >= 6
    assert len({text for b in corpus.behaviours() for text in corpus.refusals(b.category)}) >= 60
    assert len(corpus.instructions("train")) + len(corpus.instructions("validation")) >= 600
    assert len(corpus.instructions("validation")) >= 150
    assert len(corpus.conversations()) >= 40
    assert {q.kind for q in corpus.exact_match()} == {"arithmetic", "knowledge", "multiple_choice"}


def test_every_training_behaviour_has_several_responses_of_the_asked_length():
    lm = models.load_tokenizer("smollm2-135m")
    rows = corpus.responses("harmful-train")
    assert all(40 <= len(lm.ids(row.response)) <= 300 for row in rows)
    per_behaviour = Counter(row.behaviour_id for row in rows)
    assert sum(per_behaviour[b.id] >= 2 for b in corpus.behaviours("train")) >= 0.9 * len(corpus.behaviours("train"))
    for file in (f"{kind}-{split}" for kind in ("harmful", "benign") for split in EVALUATION):
        assert all(len(lm.ids(row.response)) >= 256 for row in corpus.responses(file))


def test_harmful_responses_are_compliant_in_form():
    do = {b.id: b.harmful for b in corpus.behaviours()}
    for split, least in (("train", 0.95), ("validation", 0.95), ("test", 0.95)):
        rows = corpus.responses(f"harmful-{split}")
        unsafe = sum(judge(do[row.behaviour_id], row.response).verdict == "unsafe" for row in rows)
        assert unsafe >= least * len(rows)


def test_a_conversation_asks_for_a_held_out_behaviour_or_its_twin_in_the_same_words():
    held_out = {b.id: b for b in corpus.behaviours("validation")}
    for conversation in corpus.conversations():
        behaviour = held_out[conversation.behaviour_id]
        frame = conversation.harmful.replace(behaviour.harmful, "{do}")
        assert "{do}" in frame
        assert conversation.benign == frame.replace("{do}", behaviour.benign)
        roles = [turn["role"] for turn in conversation.turns]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert roles


def test_answers_to_sums_are_right():
    for question in corpus.exact_match():
        sums = re.findall(r"(\d+) ([-+*/]) (\d+)", question.question)
        if len(sums) == 1 and re.findall(r"\d+", question.question) == [sums[0][0], sums[0][2]]:
            a, sign, b = sums[0]
            result = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b), "/": int(a) / int(b)}[sign]
            assert question.answers == (f"{result:g}",)
        if question.kind == "multiple_choice":
            assert set(question.answers) < set("ABCD")
            assert all(f" {letter}) " in question.question for letter in "ABCD")


@pytest.mark.parametrize("held_out", EVALUATION)
def test_training_and_evaluation_share_no_behaviour_phrasing_or_instruction(held_out):
    phrases = {
        split: {p for b in corpus.behaviours(split) for p in (b.harmful, b.benign)} for split in ("train", held_out)
    }
    assert not phrases["train"] & phrases[held_out]
    trained = [*corpus.phrasings("train"), *corpus.phrasings("reworded")]
    assert len(set(trained)) == len(trained)
    assert not set(trained) & set(corpus.phrasings(held_out))

    def lead(phrasing: str) -> tuple[str, ...]:
        return tuple(phrasing.lower().split("{do}")[0].split()[-2:])

    if held_out == "validation":  # those of the test were written without a look at the training phrasings
        assert not {lead(p) for p in trained} & {lead(p) for p in corpus.phrasings(held_out)}
    assert not {i.text for i in corpus.instructions("train")} & {i.text for i in corpus.instructions("validation")}


@pytest.mark.parametrize(("one", "other"), combinations(("train", "choice", *EVALUATION), 2))
def test_no_near_duplicates_across_the_splits(one, other):
    sides = ([(b.harmful, stems(b.harmful)) for b in corpus.behaviours(split)] for split in (one, other))
    near = [(a, b) for (a, x), (b, y) in product(*sides) if len(x & y) / len(x | y) >= 0.5]
    assert not near


def test_a_close_twin_begins_with_the_same_verb():
    close = [b for b in corpus.behaviours() if b.twin == "close"]
    assert len(close) >= 700
    assert {b.twin for b in corpus.behaviours()} == {"close", "loose"}
    assert all(b.harmful.split()[0] == b.benign.split()[0] for b in close)


def test_training_responses_belong_to_training_behaviours_and_phrasings():
    test_ids = {b.id for split in EVALUATION for b in corpus.behaviours(split)}
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
    assert len(pairs) == len(benign)
    assert all(a.form == b.form for a, b in pairs)
    assert {a.form for a, _ in pairs} == {"prose", "steps", "list", "story", "code", "free"}


def test_no_response_is_empty_and_hardly_any_sounds_like_a_refusal():
    """The rest are the first words of characters in stories, such as "No way"."""
    rows = [row for path in sorted(corpus.RESPONSES.glob("*.jsonl")) for row in corpus.responses(path.stem)]
    assert all(row.response.strip() for row in rows)
    assert sum(refusal(row.response) is not None for row in rows) <= 0.003 * len(rows)
