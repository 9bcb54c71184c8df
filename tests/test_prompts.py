"""The authors' released prompts, and other published questions, as splits of their own."""

import pytest

from derta.attacks import ATTACKS
from derta.published import prompts, sources
from derta.requests import Request, spread


def words(prompt):
    """A prompt in one text."""
    return "\n".join([*(f"{m['role']}: {m['content']}" for m in prompt.messages), prompt.start])


@pytest.mark.parametrize("name", prompts.PROMPTS)
def test_published_prompts_go_with_their_questions(released_files, name):
    asked = prompts.requests("paper", benign=False)
    attack = prompts.with_sources(ATTACKS[name], ["paper"])
    cases = attack.cases(spread(attack.requests(False), {"paper": 200}))
    assert [case.behaviour_id for case in cases] == [request.id for request in asked]
    assert {(case.attack, case.control, case.depth) for case in cases} == {(name, False, 0)}
    assert len({words(case.prompt) for case in cases}) == 200
    assert all(bool(case.prompt.messages) == (name != "completing") for case in cases)
    # Counted, so that a failure prints none of the texts.
    own = sum(words(ATTACKS[name].prompt(r)) == words(c.prompt) for r, c in zip(asked, cases, strict=True))
    assert own == 0
    if name in ("role_play", "self_cipher"):
        assert sum(r.question in words(c.prompt) for r, c in zip(asked, cases, strict=True)) == 200


def test_an_attack_without_published_prompts_asks_in_its_own_words(released_files):
    asked = prompts.requests("paper", benign=False)[:3]
    for name in ("direct", "prefill", "code_attack_list"):
        cases = ATTACKS[name].cases(asked)
        assert (
            sum(words(case.prompt) == words(ATTACKS[name].prompt(r)) for case, r in zip(cases, asked, strict=True)) == 3
        )


def test_the_instructions_of_alpaca_eval_are_asked_beside_our_own(released_files):
    attack = prompts.with_sources(ATTACKS["helpful"], ["alpaca_eval"])
    asked = attack.requests(False)
    assert sum(request.split == "alpaca_eval" for request in asked) == 300
    assert len(spread(asked, {"alpaca_eval": 30})) == 30


def test_a_source_has_the_sides_that_it_says(monkeypatch):
    def questions(name, rows, benign):
        return [Request(f"{name}-0", "x", f"{name} {benign}", f"{name} {benign}")]

    monkeypatch.setattr(sources, "load", lambda name: [])
    monkeypatch.setattr(sources, "questions", questions)
    found = {
        (source, benign): [(r.question, r.split) for r in prompts.requests(source, benign)]
        for source in ("harmbench", "jailbreakbench", "xstest")
        for benign in (False, True)
    }
    assert found == {
        ("harmbench", False): [("harmbench False", "harmbench")],
        ("harmbench", True): [],
        ("jailbreakbench", False): [("jailbreakbench False", "jailbreakbench")],
        ("jailbreakbench", True): [("jailbreakbench-benign True", "jailbreakbench")],
        ("xstest", False): [("xstest False", "xstest")],
        ("xstest", True): [("xstest True", "xstest")],
    }
    with pytest.raises(ValueError, match="unknown source 'hells'; expected one of paper, alpaca_eval"):
        prompts.requests("hells", benign=False)


@pytest.mark.parametrize(
    ("attack", "source", "instead"),
    [
        ("multi_turn", "paper", "no published source"),
        ("prefill_depth", "harmbench", "no published source"),
        ("direct", "alpaca_eval", "paper, harmbench, jailbreakbench, xstest"),
        ("borderline", "paper", "xstest"),
        ("helpful", "xstest", "alpaca_eval"),
    ],
)
def test_an_attack_asks_only_what_it_can(attack, source, instead):
    with pytest.raises(ValueError, match=f"{attack} cannot ask {source}; it can ask {instead}"):
        prompts.with_sources(ATTACKS[attack], [source])
