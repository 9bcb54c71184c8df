"""Decoding, and files that survive being killed."""

import json
import multiprocessing
import random
import time
from collections import Counter

import pytest
import torch
from conftest import make_model

from derta import decode, generate, models
from derta.decode import TopK
from derta.generate import Case, Prompt, user
from derta.runs import read_jsonl, to_jsonl

PROMPTS = [user("word " * (i + 1), "So" if i % 2 else "") for i in range(8)]
PROMPTS += [Prompt((), "The first"), Prompt((*PROMPTS[0].messages, {"role": "assistant", "content": "Yes."}), "And")]
CASES = [Case(f"b{i}/direct", f"b{i}", "direct", 0, prompt) for i, prompt in enumerate(PROMPTS)]


def run(tiny, path, **options):
    return generate.run(tiny, CASES, path, **({"max_new_tokens": 6, "batch_size": 3} | options))


def test_a_batch_gives_what_each_prompt_gives_alone(tiny):
    together = tiny.complete(PROMPTS, max_new_tokens=6)
    alone = []
    for prompt in PROMPTS:
        ids = tiny.ids(tiny.render(prompt)) + (tiny.ids(prompt.reply) if prompt.reply else [])
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(tiny.model(torch.tensor([ids])).logits[0, -1].argmax()))
        alone.append(tiny.tokenizer.decode(ids[-6:], skip_special_tokens=True))
    assert [c.text for c in together] == alone
    assert {c.finish_reason for c in together} == {"length"}
    assert {c.new_tokens for c in together} == {6}
    assert [c.prompt_tokens for c in together] == [len(tiny.encode(prompt)) for prompt in PROMPTS]


@pytest.fixture(scope="module", params=["full attention", "a window"])
def either(request, tiny_folder, tmp_path_factory):
    """A folder with a model whose attention sees everything, or the last twelve tokens."""
    if request.param == "full attention":
        return tiny_folder
    return make_model(tmp_path_factory.mktemp("window") / "tiny", "mistral", sliding_window=12)


@pytest.mark.parametrize("forbid", [False, True])
@pytest.mark.parametrize("min_new_tokens", [0, 7])
@pytest.mark.parametrize("beginning", ["", "Read every word of what follows, twice and with care, then go on. "])
def test_greedy_texts_are_those_of_transformers(either, beginning, min_new_tokens, forbid):
    lm = models.load(str(either), dtype=torch.float32)
    prompts = [lm.encode(user(beginning + "word " * i, "So" * (i % 2))) for i in range(1, 11)]
    assert bool(beginning) == (decode.shared(prompts) > 10)
    batch = lm.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")

    def theirs(**options):
        made = lm.model.generate(**batch, max_new_tokens=16, do_sample=False, **options)
        return [row[batch.input_ids.shape[1] :].tolist() for row in made]

    free = theirs()
    bad = [free[0][2:4], free[1][:1]] if forbid else None
    # Tokens that come early in some rows, late in others, and never in the rest.
    common = Counter(token for ids in free for token in set(ids)).most_common()
    ends = [lm.tokenizer.eos_token_id, *[token for token, rows in common if 2 <= rows < 8][:6]]
    lm.model.generation_config.eos_token_id = ends
    rows = []
    for ids in theirs(bad_words_ids=bad, min_new_tokens=min_new_tokens or None):
        end = next((i for i, token in enumerate(ids) if token in ends), 16)
        rows.append((lm.tokenizer.decode(ids[:end], skip_special_tokens=True), min(end + 1, 16)))
    assert len({length for _, length in rows}) > 1, "the rows should end at different steps"
    ours = decode.complete(
        lm.model,
        lm.tokenizer,
        prompts,
        max_new_tokens=16,
        min_new_tokens=min_new_tokens,
        forbidden=bad or (),
    )
    assert [(c.text, c.new_tokens) for c in ours] == rows


