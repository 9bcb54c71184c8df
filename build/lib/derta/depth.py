"""Refusal depth: P(refusal token | q, r̂_<t) for every position t of a response.

Depth as an axis of the evaluation follows *Safety Alignment Should Be Made More Than Just a Few Tokens Deep*
(arXiv 2406.05946). This is a teacher-forced probability, neither a refusal that was generated nor a harm judged.
"""

from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from derta import stats
from derta.generate import batches
from derta.models import LM


def refusal_probabilities(lm: LM, pairs: Sequence[tuple[str, str]], *, positions: int, batch_size: int) -> np.ndarray:
    """P(refusal token | prompt, response_<t) in one teacher-forced pass per batch.

    Args:
        pairs: (rendered prompt, response) of the model's own chat format.
        positions: how many positions t = 1 … `positions` to look at.

    Returns:
        Probabilities of shape (pairs, positions); NaN behind the end of a shorter response. Column 0 is t = 1, where
        the model has seen nothing of the response.
    """
    refusal = lm.refusal_id()
    prompts = [lm.ids(prompt) for prompt, _ in pairs]
    responses = [lm.ids(response)[:positions] for _, response in pairs]
    result = np.full((len(pairs), positions), np.nan, dtype=np.float32)
    for batch in tqdm(
        list(batches([p + r for p, r in zip(prompts, responses, strict=True)], batch_size)), desc="depth", mininterval=5
    ):
        # The last response token is an answer, never a context.
        texts = [prompts[i] + responses[i][:-1] for i in batch]
        ids = torch.full((len(batch), max(map(len, texts))), lm.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        with torch.inference_mode():
            hidden = lm.model.base_model(
                ids.to(lm.model.device), attention_mask=mask.to(lm.model.device)
            ).last_hidden_state
            for row, i in enumerate(batch):
                start, n = len(prompts[i]) - 1, len(responses[i])
                logits = lm.model.get_output_embeddings()(hidden[row, start : start + n]).float()
                result[i, :n] = (logits[:, refusal] - logits.logsumexp(-1)).exp().cpu().numpy()
    return result


def curve(probabilities: np.ndarray, seed: int) -> list[dict]:
    """Mean probability by position with a 95 % bootstrap interval over the rows (behaviours).

    Args:
        probabilities: shape (rows, positions), NaN where a row has no such position.

    Returns:
        One dict per position with `position` (1-based), `n`, `mean`, `low`, `high`; fractions.
    """
    points = []
    for t in range(probabilities.shape[1]):
        values = probabilities[:, t][~np.isnan(probabilities[:, t])]
        if len(values):
            low, high = stats.bootstrap(values, seed)
            points.append({"position": t + 1, "n": len(values), "mean": float(values.mean()), "low": low, "high": high})
    return points
