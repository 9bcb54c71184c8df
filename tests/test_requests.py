"""Requests: held out, paired with their twins, or of your own."""

import pytest

from derta import corpus, requests
from derta.requests import Request, read_questions, spread

KINDS = [requests.held_out, requests.held_out_conversations, requests.held_out_responses]


@pytest.mark.parametrize("kind", KINDS)
def test_requests_are_held_out_and_mixed(kind):
    held_out = {b.id for split in requests.EVALUATION for b in corpus.behaviours(split)}
    some = spread(kind(False), 12)
    assert {r.id for r in some} <= held_out
    assert len({r.category for r in some}) >= 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_behaviour_and_its_twin_share_place_and_phrasing(kind):
    harmful, benign = kind(False), kind(True)
    assert [(r.id, r.category, r.turns) for r in harmful] == [(r.id, r.category, r.turns) for r in benign]
    for h, b in zip(harmful, benign, strict=True):
        assert h.do != b.do
        assert h.question.replace(h.do, "…") == b.question.replace(b.do, "…")


def test_innocent_questions_are_held_out_and_many():
    assert not {r.question for r in requests.instructions()} & {i.text for i in corpus.instructions("train")}
    for sides in zip(requests.borderline(True), requests.borderline(False), strict=True):
        assert len({request.question for request in sides}) == 2
    assert len(requests.borderline(True)) >= 120


def test_a_limit_spreads_over_all_requests():
    asked = requests.held_out(False)
    assert spread(asked, None) == spread(asked, 10**9) == asked
    half = spread(asked, len(asked) // 2)
    assert half == asked[::2][: len(asked) // 2]
    places = [asked.index(request) for request in spread(asked, 9)]
    gaps = [b - a for a, b in zip([*places, len(asked)], [*places[1:], len(asked)], strict=False) if b > a]
    assert max(gaps) - min(gaps) <= 1


def test_a_limit_may_differ_by_split():
    asked = [Request(f"{split}-{i}", "c", "x", "x", split=split) for split in ("validation", "test") for i in range(9)]
    assert [r.id for r in spread(asked, {"test": 3})] == ["test-0", "test-3", "test-6"]
    assert [r.split for r in spread(asked, {"validation": 1, "test": 2})] == ["validation", "test", "test"]
    assert len(spread(asked, 4)) == 4
    assert len(spread(asked, {"test": None})) == 9


def test_questions_of_your_own_need_one_column(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text('question\nWhy?\n"Where, then?"\n')
    assert read_questions(path) == [
        Request("mine-1", "own", "Why?", "Why?"),
        Request("mine-2", "own", "Where, then?", "Where, then?"),
    ]
    path.write_text("id,category,do,question\nx,y,paint a fence,How can I paint a fence?\n,,,Why?\n")
    assert read_questions(str(path)) == [
        Request("x", "y", "paint a fence", "How can I paint a fence?"),
        Request("mine-2", "own", "Why?", "Why?"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("text\nWhy?\n", r"mine\.csv: the header lacks question"),
        ("question,id\nWhy?,1\n ,2\n", r"mine\.csv, row 3: question is empty"),
    ],
)
def test_a_file_without_questions_is_named(tmp_path, text, said):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_questions(tmp_path / "mine.csv")


def test_the_same_id_twice_is_named(tmp_path):
    (tmp_path / "mine.csv").write_text("id,question\n1,Why?\n1,Where?\n")
    with pytest.raises(ValueError, match=r"mine\.csv, row 3: the id '1' is that of row 2"):
        read_questions(tmp_path / "mine.csv")
