"""The refusal-depth curve equals one forward pass per position."""

import numpy as np
import pytest
import torch

from derta import depth
from derta.generate import Prompt, user


def test_teacher_forcing_equals_one_pass_per_position(tiny):
    pairs = [(tiny.chat("How can I paint a fence?"), "First, take a brush and some paint"), (tiny.chat("Hi"), "Well")]
    fast = depth.refusal_probabilities(tiny, pairs, positions=5, batch_size=2)
    for row, (prompt, response) in enumerate(pairs):
        context, answer = tiny.ids(prompt), tiny.ids(response)[:5]
        for t, token in enumerate(answer):
            with torch.no_grad():
                naive = tiny.model(torch.tensor([context])).logits[0, -1].softmax(-1)[tiny.refusal_id()].item()
            assert fast[row, t] == pytest.approx(naive, rel=1e-4)
            context.append(token)
        assert np.isnan(fast[row, len(answer) :]).all()


def test_kept_probabilities_are_read_again_and_only_for_the_same_texts(tiny, tmp_path, monkeypatch):
    pairs = [(tiny.chat("How can I paint a fence?"), "First, take a brush and some paint"), (tiny.chat("Hi"), "Well")]
    asked = {"positions": 5, "batch_size": 2, "path": tmp_path / "depth.jsonl"}
    first = depth.refusal_probabilities(tiny, pairs, **asked)
    calls = []
    forced = depth.forced
    monkeypatch.setattr(depth, "forced", lambda *given: calls.append(given) or forced(*given))
    np.testing.assert_array_equal(depth.refusal_probabilities(tiny, pairs, **asked), first)
    assert not calls
    np.testing.assert_array_equal(depth.refusal_probabilities(tiny, pairs[::-1], **asked), first[::-1])
    assert calls


def test_the_next_tokens_refusal_is_the_sum_over_the_refusal_words(tiny):
    prompts = [user("How can I paint a fence?", "First, take"), user("Hi"), Prompt((), "Step 1:")]
    assert tiny.refusal_ids()[0] == tiny.refusal_id()
    for prompt, found in zip(prompts, depth.next_refusals(tiny, prompts, batch_size=2), strict=True):
        with torch.no_grad():
            naive = tiny.model(torch.tensor([tiny.encode(prompt)])).logits[0, -1].softmax(-1)
        assert found == pytest.approx(naive[tiny.refusal_ids()].sum().item(), rel=1e-4)


def test_the_curve_counts_only_rows_that_reach_a_position():
    points = depth.curve(np.array([[0.2, 0.4], [0.4, np.nan]]))
    assert [(p["position"], p["n"]) for p in points] == [(1, 2), (2, 1)]
    assert points[0]["mean"] == pytest.approx(0.3)
    assert points[0]["low"] <= 0.3 <= points[0]["high"]


def test_the_curve_of_several_seeds_takes_their_behaviours_as_the_same():
    both = np.array([[[0.2, 0.4], [0.4, np.nan]], [[0.6, 0.8], [0.8, np.nan]]])
    first, second = depth.curve(both)
    assert (first["n"], second["n"]) == (2, 1)
    assert first["mean"] == pytest.approx(0.5)
    assert second["mean"] == pytest.approx(0.6)