def test_a_beginning_is_shared_where_it_saves_the_most():
    rows = [[1, 2, 3, 4, *range(100 + i, 110)] for i in range(10)]
    assert decode.shared([[1] * 20 + row for row in rows]) == 24
    assert decode.shared([[5 + i // 5] * 30 + row for i, row in enumerate(rows)]) == 34
    assert decode.shared([[1] * 20] * 10) == 19  # the last token is read by each row
    assert decode.shared(rows) == decode.shared([[1] * 500]) == decode.shared([[1], [1, 2]]) == 0


def test_plain_text_is_completed_as_it_is(tiny):
    assert tiny.render(Prompt((), "Step 1:")) == "Step 1:"
    assert tiny.encode(Prompt((), "Step 1:")) == tiny.ids("Step 1:")


def test_greedy_results_do_not_depend_on_the_batch_size(tiny, tmp_path):
    rows = {}
    for size in (1, 3, 8):
        run(tiny, tmp_path / f"{size}.jsonl", batch_size=size)
        rows[size] = list(read_jsonl(tmp_path / f"{size}.jsonl"))
        assert [row["case_id"] for row in rows[size]] == [case.case_id for case in CASES]
    texts = [[(r["completion"], r["finish_reason"], r["new_tokens"]) for r in rows[size]] for size in rows]
    assert texts[0] == texts[1] == texts[2]


def test_a_forbidden_word_is_not_produced(tiny):
    free = tiny.complete(PROMPTS, max_new_tokens=6)
    first = tiny.tokenizer.decode(tiny.ids(free[0].text)[:1]).strip()
    assert first in free[0].text
    bound = tiny.complete(PROMPTS, max_new_tokens=6, forbidden=[first])
    forbidden = {tuple(tiny.ids(space + first)) for space in ("", " ")}
    assert all(len(ids) == 1 for ids in forbidden)
    assert not any(set(tiny.ids(c.text)) & {ids[0] for ids in forbidden} for c in bound)


def test_a_draw_follows_the_softmax_of_the_likeliest():
    scores = torch.tensor([[2.0, 1.0, 0.0, -9.0]]).repeat(20_000, 1)
    drawn = TopK(3, 0.5, seed=0, device=torch.device("cpu"))(None, scores)
    assert ((drawn == 0).sum(-1) == 1).all()
    assert (drawn.isinf().sum(-1) == 3).all()
    share = (drawn == 0).float().mean(0)
    assert share[3] == 0
    torch.testing.assert_close(share[:3], (scores[0, :3] / 0.5).softmax(-1), atol=0.01, rtol=0)


def test_sampled_rows_of_one_seed_are_the_same_and_long_enough(tiny):
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "temperature": 5.0}
    first, again, other = (tiny.complete(PROMPTS, seed=seed, **options) for seed in (1, 1, 2))
    assert first == again != other
    assert {c.new_tokens for c in first} == {8}


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
    cases = [Case(f"b{i}/direct", f"b{i}", "direct", 0, user("word " * (1 + i % 40))) for i in range(1200)]
    generate.run(lm, cases, path, max_new_tokens=8, batch_size=4)


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
    names = "case_id behaviour_id attack depth prompt start completion finish_reason new_tokens".split()
    assert list(rows[0]) == [*names, "prompt_tokens", "seed", "model", "parameters"]
    assert [row["case_id"] for row in rows] == [case.case_id for case in CASES]
    assert rows[0]["prompt"] == tiny.chat("word ")
    assert {row["model"] for row in rows} == {"tiny"}


def test_a_file_of_other_cases_is_an_error(tiny, tmp_path):
    run(tiny, tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match=r"x\.jsonl, row 1: .* is not one of these cases"):
        generate.run(tiny, CASES[1:], tmp_path / "x.jsonl", max_new_tokens=6, batch_size=3)


def test_a_file_of_other_parameters_is_an_error(tiny, tmp_path):
    run(tiny, tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match=r"x\.jsonl, row 1: .* or with other parameters; delete the file"):
        run(tiny, tmp_path / "x.jsonl", max_new_tokens=5)


def test_a_broken_row_is_named(tiny, tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"case_id": "b0/direct"}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl, row 1: missing prompt"):
        run(tiny, tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_bytes(b'{"case_id": "\xff"}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl, row 1: not JSON in UTF-8"):
        run(tiny, tmp_path / "x.jsonl")


def test_two_cases_of_one_id_are_an_error(tiny, tmp_path):
    with pytest.raises(ValueError, match="two cases"):
        generate.run(tiny, CASES + CASES[:1], tmp_path / "x.jsonl", max_new_tokens=2, batch_size=3)
