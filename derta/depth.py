"""Refusal depth: P(refusal token | q, r̂_<t) for every position t of a response.

Depth as an axis of the evaluation follows *Safety Alignment Should Be Made More Than Just a Few Tokens Deep* (arXiv
2406.05946). This is a teacher-forced probability, neither a generated refusal nor judged harm.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from derta import decode, stats
from derta.files import read_jsonl, to_jsonl, write_atomically
from derta.generate import Prompt, batches
from derta.models import LM
from derta.runs import digest

# Raised if the same texts may get other probabilities.
VERSION = 1


def forced(
    lm: LM, prompts: Sequence[list[int]], responses: Sequence[list[int]], batch_size: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Read each response after its prompt in one teacher-forced pass per batch of similar length.

    Raises:
        ValueError: a prompt is empty, or a text is longer than the model's positions.

    Yields:
        The index of a pair of token ids, and log-probabilities of shape [tokens of its response, vocabulary]; row t is
        for token t of the response, given the prompt and the tokens before it.
    """
    texts = [p + r[:-1] for p, r in zip(prompts, responses, strict=True)]  # the last token is only predicted
    for rows in (prompts, texts):
        decode.check_room(lm.model, lm.tokenizer, rows)
    head, device = lm.model.get_output_embeddings(), lm.model.device
    for batch in batches(texts, batch_size):
        ids = torch.full((len(batch), len(texts[batch[0]])), lm.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(batch):
            ids[row, : len(texts[i])] = torch.tensor(texts[i])
            mask[row, : len(texts[i])] = 1
        spans = [(row, slice(len(prompts[i]) - 1, len(texts[i]))) for row, i in enumerate(batch)]
        # The output layer gets only the states that are asked for; what some models do to its output, they still do.
        hook = head.register_forward_pre_hook(lambda _, hidden, at=spans: torch.cat([hidden[0][span] for span in at]))
        with torch.inference_mode(), hook:
            logits = lm.model(ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        for i, rows in zip(batch, logits.split([at.stop - at.start for _, at in spans]), strict=True):
            yield i, rows.float().log_softmax(-1)


def refusal_probabilities(
    lm: LM, pairs: Sequence[tuple[str, str]], *, positions: int, batch_size: int, path: Path | None = None
) -> np.ndarray:
    """Compute P(refusal token | prompt, response_<t) at every position t.

    Args:
        pairs: (prompt rendered in the model's own chat format, response).
        positions: number of positions, t = 1 … `positions`.
        path: a JSON Lines file that keeps them; if it is of the same model and arguments, it is read instead.

    Returns:
        Probabilities of shape [pairs, positions]; NaN after the end of a shorter response. Column 0 is t = 1, before
        any token of the response.
    """
    refusal = lm.refusal_id()
    prompts = [lm.ids(prompt) for prompt, _ in pairs]
    responses = [lm.ids(response)[:positions] for _, response in pairs]
    result = np.full((len(pairs), positions), np.nan, dtype=np.float32)
    made = digest(VERSION, lm.fingerprint(), prompts, responses, batch_size)
    if path and path.exists():
        rows = list(read_jsonl(path, ("probabilities", "parameters")))
        if [row["parameters"] for row in rows] == [made] * len(pairs):
            for i, row in enumerate(rows):
                result[i, : len(responses[i])] = row["probabilities"]
            return result
    if lm.engine:
        places = [(i, t) for i, response in enumerate(responses) for t in range(len(response))]
        chances = lm.engine.chances([prompts[i] + responses[i][:t] for i, t in places], [refusal])
        for place, chance in zip(places, chances[:, 0], strict=True):
            result[place] = chance
    else:
        for i, log_probs in tqdm(forced(lm, prompts, responses, batch_size), "depth", len(pairs), mininterval=5):
            result[i, : len(responses[i])] = log_probs[:, refusal].exp().cpu().numpy()
    if path:
        found = [row[: len(ids)].tolist() for row, ids in zip(result, responses, strict=True)]
        write_atomically(path, to_jsonl({"probabilities": row, "parameters": made} for row in found))
    return result


def next_refusals(lm: LM, prompts: Sequence[Prompt], *, batch_size: int) -> np.ndarray:
    """Compute the probability that the next token after each prompt, and the start of its reply, begins a refusal.

    Returns:
        Shape [prompts]: the probabilities of the tokens of `derta.models.LM.refusal_ids`, summed.
    """
    words, ids = lm.refusal_ids(), [lm.encode(prompt) for prompt in prompts]
    if lm.engine:
        return lm.engine.chances(ids, words).sum(1)
    result = np.empty(len(ids))
    for i, log_probs in forced(lm, ids, [words[:1]] * len(ids), batch_size):
        result[i] = log_probs[0, words].double().exp().sum().item()
    return result


def curve(probabilities: np.ndarray) -> list[dict]:
    """Average the probabilities by position, with a 95 % interval over seeds and rows (behaviours).

    Args:
        probabilities: shape [seeds, rows, positions] or [rows, positions], NaN where a row has no such position.

    Returns:
        One dict per position with `position` (from 1), `n`, `mean`, `low` and `high`; the last three are fractions.
    """
    points = []
    for t in range(probabilities.shape[-1]):
        values = np.atleast_2d(probabilities[..., t])
        values = values[:, ~np.isnan(values).any(0)]
        if values.size:
            mean, low, high, _ = stats.crossed(values, (0, 1))
            points.append({"position": t + 1, "n": values.shape[1], "mean": mean, "low": low, "high": high})
    return points
