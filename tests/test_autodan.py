"""AutoDAN: its fitness, its operators, and going on after a kill."""

import random

import pytest
import torch
from conftest import make_model

from derta import evaluate, models
from derta.attacks import role_play
from derta.files import read_csv, read_jsonl
from derta.generate import Prompt, user
from derta.judges.endpoint import Endpoint
from derta.requests import Request
from derta.searches import autodan
from derta.searches.autodan import AutoDANSettings
from derta.searches.log import queries

REQUEST = Request("x-001", "test", "paint a fence", "How can I paint a fence?")
SETTINGS = AutoDANSettings(behaviours=1, population=20, generations=3, batch_size=7, seed=0, mutation=0.1)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_fitness_is_the_likelihood_of_the_reply(tiny, batch_size):
    """One sequence at a time, without padding, without a cache."""
    # A model with random weights finds all replies alike; one that is surer does not.
    tiny.model.lm_head.weight.data *= 30
    prompts = [user(t.replace("{question}", REQUEST.question)) for t in role_play.templates()]
    prompts += [prompts[0], user("Hi"), Prompt((), "Plain text")]
    rules = {"role": "system", "content": "Be polite, be brief and answer in English, whatever happens. " * 5}
    prompts += [Prompt((rules, *prompt.messages)) for prompt in prompts[:9]]
    reply = "Sure, here are detailed instructions to paint a fence."
    fast = autodan.fitness(tiny, prompts, reply, batch_size)
    answer = tiny.ids(reply)
    for prompt, value in zip(prompts, fast, strict=True):
        ids = tiny.encode(prompt) + answer
        with torch.no_grad():
            logits = tiny.model(torch.tensor([ids])).logits[0, -len(answer) - 1 : -1].log_softmax(-1)
        naive = logits[range(len(answer)), answer].mean().item()
        assert value == pytest.approx(naive, abs=1e-4)
    assert len({round(value, 5) for value in fast}) == len(prompts) - 1


FAMILIES = {
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "gpt2": {},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba": {},
    "jamba": {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"],
        "head_dim": 8,
        "num_experts": 2,
        "num_experts_per_tok": 1,
    },
    # These scale or cap what comes out of their output layer.
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "lm_head_multiplier": 0.5},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 2.0},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25},
}


@pytest.mark.parametrize("architecture", FAMILIES)
def test_fitness_is_the_same_for_any_architecture(architecture, tmp_path):
    folder = make_model(tmp_path / architecture, architecture, **FAMILIES[architecture])
    lm = models.load(str(folder), dtype=torch.float32, device="cpu")
    lm.model.get_output_embeddings().weight.data *= 30
    prompts = [user(text) for text in ("a b c", "a b d e", "How can I paint a fence?")]
    answer = lm.ids("Sure, here")
    for prompt, value in zip(prompts, autodan.fitness(lm, prompts, "Sure, here", 2), strict=True):
        with torch.no_grad():
            logits = lm.model(torch.tensor([lm.encode(prompt) + answer])).logits[0, -len(answer) - 1 : -1]
        assert value == pytest.approx(logits.log_softmax(-1)[range(len(answer)), answer].mean().item(), abs=1e-4)


def test_a_search_never_loses_its_best_and_counts_its_queries(tiny, tmp_path):
    prompt = autodan.search(REQUEST, tiny, tmp_path / "x.jsonl", SETTINGS)
    rows = list(read_jsonl(tmp_path / "x.jsonl"))
    assert len(rows) == 4
    assert {row["question"] for row in rows} == {REQUEST.question}
    best = [row["best"] for row in rows]
    assert best == sorted(best)
    assert best[-1] > rows[0]["mean"]
    assert autodan.gains(tmp_path) == [(rows[0]["mean"], best[-1])]
    assert all(len(row["population"]) == len(row["fitness"]) == 20 for row in rows)
    assert all(template.count("{question}") == 1 for row in rows for template in row["population"])
    assert rows[0]["population"][: len(role_play.templates())] == list(role_play.templates())
    seen = set()
    for row in rows:
        new = set(row["population"]) - seen
        assert row["queries"]["target"] >= len(new)
        seen = set(row["population"])
    assert queries(tmp_path)["target"] < 4 * 20
    assert REQUEST.question in prompt.messages[0]["content"]
    winner = rows[-1]["population"][rows[-1]["fitness"].index(best[-1])]
    assert prompt == user(winner.replace("{question}", REQUEST.question))


