"""Token ids → completions: batched decoding with a model in process."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from derta.generate import Completion


class TopK(LogitsProcessor):
    """Draws each next token from the `k` likeliest, and leaves greedy decoding no other.

    On a CPU, drawing from a vocabulary of 49,152 for 64 rows takes longer than the model's own step.
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
) -> list[Completion]:
    """Continue `prompts` (token ids) in one left-padded batch: greedily at temperature 0, else from the top 50.

    Args:
        min_new_tokens: no row ends by itself before.
        forbidden: sequences of tokens that no row produces.
    """
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(model.device)
    sampler = LogitsProcessorList([TopK(50, temperature, seed, model.device)] if temperature > 0 else [])
    with torch.inference_mode():
        output = model.generate(
            **batch,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens or None,
            bad_words_ids=[list(ids) for ids in forbidden] or None,
            pad_token_id=tokenizer.pad_token_id,
            do_sample=False,
            logits_processor=sampler,
        )
    completions = []
    for prompt, ids in zip(prompts, output[:, batch.input_ids.shape[1] :].tolist(), strict=True):
        stop = tokenizer.eos_token_id in ids
        ids = ids[: ids.index(tokenizer.eos_token_id)] if stop else ids
        text = tokenizer.decode(ids, skip_special_tokens=True)
        completions.append(Completion(text, "stop" if stop else "length", len(ids) + stop, len(prompt)))
    return completions
