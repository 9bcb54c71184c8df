"""What words alone tell, little in the close pairs and more in the loose ones, and what hidden states tell."""

import numpy as np
import pandas as pd
import pytest
import torch

from derta import corpus, probe, stats
from derta.generate import Case, Prompt, user
from derta.material import embedded_material
from derta.measures import measure


def test_words_hardly_tell_close_pairs_apart_and_loose_ones_well():
    found = {}
    for twin in ("close", "loose"):
        pairs = [b for b in corpus.behaviours() if b.twin == twin and b.split in ("train", "choice")]
        found[twin] = float(stats.auroc(*probe.words_cross_validated(pairs)).mean())
    assert found["close"] <= 0.70 < 0.78 < found["loose"], found


def test_words_are_fitted_on_the_training_pairs():
    pairs = corpus.behaviours("train")[:200]
    seen = stats.auroc(*probe.words(pairs, pairs)).mean()
    assert seen > 0.95
    unseen = stats.auroc(*probe.words(pairs, corpus.behaviours("choice"))).mean()
    assert 0.45 < unseen < 0.75


def test_words_of_behaviours_are_scored_side_by_side():
    chosen = corpus.behaviours("validation")[:5]
    expected = probe.words(corpus.behaviours("train"), chosen)
    found = probe.words_of([[b.id for b in chosen], [b.id for b in chosen[::-1]]])
    assert found[0] == pytest.approx(expected[0])
    assert found[1] == pytest.approx(expected[1][::-1])


def test_states_are_those_of_the_last_token_whatever_the_batch(tiny):
    prompts = [user("Hi"), user("How can I paint a fence?", "First, take a brush"), Prompt((), "Step 1:")]
    found = probe.states(tiny, prompts, batch_size=2)
    assert found.shape == (3, 3, 32)  # two layers and the embedding
    for i, prompt in enumerate(prompts):
        with torch.no_grad():
            layers = tiny.model(torch.tensor([tiny.encode(prompt)]), output_hidden_states=True).hidden_states
        for layer, states in enumerate(layers):
            assert found[layer, i] == pytest.approx(states[0, -1].numpy(), abs=1e-4)


def test_a_linear_probe_finds_what_a_layer_holds_and_nothing_in_noise():
    rng = np.random.default_rng(0)

    def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
        harmful, benign = rng.normal(size=(2, n, 8)), rng.normal(size=(2, n, 8))
        harmful[1, :, 3] += 2
        return harmful, benign

    scores = probe.linear(drawn(200), drawn(300))
    noise, layer = stats.auroc(*scores).mean(-1)
    assert noise == pytest.approx(0.5, abs=0.06)
    assert layer == pytest.approx(0.92, abs=0.04)  # two standard deviations apart


def test_a_probe_is_fitted_on_the_questions_and_on_beginnings_of_their_answers():
    material = embedded_material(8, 8, 0, 0, seed=0, close=4)
    harmful, benign = probe.training_prompts(material, 0)
    assert probe.training_prompts(material, 0) == (harmful, benign)
    assert len(harmful) == len(benign) == 16
    texts = {triple.query: triple.harmful for triple in material.triples}
    for prompt, twin in zip(harmful, benign, strict=True):
        assert texts[prompt.messages[0]["content"]].startswith(prompt.start)
        assert len(prompt.start.split(" ")) == len(twin.start.split(" "))
    assert sum(prompt.start == "" for prompt in harmful) == 8
    with pytest.raises(ValueError, match="draw at least as many twins as triples"):
        probe.training_prompts(embedded_material(8, 7, 0, 0, seed=0), 0)


def test_the_probe_of_every_layer_and_seed_is_kept_and_fitted_anew_for_other_prompts(tiny, tmp_path, monkeypatch):
    pair = corpus.behaviours("choice")[:3]
    cases = [
        [Case(f"{b.id}/{control}", b.id, "direct", control, 0, user(b.benign if control else b.harmful)) for b in pair]
        for control in (False, True)
    ]
    training = {seed: probe.training_prompts(embedded_material(8, 8, 0, 0, seed, close=4), seed) for seed in (0, 1)}
    path = tmp_path / "probe.json"
    rows = probe.by_layer(tiny, cases, training, path, batch_size=4)
    assert len(rows) == 2 * 3 * 6  # seeds, two layers and the embedding, cases
    held_out, fitted_on = (
        [probe.states(tiny, s, batch_size=4) for s in sides]
        for sides in ([[case.prompt for case in side] for side in cases], training[1])
    )
    expected = probe.linear(fitted_on, held_out)[1][2]
    found = rows[(rows.seed == 1) & (rows.layer == 2) & rows.control]
    assert found.score.to_numpy() == pytest.approx(expected)
    states, calls = probe.states, []
    monkeypatch.setattr(probe, "states", lambda *given, **more: calls.append(given) or states(*given, **more))
    pd.testing.assert_frame_equal(probe.by_layer(tiny, cases, training, path, batch_size=4), rows)
    assert not calls
    probe.by_layer(tiny, cases, {0: training[1]}, path, batch_size=4)
    assert calls


def test_a_classifier_refuses_above_one_half_and_is_measured_like_a_model():
    pair = corpus.behaviours("choice")[:2]
    cases = [
        [Case(f"{b.id}/{control}", b.id, "direct", control, 0, user(b.harmful)) for b in pair]
        for control in (False, True)
    ]
    judged = probe.verdicts("words", 0, cases, (np.array([0.9, 0.4]), np.array([0.6, 0.1])))
    assert judged.refused.tolist() == [True, False, True, False]
    assert set(judged.split) == {"choice"}
    (found,) = measure(judged).to_dict("records")
    assert (found["selectivity"], found["ordered"], found["auroc"]) == (0, 1, 0.75)
