"""What a defence costs: questions, likelihood, and the models of a run's checkpoints."""

import builtins

import numpy as np
import pandas as pd
import pytest
import torch
from tuning import LORA, SETTINGS, weights, write_rows

from derta import corpus, helpfulness, training
from derta.models import load
from derta.tasks import answers

TEXTS = {"plain": corpus.responses("plain-validation")[:3], "instructions": corpus.responses("helpful-validation")[:4]}


@pytest.mark.parametrize(
    ("kind", "accepted", "completion", "is_right"),
    [
        ("arithmetic", ["12"], "7 + 5 = 12", True),
        ("arithmetic", ["12"], "12 is what you get from 7 and 5", False),
        ("arithmetic", ["1000"], "It is 1,000.", True),
        ("arithmetic", ["-3"], "The answer is -3.", True),
        ("arithmetic", ["12"], "I cannot say.", False),
        ("multiple_choice", ["C"], "C) eagle", True),
        ("multiple_choice", ["C"], "The answer is (C), not (A).", True),
        ("multiple_choice", ["C"], "A) eagle", False),
        ("multiple_choice", ["A"], "Dogs can.", False),
        ("multiple_choice", ["A"], "A horse is an animal.", False),
        ("multiple_choice", ["D"], "A horse is one: D) horse", True),
        ("knowledge", ["autumn", "fall"], "Fall comes next.", True),
        ("knowledge", ["fall"], "Waterfalls.", False),
    ],
)
def test_an_answer_is_graded_by_its_kind(kind, accepted, completion, is_right):
    assert answers.right(kind, accepted, completion) == is_right


def test_every_accepted_answer_of_the_corpus_is_right_and_a_refusal_never_is():
    for question in corpus.exact_match():
        assert answers.right(question.kind, list(question.answers), f"The answer is {question.answers[0]}.")
        assert not answers.right(question.kind, list(question.answers), "Sorry, but I won't help with that.")


def test_the_tasks_of_the_authors_have_their_500_questions(released_files):
    for made, kind in ((answers.gsm8k, float), (answers.mmlu, int)):
        rows = made()["test"]
        assert len(rows) == 500
        assert all(kind(str(answer).replace(",", "")) is not None for answer in rows["answer"])
    assert set(answers.mmlu()["test"]["answer"]) == {0, 1, 2, 3}


def test_questions_that_are_nowhere_are_not_at_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("DERTA_RELEASED", str(tmp_path))
    assert answers.at_hand("exact_match")
    assert not answers.at_hand("mmlu")


def test_the_harness_asks_in_the_models_chat_format(tiny):
    rows = helpfulness.accuracy(tiny, {"exact_match": 3}, batch_size=2)
    assert [row["item"] for row in rows] == [question.id for question in corpus.exact_match()[:3]]
    assert {(row["measure"], row["of"]) for row in rows} == {("accuracy", "exact_match")}
    assert all(row["value"] in (0.0, 1.0) for row in rows)


def test_without_the_harness_the_error_says_how_to_install_it(tiny, monkeypatch):
    known = builtins.__import__

    def lacks(name, *rest):
        if name.split(".")[0] == "lm_eval":
            raise ImportError("No module named 'lm_eval'")
        return known(name, *rest)

    monkeypatch.setattr(builtins, "__import__", lacks)
    with pytest.raises(ImportError, match=r"pip install 'derta\[notebooks\]'"):
        helpfulness.accuracy(tiny, {"exact_match": 3}, batch_size=2)


