"""A priced server: the price before, and a budget that holds."""

import pytest

from derta import evaluate
from derta.attacks import ATTACKS
from derta.files import read_jsonl
from derta.generate import Completion, Prompt, user
from derta.judges.budget import Priced


class Counted:
    """An endpoint that answers in ten tokens, or does not count them."""

    name, counts = "counted", True

    def __init__(self):
        self.asked = 0

    def fingerprint(self):
        return "counted"

    def render(self, prompt):
        return prompt.messages[0]["content"]

    def complete(self, prompts, **decoding):
        self.asked += len(prompts)
        counted = (100, 10) if self.counts else (None, None)
        return [Completion("Sorry, but I can't help with that.", "stop", counted[1], counted[0]) for _ in prompts]


def test_the_price_is_known_before_and_is_an_upper_bound():
    priced = Priced(Counted(), (2.0, 10.0), budget=1.0)
    prompt = user("x" * 200)
    assert priced.at_most(prompt, 50) == pytest.approx(((200 + 8 + 8) * 2 + 50 * 10) / 1e6)
    assert priced.announce([(prompt, 50)] * 3) == "3 requests to counted, at most $0.00; the budget is $1.00"
    priced.complete([prompt], max_new_tokens=50)
    assert priced.spent == pytest.approx((100 * 2 + 10 * 10) / 1e6)
    assert priced.spent <= priced.at_most(prompt, 50)


def test_uncounted_tokens_cost_the_most():
    priced = Priced(Counted(), (2.0, 10.0), budget=1.0)
    priced.endpoint.counts = False
    priced.complete([Prompt((), "Step 1:")], max_new_tokens=50)
    assert priced.spent == priced.at_most(Prompt((), "Step 1:"), 50)


def test_a_budget_stops_before_it_is_exceeded_and_the_run_goes_on_with_another(tmp_path):
    def attack(budget):
        priced = Priced(Counted(), (1000.0, 10_000.0), budget)
        try:
            return priced, evaluate.attack(priced, "direct", tmp_path, limit=10, max_new_tokens=20, batch_size=1)
        finally:
            assert priced.spent <= budget

    with pytest.raises(RuntimeError, match=r"the budget of \$1.50 does not reach .* start again with another budget"):
        attack(1.5)
    kept = list(read_jsonl(tmp_path / "completions" / "counted" / "direct.jsonl"))
    assert 0 < len(kept) < 10
    priced, table = attack(100.0)
    assert priced.endpoint.asked == 20 - len(kept)
    assert table.n.sum() == 20
    assert len(ATTACKS["direct"].requests(False)) > 10


def test_many_at_once_wait_for_what_the_others_really_cost(tmp_path):
    priced = Priced(Counted(), (10.0, 30.0), budget=0.03)
    table = evaluate.attack(priced, "direct", tmp_path, limit=8, max_new_tokens=256, batch_size=8)
    assert table.n.sum() == 16  # at most $0.13 if all were as dear as they could be, and $0.021 as they are
    assert priced.spent == pytest.approx(16 * (100 * 10 + 10 * 30) / 1e6, abs=1e-3)
    assert not priced._pending


def test_a_request_that_fails_costs_the_most_and_lets_the_next_one_go_on():
    priced = Priced(Counted(), (2.0, 10.0), budget=1.0)
    priced.endpoint.complete = None
    with pytest.raises(TypeError):
        priced.complete([user("Hi")], max_new_tokens=50)
    assert priced.spent == priced.at_most(user("Hi"), 50)
