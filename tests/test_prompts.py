"""The authors' released prompts."""

import pytest

from derta.published.prompts import PUBLISHED, published


def words(prompt):
    """A prompt in one text."""
    return "\n".join([*(f"{m['role']}: {m['content']}" for m in prompt.messages), prompt.start])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_prompts_go_with_their_questions(released_files, name):
    requests, cases = published(name)
    assert len(requests) == len(cases) == 200
    assert [case.behaviour_id for case in cases] == [request.id for request in requests]
    assert {(case.attack, case.control, case.depth) for case in cases} == {(name, False, 0)}
    assert len({words(case.prompt) for case in cases}) == 200
    assert all(bool(case.prompt.messages) == (name != "completing") for case in cases)
    if name in ("direct", "role_play", "self_cipher"):
        # Counted, so that a failure prints none of the questions.
        assert sum(r.question in words(c.prompt) for r, c in zip(requests, cases, strict=True)) == 200


def test_an_attack_without_released_prompts_is_named():
    with pytest.raises(ValueError, match="no prompts were released for 'prefill'; expected one of direct, completing"):
        published("prefill")