def test_likelihood_and_divergence_are_those_of_the_two_models(tiny, tiny_folder):
    other = load(str(tiny_folder), dtype=torch.float32)
    with torch.no_grad():
        other.model.model.norm.weight.mul_(3)
    rows = helpfulness.likelihood(tiny, other, TEXTS, 12, batch_size=2)
    assert len(rows) == 2 * sum(map(len, TEXTS.values()))
    text = TEXTS["plain"][1]
    prompt, reply = tiny.ids(tiny.plain(text.prompt)), tiny.ids(text.response)[:12]
    own, before = (
        lm.model(torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for lm in (tiny, other)
    )
    expected = {
        "nll": -own[torch.arange(len(reply)), reply].mean().item(),
        "kl": (before.exp() * (before - own)).sum(-1).mean().item(),
    }
    found = {row["measure"]: row["value"] for row in rows if row["item"] == text.id}
    assert found == pytest.approx(expected, rel=1e-4)
    same = helpfulness.likelihood(tiny, tiny, TEXTS, 12, batch_size=2)
    assert max(abs(row["value"]) for row in same if row["measure"] == "kl") < 1e-5


def test_what_was_measured_is_kept_for_the_same_model_and_texts(tiny, tmp_path, monkeypatch):
    options = {"questions": {"exact_match": 2}, "texts": TEXTS, "tokens": 8, "batch_size": 2}
    first = helpfulness.measure(tiny, tiny, tmp_path / "tiny", **options)
    monkeypatch.setattr(helpfulness, "accuracy", None)
    pd.testing.assert_frame_equal(helpfulness.measure(tiny, tiny, tmp_path / "tiny", **options), first)
    with pytest.raises(TypeError):
        helpfulness.measure(tiny, tiny, tmp_path / "tiny", **options | {"tokens": 9})


def test_differences_are_paired_and_the_base_stands_for_each_seed():
    rows = [
        {"arm": arm, "seed": seed, "measure": "nll", "of": "plain", "item": f"t{i}", "value": value + i + seed}
        for arm, seeds, value in (("base", [0], 1.0), ("derta", [0, 1], 1.5))
        for seed in seeds
        for i in range(4)
    ]
    found = helpfulness.differences(pd.DataFrame(rows), [("base", "derta"), ("vanilla", "derta")])
    (row,) = found.to_dict("records")
    assert (row["seeds"], row["n"], row["difference"]) == (2, 4, 1.0)
    means = helpfulness.means(pd.DataFrame(rows)).set_index("arm")["mean"]
    assert means.to_dict() == {"base": 2.5, "derta": 3.5}


def test_accuracy_has_an_interval_where_nothing_varies():
    rows = [
        {"arm": arm, "seed": 0, "measure": "accuracy", "of": "exact_match", "item": f"q{i}", "value": 0.0}
        for arm in ("vanilla", "derta")
        for i in range(10)
    ]
    (row,) = helpfulness.differences(pd.DataFrame(rows), [("vanilla", "derta")]).to_dict("records")
    assert row["low"] < row["difference"] == 0 < row["high"]


def test_the_models_of_all_checkpoints_are_kept_and_the_last_is_the_result(tiny_folder, tmp_path):
    dataset = write_rows(tmp_path / "data")
    folder = training.train(str(tiny_folder), dataset, tmp_path / "kept", keep=True, **SETTINGS)
    plain = training.train(str(tiny_folder), dataset, tmp_path / "plain", **SETTINGS)
    steps = sorted(folder.glob("kept/step-*"), key=lambda path: int(path.name[5:]))
    assert [path.name for path in steps] == ["step-2", "step-4", "step-6"]
    last, result = load(str(steps[-1])).model.state_dict(), load(str(plain)).model.state_dict()
    assert all(torch.equal(result[name], tensor) for name, tensor in last.items())
    first = load(str(steps[0])).model.state_dict()
    assert any(not torch.equal(result[name], tensor) for name, tensor in first.items())
    assert {name: tuple(tensor.shape) for name, tensor in weights(plain).items()}
    assert load(str(steps[0])).chat("Why?") == load(str(plain)).chat("Why?")
    assert np.isfinite(helpfulness.likelihood(load(str(steps[0])), load(str(plain)), TEXTS, 8, 2)[0]["value"])


def test_checkpoints_of_an_adapter_are_not_kept(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="full fine-tuning in one process"):
        training.train(str(tiny_folder), write_rows(tmp_path / "data"), tmp_path / "kept", keep=True, **LORA)


def test_a_kept_model_that_a_kill_lost_is_written_at_the_next_start(tiny_folder, tmp_path, monkeypatch):
    dataset, settings = write_rows(tmp_path / "data"), SETTINGS | {"save_steps": 2}
    whole = training.train(str(tiny_folder), dataset, tmp_path / "whole", keep=True, **settings)
    saved = training.Keep.on_save
    calls = []

    def dies(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        saved(self, *args, **kwargs)

    monkeypatch.setattr(training.Keep, "on_save", dies)
    with pytest.raises(KeyboardInterrupt):
        training.train(str(tiny_folder), dataset, tmp_path / "killed", keep=True, **settings)
    monkeypatch.undo()
    killed = training.train(str(tiny_folder), dataset, tmp_path / "killed", keep=True, **settings)
    for step in (2, 4, 6):
        kept = [folder / "kept" / f"step-{step}" for folder in (whole, killed)]
        first, second = ((path / "model.safetensors").read_bytes() for path in kept)
        assert first == second
        of_whole, of_killed = (load(str(path)).fingerprint() for path in kept)
        assert of_whole == of_killed, "its answers would be asked anew"