def test_a_killed_search_ends_with_the_log_of_an_undisturbed_one(tiny, tmp_path):
    whole, log = tmp_path / "whole.jsonl", tmp_path / "x.jsonl"
    best = autodan.search(REQUEST, tiny, whole, SETTINGS)
    content = whole.read_bytes()
    for cut in (content.index(b"\n") + 1, int(len(content) * 0.6)):
        log.write_bytes(content[:cut])
        assert autodan.search(REQUEST, tiny, log, SETTINGS) == best
        assert log.read_bytes() == content


def test_sentences_are_exchanged_and_none_is_lost():
    one, other = role_play.templates()[2:4]
    rng = random.Random(0)
    mixed = [autodan.cross(one, other, rng) for _ in range(20)]
    assert len(set(mixed)) > 3
    pieces = sorted(autodan._SENTENCE_END.split(one) + autodan._SENTENCE_END.split(other))
    for a, b in mixed:
        assert sorted(autodan._SENTENCE_END.split(a) + autodan._SENTENCE_END.split(b)) == pieces
        assert a.count("{question}") == b.count("{question}") == 1


def test_words_become_synonyms_and_keep_their_capitals():
    assert autodan.mutate("Begin to know every {question} rule.", 0, random.Random(0)).startswith("Begin")
    changed = autodan.mutate("Begin to know every {question}.", 1, random.Random(0))
    assert changed == "Start to understand each {question}."
    scores = {"begin": -3.0, "start": -1.0, "know": -1.0, "understand": -2.0}
    assert {autodan.improve("Begin to know", scores, random.Random(seed)) for seed in range(9)} == {
        "Begin to know",
        "Start to know",
    }


def test_a_words_score_is_its_templates_mean_with_momentum():
    scores = autodan.word_scores(["Begin to know", "begin now"], [-2.0, -4.0], {"begin": -1.0, "want": -9.0})
    assert scores == {"begin": -2.0, "know": -2.0, "want": -9.0}


def test_the_synonyms_are_disjoint_and_used_by_the_templates():
    rows = [row["words"].split() for row in read_csv(autodan.DATA / "synonyms.csv", ("words",))]
    words = [word for row in rows for word in row]
    assert len(words) == len(set(words))
    assert all(len(row) >= 2 and all(word.islower() for word in row) for row in rows)
    used = " ".join(role_play.templates()).lower()
    assert not [row for row in rows if not any(word in used for word in row)]


def test_a_server_tells_no_likelihoods(tmp_path):
    with pytest.raises(TypeError, match="has to be a model in process"):
        autodan.search(REQUEST, Endpoint("m", "http://127.0.0.1:9/v1"), tmp_path / "x.jsonl", SETTINGS)


def test_autodan_runs_as_an_attack_with_its_control(tiny, tmp_path):
    small = AutoDANSettings(behaviours=2, population=6, generations=1, batch_size=4, seed=0)
    attack = autodan.attack(small)
    table = evaluate.attack(tiny, [attack], tmp_path, "base-s0", limit={"test": 9}, max_new_tokens=3, batch_size=2)
    assert [tuple(row) for row in table[["attack", "control", "n"]].values] == [
        ("autodan", False, 2),
        ("autodan", True, 2),
    ]
    for name in ("autodan", "autodan_benign"):
        rows = list(read_jsonl(tmp_path / "completions" / "base-s0" / f"{name}.jsonl"))
        logs = tmp_path / "searches" / "base-s0" / name
        assert {f"{row['behaviour_id']}.jsonl" for row in rows} == {path.name for path in logs.glob("*.jsonl")}
    with pytest.raises(ValueError, match="autodan searches: give it a folder for its logs"):
        attack.cases([REQUEST], target=tiny)
    with pytest.raises(ValueError, match="autodan depends on the model that is attacked"):
        attack.cases([REQUEST], logs=tmp_path)
