"""Decoding: greedy texts are those of transformers, alone or in a batch."""

from collections import Counter

import pytest
import torch
from conftest import make_model

from derta import decode, depth, models
from derta.decode import TopK
from derta.generate import Prompt, user

PROMPTS = [user("word " * (i + 1), "So" if i % 2 else "") for i in range(8)]
PROMPTS += [Prompt((), "The first"), Prompt((*PROMPTS[0].messages, {"role": "assistant", "content": "Yes."}), "And")]


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


LEARNED = {"opt": {"ffn_dim": 64, "word_embed_proj_dim": 32}, "gpt2": {}, "gpt_bigcode": {}, "llama": {}}


@pytest.mark.parametrize("architecture", LEARNED)
def test_a_prompt_beyond_the_models_positions_is_an_error(architecture, tmp_path):
    folder = make_model(tmp_path / "short", architecture, max_position_embeddings=64, **LEARNED[architecture])
    lm = models.load(str(folder), dtype=torch.float32, device="cpu")
    long, fits = user("word " * 200), user("word " * 40)
    number = len(lm.encode(fits))
    with pytest.raises(
        ValueError, match=r"short: prompt 2 of 2, '.*user\\nword.*' …, has \d{3} tokens .* only 64 positions"
    ):
        lm.complete([fits, long], max_new_tokens=2)
    with pytest.raises(ValueError, match=f"has {number} tokens and may get {65 - number} more"):
        lm.complete([fits], max_new_tokens=65 - number)
    assert lm.complete([fits], max_new_tokens=64 - number)[0].finish_reason
    with pytest.raises(ValueError, match=r"prompt 1 of 1, .* 64 positions"):
        list(depth.forced(lm, [lm.encode(fits)], [lm.encode(fits)], 1))


def test_a_model_without_a_limit_takes_any_prompt(tmp_path):
    lm = models.load(str(make_model(tmp_path / "bloom", "bloom")), dtype=torch.float32, device="cpu")
    assert lm.complete([user("word " * 3000)], max_new_tokens=1)[0].prompt_tokens > 3000


def test_an_empty_prompt_is_an_error(tiny):
    with pytest.raises(ValueError, match="tiny: prompt 2 of 2 is empty; give it a text"):
        tiny.complete([user("Hi"), Prompt((), "")], max_new_tokens=2)
    with pytest.raises(ValueError, match="prompt 1 of 1 is empty"):
        list(depth.forced(tiny, [[]], [[5]], 1))


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


def test_a_guide_takes_its_favourite_among_the_likeliest_tokens(tiny, tmp_path):
    torch.manual_seed(1)
    guide = models.load(str(make_model(tmp_path / "guide", hidden_act="gelu")), dtype=torch.float32)
    k, steps = 5, 8

    def naive(prompt: list[int], ends: set[int]) -> list[int]:
        ids = list(prompt)
        while len(ids) < len(prompt) + steps and (len(ids) == len(prompt) or ids[-1] not in ends):
            with torch.no_grad():
                top = tiny.model(torch.tensor([ids])).logits[0, -1].topk(k).indices
                ids.append(int(top[guide.model(torch.tensor([ids])).logits[0, -1][top].argmax()]))
        return ids[len(prompt) :]

    prompts = [tiny.encode(prompt) for prompt in PROMPTS]
    ends = {tiny.tokenizer.eos_token_id, naive(prompts[0], set())[3]}
    tiny.model.generation_config.eos_token_id = list(ends)
    expected = []
    for ids in (naive(prompt, ends) for prompt in prompts):
        given = ids[:-1] if ids[-1] in ends else ids
        expected.append(tiny.tokenizer.decode(given, skip_special_tokens=True))
    options = {"max_new_tokens": steps, "guide": guide.model, "guide_rank": k}
    found = decode.complete(tiny.model, tiny.tokenizer, prompts, **options)
    assert [c.text for c in found] == expected
    assert {c.finish_reason for c in found} == {"stop", "length"}


def test_a_guide_is_named_and_has_the_same_vocabulary(tiny_folder, tmp_path):
    lm = models.load(str(tiny_folder))
    guided = lm.complete(PROMPTS, max_new_tokens=6, guide=lm.name)
    assert [c.text for c in guided] == [c.text for c in lm.complete(PROMPTS, max_new_tokens=6)]
    other = models.load(str(make_model(tmp_path / "other")))
    other.model.config.vocab_size += 1
    with pytest.raises(ValueError, match="a guide needs the same vocabulary"):
        decode.complete(lm.model, lm.tokenizer, [[5]], max_new_tokens=1, guide=other.model)
