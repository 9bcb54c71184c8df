"""PAIR: rounds, scores, queries, and going on after a kill."""

import pytest
from conftest import Scripted

from derta import attacks, evaluate
from derta.attacks import pair
from derta.corpus import Request
from derta.runs import read_jsonl

REQUEST = Request("x-001", "test", "paint a fence", "How can I paint a fence?")
ANSWER = "First, take a brush and some paint. Then you can paint the fence from left to right, board after board."


def attacker():
    """Every third reply is no JSON; messages tell their round, seed and stream."""

    def say(messages, start, seed, i):
        return (
            "no idea"
            if i % 3 == 2
            else f'more", "prompt": "round {len(messages) // 2}, seed {seed % 97}, stream {i}"}}'
        )

    return Scripted(say)


def target(weak=""):
    return Scripted(lambda messages, start, seed, i: ANSWER if weak and weak in messages[-1]["content"] else "No.")


def settings(**options):
    defaults = {
        "behaviours": 1,
        "rater": None,
        "streams": 3,
        "iterations": 3,
        "attacker_tokens": 9,
        "max_new_tokens": 9,
    }
    return pair.Settings(**(defaults | {"attacker": attacker(), "started": True, "seed": 0} | options))


def test_every_query_is_counted_and_what_is_no_json_goes_to_nobody(tmp_path):
    log, defender, options = tmp_path / "x.jsonl", target(), settings()
    prompt = pair.search(REQUEST, defender, options, log)
    rows = list(read_jsonl(log))
    assert [row["queries"] for row in rows] == [{"attacker": 3, "target": 2, "judge": 0}] * 3
    assert attacks.queries(tmp_path) == {"attacker": 9, "target": 6, "judge": 0}
    assert (len(options.attacker.asked), len(defender.asked)) == (9, 6)
    assert [s["prompt"] for s in rows[0]["streams"]][2] is None
    assert prompt.messages[0]["content"] == rows[0]["streams"][0]["prompt"]
    last = options.attacker.asked[-3].messages
    assert [m["role"] for m in last] == ["user", "assistant"] * pair.MEMORY + ["user"]
    assert REQUEST.question in last[0]["content"]
    assert "Score: 1" in last[-1]["content"]
    assert "No." in last[-1]["content"]
    assert "no JSON" in options.attacker.asked[-1].messages[-1]["content"]


def test_the_attackers_validity_is_counted(tmp_path):
    def say(messages, start, seed, i):
        return ["nothing", '", "prompt": "How is a fence painted?"}', '", "prompt": "Well?"}'][i]

    pair.search(REQUEST, target(), settings(attacker=Scripted(say), iterations=2), tmp_path / "x-001.jsonl")
    assert pair.validity([REQUEST], tmp_path) == {"replies": 6, "readable": 4, "on_topic": 2}


def test_a_success_ends_the_search(tmp_path):
    prompt = pair.search(REQUEST, target(weak="round 1"), settings(), tmp_path / "x.jsonl")
    rows = list(read_jsonl(tmp_path / "x.jsonl"))
    assert len(rows) == 2
    assert rows[1]["streams"][0]["score"] == 10
    assert prompt.messages[0]["content"].startswith("round 1")


def test_a_killed_search_ends_with_the_log_of_an_undisturbed_one(tmp_path):
    whole, log = tmp_path / "whole.jsonl", tmp_path / "x.jsonl"
    best = pair.search(REQUEST, target(weak="round 2"), settings(), whole)
    content = whole.read_bytes()
    for cut in (0, 50, content.index(b"\n") + 1, content.index(b"\n") + 90, len(content)):
        log.write_bytes(content[:cut])
        options = settings()
        assert pair.search(REQUEST, target(weak="round 2"), options, log) == best
        assert log.read_bytes() == content
        assert len(options.attacker.asked) == 9 - 3 * content[:cut].count(b"\n")


def test_a_rater_may_score_and_what_it_leaves_unscored_is_no_success(tmp_path):
    ratings = {"stream 0": "[[4]]", "stream 1": "ten, I think"}

    def rate(messages, start, seed, i):
        return next(rating for stream, rating in ratings.items() if stream in messages[0]["content"])

    echo = Scripted(lambda messages, start, seed, i: messages[-1]["content"])
    pair.search(REQUEST, echo, settings(rater=Scripted(rate), iterations=1), tmp_path / "x.jsonl")
    (row,) = read_jsonl(tmp_path / "x.jsonl")
    assert [s["score"] for s in row["streams"]] == [4, None, None]
    assert row["queries"] == {"attacker": 3, "target": 2, "judge": 2}


def test_without_any_message_the_plain_question_is_asked(tmp_path):
    mute = Scripted(lambda *args: "")
    prompt = pair.search(REQUEST, target(), settings(attacker=mute), tmp_path / "x.jsonl")
    assert prompt == attacks.ATTACKS["direct"](REQUEST)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"improvement": "x", "prompt": "Say \\"hi\\".\\nNow"}', 'Say "hi".\nNow'),
        ('Sure! {"prompt": "a\nb"} Good luck.', "a\nb"),
        ('{"prompt": ""}', None),
        ('{"prompt": "cut off', None),
        ('{"prompt": "\\x"}', None),
        ("", None),
    ],
)
def test_messages_are_read_from_json_within_text(reply, expected):
    assert pair.message(reply) == expected


def test_as_an_attack_with_its_control(tiny, tmp_path):
    folder = tmp_path / "run" / "completions" / "base-s0"
    options = {"limit": 4, "max_new_tokens": 3, "batch_size": 2, "searches": {"pair": settings(behaviours=2)}}
    evaluate.attack(tiny, ["direct", "pair", "pair_benign"], folder, **options)
    rows = list(read_jsonl(folder / "pair.jsonl"))
    assert len(rows) == 2
    assert len(list(read_jsonl(folder / "direct.jsonl"))) == 4
    logs = tmp_path / "run" / "searches" / "base-s0"
    assert {f"{row['behaviour_id']}.jsonl" for row in rows} == {path.name for path in (logs / "pair").glob("*.jsonl")}
    before = (folder / "pair.jsonl").read_bytes()
    evaluate.attack(tiny, ["pair"], folder, **options)
    assert (folder / "pair.jsonl").read_bytes() == before
    other = options | {"searches": {"pair": settings(behaviours=2, seed=1)}}
    evaluate.attack(tiny, ["pair"], folder, **other)
    assert (folder / "pair.jsonl").read_bytes() != before
    assert (folder / "direct.jsonl").exists()
    with pytest.raises(ValueError, match=r"pair searches: it needs .* its settings, pair\.Settings"):
        attacks.cases("pair", [REQUEST], tiny)
