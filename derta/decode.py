"""Token ids → completions: batched decoding with a model in process."""

from collections.abc import Sequence
from itertools import pairwise, takewhile

import torch
from torch.nn import functional
from transformers import (
    BatchEncoding,
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer

from derta import chat
from derta.generate import Completion

# A forward pass reads all weights, which costs about as much as this many further tokens in another pass.
WORTH_A_PASS = 64
# Increase it with any change after which the same prompt may get another completion.
VERSION = 1


class TopK(LogitsProcessor):
    """Draws each next token from the `k` likeliest and gives all others the score -inf, so that greedy decoding takes
    it.

    Scores have the shape [rows, vocabulary]. On a CPU, drawing from a vocabulary of 49,152 for 64 rows takes longer
    than the model's own step.
    """

    def __init__(self, k: int, temperature: float, seed: int, device: torch.device):
        self.k, self.temperature = k, temperature
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        top = scores.topk(self.k)
        # The Gumbel-max trick: the largest of logits plus Gumbel noise is a draw from their softmax.
        gumbel = -torch.empty_like(top.values).exponential_(generator=self.generator).log()
        drawn = top.indices.gather(1, (top.values / self.temperature + gumbel).argmax(-1, keepdim=True))
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


class Favourite(LogitsProcessor):
    """Takes, among the `k` likeliest next tokens, the one that another model, the guide, finds likeliest.

    The guide reads the same tokens; it has the same vocabulary. Scores have the shape [rows, vocabulary].
    """

    def __init__(self, guide: PreTrainedModel, k: int, mask: torch.Tensor):
        self.guide, self.k, self.mask = guide, k, mask
        self.cache = DynamicCache(config=guide.config)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        read = input_ids[:, self.cache.get_seq_length() :]
        self.mask = functional.pad(self.mask, (0, input_ids.shape[1] - self.mask.shape[1]), value=1)
        logits = self.guide(
            read,
            attention_mask=self.mask,
            position_ids=(self.mask.cumsum(1) - 1).clamp(min=0)[:, -read.shape[1] :],
            past_key_values=self.cache,
            logits_to_keep=1,
        ).logits[:, -1]
        # What was forbidden before has the score -inf, and no favourite can be among it.
        top = scores.topk(self.k)
        favourite = logits.float().gather(1, top.indices).masked_fill(top.values.isinf(), -torch.inf).argmax(-1)
        return torch.full_like(scores, -torch.inf).scatter(1, top.indices.gather(1, favourite[:, None]), 0.0)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows only."""
        self.mask = self.mask[rows]
        self.cache.batch_select_indices(rows)


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
    forbidden: Sequence[list[int]] = (),
    guide: PreTrainedModel | None = None,
    guide_rank: int = 20,
) -> list[Completion]:
    """Continue `prompts` (token ids) in one batch: greedily at temperature 0, otherwise sampled from the top 50.

    This is like transformers' `generate` on left-padded prompts, but computes less: beginnings that prompts share are
    read once, and rows that have ended leave the batch, while `generate` computes them until the last row ends. Of the
    model's generation configuration, only the tokens that end a sequence are used; what ends a turn of the chat format
    ends a row too.

    Args:
        prompts: one list of token ids per row.
        min_new_tokens: no row ends before this many tokens.
        forbidden: sequences of tokens that no row may produce.
        guide: a model of the same vocabulary that chooses among the `guide_rank` likeliest tokens, see `Favourite`.

    Raises:
        ValueError: the guide has another vocabulary; see also `check_room`.
    """
    check_room(model, tokenizer, prompts, max_new_tokens)
    if guide is not None and guide.config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"{guide.name_or_path}: {guide.config.vocab_size} tokens, but {model.name_or_path} has "
            f"{model.config.vocab_size}; a guide needs the same vocabulary"
        )
    ends, device = _ends(model, tokenizer), model.device
    padded = pad(tokenizer, prompts).to(device)
    context = padded.input_ids
    processors = LogitsProcessorList()
    if forbidden:
        processors.append(NoBadWordsLogitsProcessor([list(ids) for ids in forbidden], ends))
    if min_new_tokens:
        processors.append(MinNewTokensLengthLogitsProcessor(context.shape[1], min_new_tokens, ends, device))
    if temperature > 0:
        processors.append(TopK(50, temperature, seed, device))
    if guide is not None:
        processors.append(Favourite(guide, guide_rank, padded.attention_mask))
    new: list[list[int]] = [[] for _ in prompts]
    running = list(range(len(prompts)))  # the prompt of each row that is still in the batch
    with torch.inference_mode():
        cache = DynamicCache(config=model.config)
        # An attention window counts positions of the cache, and so would count the padding after a beginning too.
        cut = shared(prompts) if all(type(layer) is DynamicLayer for layer in cache.layers) else 0
        if cut:
            _read_once(model, [tuple(ids[:cut]) for ids in prompts], cache)
        rest = pad(tokenizer, [ids[cut:] for ids in prompts]).to(device)
        read, mask = rest.input_ids, functional.pad(rest.attention_mask, (cut, 0), value=1)
        for _ in range(max_new_tokens):
            output = model(
                read,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -read.shape[1] :],
                past_key_values=cache,
                logits_to_keep=1,
            )
            chosen = processors(context, output.logits[:, -1].float()).argmax(-1)
            for row, token in zip(running, chosen.tolist(), strict=True):
                new[row].append(token)
            stay = [i for i, row in enumerate(running) if new[row][-1] not in ends]
            if not stay:
                break
            if len(stay) < len(running):
                running = [running[i] for i in stay]
                rows = torch.tensor(stay)  # on the CPU, for a cache that is spread over several GPUs
                context, mask, chosen = context[rows], mask[rows], chosen[rows]
                cache.batch_select_indices(rows)
                if guide is not None:
                    processors[-1].keep(rows)
            read = chosen[:, None]
            context, mask = torch.cat([context, read], 1), functional.pad(mask, (0, 1), value=1)
    completions = []
    for prompt, ids in zip(prompts, new, strict=True):
        stop = ids[-1] in ends
        text = tokenizer.decode(ids[:-1] if stop else ids, skip_special_tokens=True)
        completions.append(Completion(text, "stop" if stop else "length", len(ids), len(prompt)))
    return completions


def check_room(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]], new: int = 0
) -> None:
    """Check that rows of token ids, each with up to `new` further ones, fit the positions of the model.

    Beyond its positions a model fails (OPT, GPT-2) or, with rotary embeddings, writes garbage without a word.

    Raises:
        ValueError: a row is empty or too long.
    """
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    for number, ids in enumerate(rows, start=1):
        which = f"{model.name_or_path}: prompt {number} of {len(rows)}"
        if not ids:
            raise ValueError(f"{which} is empty; give it a text")
        if limit and len(ids) + new > limit:
            raise ValueError(
                f"{which}, {tokenizer.decode(ids[:16])!r} …, has {len(ids)} tokens and may get {new} more, but the "
                f"model has only {limit} positions; shorten it"
            )


def shared(prompts: Sequence[list[int]]) -> int:
    """Return how many tokens to cut off every prompt so that reading each different beginning once saves the most
    tokens.

    The last token always stays, because the first new one is predicted from it. The result is 0 if the saving is not
    worth a further pass.
    """
    room = min(map(len, prompts)) - 1
    ordered = sorted(ids[:room] for ids in prompts)
    common = [len(list(takewhile(lambda ab: ab[0] == ab[1], zip(*pair, strict=True)))) for pair in pairwise(ordered)]
    # A cut of n tokens saves n for every row that shares them with the row before it in sorted order.
    saved, cut = max(((n * rows, n) for rows, n in enumerate(sorted(common, reverse=True), start=1)), default=(0, 0))
    return cut if saved >= WORTH_A_PASS else 0


def _read_once(model: PreTrainedModel, beginnings: Sequence[tuple[int, ...]], cache: DynamicCache) -> None:
    """Read the beginning of each row into the cache, computing equal beginnings once."""
    place = {beginning: i for i, beginning in enumerate(dict.fromkeys(beginnings))}
    model(torch.tensor(list(place), device=model.device), past_key_values=cache, logits_to_keep=1)
    cache.batch_select_indices(torch.tensor([place[beginning] for beginning in beginnings]))


def pad(tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]]) -> BatchEncoding:
    """Pad rows on the left; ids and mask have the shape [rows, positions]."""
    return tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end a sequence; some models have several."""
    configured = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, chat.turn_end(tokenizer), *several} - {None})
