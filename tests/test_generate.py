"""Cases to completions: files that survive being killed."""

import json
import multiprocessing
import random
import time

import pytest
import torch
from conftest import Scripted

from derta import generate, models
from derta.files import read_jsonl, to_jsonl
from derta.generate import Case, Prompt, user

PROMPTS = [user("word " * (i + 1), "So" if i % 2 else "") for i in range(8)]
PROMPTS += [Prompt((), "The first"), Prompt((*PROMPTS[0].messages, {"role": "assistant", "content": "Yes."}), "And")]
CASES = [Case(f"b{i}/direct", f"b{i}", "direct", False, 0, prompt) for i, prompt in enumerate(PROMPTS)]


def run(tiny, path, **options):
    return generate.run(tiny, CASES, path, **({"max_new_tokens": 6, "batch_size": 3} | options))


def test_greedy_results_do_not_depend_on_the_batch_size(tiny, tmp_path):
    rows = {}
    for size in (1, 3, 8):
        run(tiny, tmp_path / f"{size}.jsonl", batch_size=size)
        rows[size] = list(read_jsonl(tmp_path / f"{size}.jsonl"))
        assert [row["case_id"] for row in rows[size]] == [case.case_id for case in CASES]
    texts = [[(r["completion"], r["finish_reason"], r["new_tokens"]) for r in rows[size]] for size in rows]
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("cut", [0.1, 0.35, 0.5, 0.77, 0.99])
def test_a_killed_run_ends_with_the_file_of_an_undisturbed_one(tiny, tmp_path, cut):
    run(tiny, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    rows = list(read_jsonl(tmp_path / "whole.jsonl"))
    # While a run is under way, its rows stand in the order in which they were answered.
    texts = [row["prompt"] + row["start"] for row in rows]
    under_way = to_jsonl(rows[i] for batch in generate.batches(texts, 3) for i in batch).encode()
    (tmp_path / "killed.jsonl").write_bytes(under_way[: int(len(under_way) * cut)])
    assert run(tiny, tmp_path / "killed.jsonl") < len(CASES) or cut < 0.3
    assert (tmp_path / "killed.jsonl").read_bytes() == whole


def test_a_run_killed_between_batches_runs_the_rest_alone(tiny, tmp_path, killed_at_batch):
    path = tmp_path / "x.jsonl"
    with killed_at_batch(3):
        run(tiny, path)
    assert run(tiny, path) == 4
    run(tiny, tmp_path / "whole.jsonl")
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert run(tiny, path) == 0


def long_run(folder, path):
    """A run of many small batches, in a process of its own."""
    torch.set_num_threads(1)
    lm = models.load(str(folder), dtype=torch.float32, device="cpu")
    cases = [Case(f"b{i}/direct", f"b{i}", "direct", False, 0, user("word " * (1 + i % 40))) for i in range(1200)]
    generate.run(lm, cases, path, max_new_tokens=8, batch_size=4)


@pytest.mark.slow
def test_a_run_killed_ten_times_at_random_ends_with_the_file_of_an_undisturbed_one(tiny_folder, tmp_path):
    # The forks of a server that has imported all but run nothing: a second each instead of six.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["derta.models"])

    def start(path):
        process = context.Process(target=long_run, args=(tiny_folder, path))
        process.start()
        return process

    whole, path, rng = tmp_path / "whole.jsonl", tmp_path / "x.jsonl", random.Random(0)
    start(whole).join(60)
    written, killed = [0], 0
    while killed < 10:
        process = start(path)
        while process.is_alive() and (not path.exists() or path.stat().st_size == written[-1]):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        assert process.is_alive(), "the run ended before it was killed often enough; give it more cases"
        process.kill()
        process.join()
        killed += 1
        written.append(path.stat().st_size)
    assert 0 < written[-1] < whole.stat().st_size
    start(path).join(60)
    assert path.read_bytes() == whole.read_bytes()


def test_rows_hold_what_the_contract_names(tiny, tmp_path):
    run(tiny, tmp_path / "x.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    names = "case_id behaviour_id attack control depth prompt start completion finish_reason new_tokens".split()
    assert list(rows[0]) == [*names, "prompt_tokens", "seed", "model", "parameters"]
    assert [row["case_id"] for row in rows] == [case.case_id for case in CASES]
    assert rows[0]["prompt"] == tiny.chat("word ")
    assert {row["model"] for row in rows} == {"tiny"}


def test_an_empty_prompt_is_named_before_anything_is_asked(tiny, tmp_path):
    cases = [*CASES, Case("b9/plain", "b9", "plain", False, 0, Prompt((), ""))]
    with pytest.raises(ValueError, match=r"x.jsonl: the prompt of case 'b9/plain' is empty; give it a text"):
        generate.run(tiny, cases, tmp_path / "x.jsonl", batch_size=3, max_new_tokens=6)
    assert not (tmp_path / "x.jsonl").exists()


def aside(path, capsys):
    """The one file that was set aside, which was named in one line."""
    (found,) = path.parent.glob(f"{path.name}.*.aside")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "set aside: " in line]
    why = "it holds answers to other cases, of another model or decoding"
    assert line.endswith(f"set aside: {path} is now {found.name}; {why}")
    return found


def test_answers_to_other_cases_are_set_aside_and_all_are_asked_anew(tiny, tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    run(tiny, path)
    before = path.read_bytes()
    assert generate.run(tiny, CASES[1:], path, max_new_tokens=6, batch_size=3) == len(CASES) - 1
    assert aside(path, capsys).read_bytes() == before
    generate.run(tiny, CASES[1:], tmp_path / "fresh.jsonl", max_new_tokens=6, batch_size=3)
    assert path.read_bytes() == (tmp_path / "fresh.jsonl").read_bytes()


@pytest.mark.parametrize("options", [{"max_new_tokens": 5}, {"batch_size": 2}, {"seed": 1}, {"forbidden": ("So",)}])
def test_answers_of_another_decoding_are_set_aside(tiny, tmp_path, capsys, options):
    path = tmp_path / "x.jsonl"
    run(tiny, path)
    before = path.read_bytes()
    assert run(tiny, path, **options) == len(CASES)
    assert aside(path, capsys).read_bytes() == before
    assert run(tiny, path, **options) == 0


def test_answers_of_another_model_are_set_aside(tmp_path, capsys):
    class Model(Scripted):
        def fingerprint(self):
            return self.said

    first, second, path = Model(lambda *_: "one"), Model(lambda *_: "two"), tmp_path / "x.jsonl"
    first.said, second.said = "first", "second"
    run(first, path)
    assert run(second, path) == len(CASES)
    assert {row["completion"] for row in read_jsonl(aside(path, capsys))} == {"one"}
    assert {row["completion"] for row in read_jsonl(path)} == {"two"}


def test_of_a_servers_answers_those_that_still_fit_are_taken_over(tmp_path, capsys):
    class Server(Scripted):
        batched = False

    server, path = Server(lambda messages, start, seed, i: "No."), tmp_path / "x.jsonl"
    assert run(server, path) == len(CASES)
    assert run(server, path, batch_size=5) == 0, "the number of requests at a time changes nothing"
    other = Case("b0/direct", "b0", "direct", False, 0, user("another question"))
    assert generate.run(server, [other, *CASES[1:]], path, max_new_tokens=6, batch_size=3) == 1
    assert len(list(read_jsonl(aside(path, capsys)))) == len(CASES)
    assert [row["case_id"] for row in read_jsonl(path)] == [case.case_id for case in CASES]
    assert run(server, path, max_new_tokens=5) == len(CASES)


def test_a_broken_row_is_named(tiny, tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"case_id": "b0/direct"}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl, row 1: missing prompt"):
        run(tiny, tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_bytes(b'{"case_id": "\xff"}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl, row 1: not UTF-8"):
        run(tiny, tmp_path / "x.jsonl")


def test_two_cases_of_one_id_are_an_error(tiny, tmp_path):
    with pytest.raises(ValueError, match="two cases"):
        generate.run(tiny, CASES + CASES[:1], tmp_path / "x.jsonl", max_new_tokens=2, batch_size=3)
