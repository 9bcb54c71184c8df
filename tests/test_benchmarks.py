"""The benchmarks run, and what they compare is the same work."""

import math
import random
import sys
from concurrent.futures import Future
from importlib import import_module

import pytest
import torch
import yaml

from derta.attacks import ATTACKS
from derta.models import load
from derta.objective import IGNORE
from derta.requests import spread
from derta.runs import CHECKOUT

pytestmark = pytest.mark.slow

SMALL = yaml.safe_load((CHECKOUT / "notebooks" / "params" / "small.yaml").read_text())
# The tiny model's tokens are short.
TINY = SMALL | {"triples": 8, "twins": 8, "plain": 4, "instructions": 8, "max_length": 300, "batch_size": 4, "close": 4}
TINY |= {"sft": SMALL["sft"] | {"per_device_train_batch_size": 2}}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(CHECKOUT), *sys.path])
    return lambda name: import_module(f"benchmarks.{name}")


def test_the_ways_to_train_take_the_same_tokens(benchmark, tiny_folder, tmp_path):
    train = benchmark("train")
    given = train.material(str(tiny_folder), TINY, 2, tmp_path)
    seen = {}
    for variant in train.VARIANTS:
        model, step = train.build(variant, str(tiny_folder), given, TINY)
        before = [weight.detach().clone() for weight in model.parameters()]
        counts = [step(), step()]
        assert all((weight != old).any() for weight, old in zip(model.parameters(), before, strict=True))
        seen[variant] = (sum(count.tokens for count in counts), sum(count.labels for count in counts))
        assert 0 < train.operations(model, counts[0]) < math.inf
    assert len({tokens for tokens, _ in seen.values()}) == 1
    # Refusal labels are dropped anew in the published form.
    assert seen["this project"][1] == seen["plain TRL SFT"][1] == pytest.approx(seen["as published"][1], rel=0.3)


def test_rows_relabelled_one_by_one_are_the_arms_rows_where_nothing_is_dropped(benchmark, tiny_folder, tmp_path):
    train = benchmark("train")
    given = train.material(str(tiny_folder), TINY | {"rto_dropout": 0.0}, 4, tmp_path)
    relabelled = [train.relabel(instance, given.refusal_id, 0.0, random.Random(0)) for instance in given.instances]
    assert sorted(relabelled) == sorted((row["input_ids"], row["labels"]) for row in given.rows)
    assert {i.kind for i in given.instances} == {"helpful", "prefix", "rto"}
    assert all(IGNORE in labels for _, labels in relabelled)


class InProcess:
    """Stands in for a process of its own, which takes seconds to start."""

    def __init__(self, *args, **options):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass

    def submit(self, function, *args):
        future = Future()
        future.set_result(function(*args))
        return future


def test_training_speeds_and_memory_are_printed(benchmark, tiny_folder, capsys, monkeypatch):
    train = benchmark("train")
    monkeypatch.setattr(train, "ProcessPoolExecutor", InProcess)
    train.main(str(tiny_folder), TINY, rounds=1)
    printed = capsys.readouterr().out
    assert "this project / plain TRL SFT: " in printed
    assert printed.count(" MiB over model and optimiser") == 3
    assert "nan" not in printed


def test_the_ways_to_answer_give_the_same_texts(benchmark, tiny, capsys):
    generate = benchmark("generate")
    prefill = ATTACKS["prefill"]
    cases = prefill.cases(spread(prefill.requests(False), 27))  # more than a plain batch
    answers = [[a.text for a in way(tiny, cases, 8, 4)] for way in generate.WAYS.values()]
    assert answers[0] == answers[1] == answers[2]
    assert len(set(answers[0])) > 1


def test_generation_speeds_are_printed(benchmark, tiny_folder, capsys):
    benchmark("generate").main(str(tiny_folder), ["direct"], 3, 2, 4)
    printed = capsys.readouterr().out
    assert "the plain way / this project: " in printed
    assert "of 6 texts are those of the plain way" in printed


def test_depth_in_one_pass_is_depth_by_passes(benchmark, tiny_folder, capsys):
    benchmark("depth").main(str(tiny_folder), positions=5, number=2, rounds=1)
    printed = capsys.readouterr().out
    assert "ratio: " in printed
    assert float(printed.rsplit(maxsplit=1)[-1]) < 1e-2


def test_a_triple_read_once_has_the_loss_and_the_gradients_of_its_two_rows(benchmark, tiny_folder, monkeypatch):
    once = benchmark("read_once")
    model, rng = load(str(tiny_folder), dtype=torch.float32, device="cpu").model, random.Random(0)
    monkeypatch.setattr(once, "DEVICE", "cpu")
    monkeypatch.setattr(once, "LENGTHS", dict.fromkeys(once.LENGTHS, (2, 9)))
    triples = [once.triple(rng) for _ in range(6)]
    triples += [(*triples[0][:3], 0), (*triples[0][:3], len(triples[0][2]))]
    found = {}
    for name, way in once.WAYS.items():
        model.zero_grad()
        found[name] = [way(model, triples), *(weight.grad.clone() for weight in model.parameters())]
    for apart, together in zip(found["two rows"], found["read once"], strict=True):
        torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)


def test_what_reading_once_gains_in_a_mixture_is_printed(benchmark, tiny_folder, capsys, monkeypatch):
    once = benchmark("read_once")
    monkeypatch.setattr(once, "LENGTHS", dict.fromkeys(once.LENGTHS, (2, 9)))
    once.main(str(tiny_folder), rounds=1)
    assert "a triple read once takes " in capsys.readouterr().out
    assert once.gain(0.7, 5, 0) == pytest.approx(0.7)
    assert once.gain(0.7, 0, 5) == 1
