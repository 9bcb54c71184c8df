"""What servers send back: completions, refusals, and errors of every form."""

import json

import pytest

from derta.judges import answers
from derta.judges.answers import Failure, read

STEPS, NO = "Take a brush.", "I'm sorry, I can't help with that."
UNUSABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def body(message, finish="stop", **more):
    choice = {"index": 0, "finish_reason": finish} | (message if "text" in message else {"message": message})
    return {"id": "x", "model": "m", "usage": None, "choices": [choice]} | more


def part(kind, text):
    return {"type": kind, kind.removeprefix("output_"): text}


THOUGHTS = {"type": "thinking", "thinking": [part("text", "Hm")]}


@pytest.mark.parametrize(
    ("answer", "text", "reason"),
    [
        (body({"content": STEPS}), STEPS, "stop"),
        (body({"content": None, "refusal": NO}), NO, "stop"),
        (body({"refusal": NO}), NO, "stop"),
        (body({"content": "Sure.", "refusal": NO}), f"Sure.\n{NO}", "stop"),
        (body({"content": [part("refusal", NO)]}), NO, "stop"),
        (body({"content": None}, "content_filter"), "", "content_filter"),
        (body({"content": "First, ta"}, "content_filter"), "", "content_filter"),
        (body({"content": "", "refusal": NO}, "content_filter"), NO, "content_filter"),
        (body({"content": None}, "SAFETY"), "", "content_filter"),
        (body({"text": None}, "content_filter"), "", "content_filter"),
        (body({"content": None, "reasoning_content": "Hm"}, "length"), "", "length"),
        (body({"content": "", "reasoning": "Hm"}, "stop"), "", "stop"),
        (
            body({"content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}, "tool_calls"),
            "",
            "tool_calls",
        ),
        (body({"content": [THOUGHTS, part("text", NO)]}), NO, "stop"),
        (body({"content": [part("output_text", "Take "), {"text": "a "}, "brush."]}), STEPS, "stop"),
        (body({"content": [THOUGHTS]}, "length"), "", "length"),
        (body({"content": []}), "", "stop"),
        (body({"content": STEPS}, None), STEPS, "stop"),
        (body({"content": STEPS}, error=None), STEPS, "stop"),
        (body({"text": STEPS}), STEPS, "stop"),
        (body({"content": "Have fun \ud83d"}), "Have fun \ufffd", "stop"),
        (body({"content": [part("text", "\ude00 and on")]}), "\ufffd and on", "stop"),
        (body({"content": "\ud83d\ude00"}), "😀", "stop"),
        (body({"text": "a\ud83db"}, "sto\udc00p"), "a\ufffdb", "sto\ufffdp"),
    ],
)
def test_a_reply_is_its_text_and_its_refusal(answer, text, reason):
    found = read(json.dumps(answer).encode())
    assert (found.text, found.finish_reason) == (text, reason)


def test_tokens_are_those_that_the_server_counts():
    counted = read(json.dumps(body({"content": STEPS}, usage={"completion_tokens": 4, "prompt_tokens": 3})).encode())
    assert (counted.new_tokens, counted.prompt_tokens) == (4, 3)
    for usage in (None, {}):
        uncounted = read(json.dumps(body({"content": STEPS}, usage=usage)).encode())
        assert (uncounted.new_tokens, uncounted.prompt_tokens) == (None, None)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"<html>", b"null", b"[]", b"3", b"{}", b"[" * 9000, b'{"choices": []}', b'{"choices": {}}', b"\xff"),
        *(b'{"choices": [{}]}', b'{"choices": [{"message": null}]}', b'{"choices": [{"message": {"content": 3}}]}'),
        *(b'{"choices": [{"message": {"content": [3]}}]}', b'{"choices": [{"text": {}}]}'),
        *(b'{"choices": [{"text": "x", "finish_reason": 3}]}', b'{"choices": [{"text": "x"}], "usage": [3]}'),
    ],
)
def test_anything_else_is_no_completion(content):
    with pytest.raises(UNUSABLE):
        read(content)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"message": "Provider returned error: too long", "code": "x"}, ("Provider returned error: too long", 400)),
        ("it is\n broken", ("it is broken", 400)),
        ({"message": "slow down", "code": 429}, ("slow down", 429)),
        ({"message": "slow down", "code": "502"}, ("slow down", 502)),
        ({"message": "slow down", "code": "rate_limit_exceeded"}, ("slow down", 503)),
        ({"message": "slow down", "type": "overloaded_error", "code": None}, ("slow down", 503)),
        ({"message": "No such key", "code": 401}, ("No such key", 401)),
        ({"error": {"detail": "half \ud83d"}}, ("half \ufffd", 400)),
        ({"code": 1301}, ('{"code": 1301}', 400)),
        ({"message": "no", "code": "content_filter"}, ("no", 400, True)),
    ],
)
def test_an_error_in_a_200_is_the_servers_own_words(error, expected):
    expected = Failure(*expected)
    assert read(json.dumps({"error": error}).encode()) == expected
    assert read(json.dumps({"choices": [{"error": error, "message": {"content": ""}}]}).encode()) == expected
    assert expected.passing == (expected.status > 401)


@pytest.mark.parametrize(
    ("error", "filtered"),
    [
        ({"message": "The prompt was filtered", "code": "content_filter"}, True),
        ({"message": "x", "code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}}, True),
        ({"message": "The response was filtered due to Azure's content management policy."}, True),
        ({"message": "no", "code": "content_policy_violation"}, True),
        ({"message": "Invalid prompt: your prompt was flagged", "code": "invalid_prompt"}, True),
        ({"message": "Output data may contain inappropriate content.", "type": "data_inspection_failed"}, True),
        ("Rejected by the safety system", True),
        ({"message": "maximum context length is 4096 tokens"}, False),
        ({"message": "Unknown parameter: safety_identifier"}, False),
        ({"message": "bad field", "input": "Tell me about the content filter"}, False),
    ],
)
def test_a_filter_of_contents_is_known_by_its_codes_and_words(error, filtered):
    assert answers.failure(error, 400).filtered is filtered
