"""Measure how much one pass saves over many for the refusal-depth curve: ``python benchmarks/depth.py``.

P(refusal token | prompt, response_<t) at 60 positions of a few held-out responses is computed in two ways: by
`derta.depth.refusal_probabilities`, which reads all positions from one teacher-forced pass over the batch, and by a
separate forward pass for every position (over the prompt and the tokens before the position; logits of the last
position only). They take turns, round by round. Read the ratio of the medians, and the largest difference of a
probability, which is rounding at the precision named in the first line.
"""

import statistics
import time

import numpy as np
import torch
import yaml

from derta import corpus, depth, models
from derta.models import LM
from derta.runs import CHECKOUT

POSITIONS = 60
PAIRS = 4
ROUNDS = 3


def one_by_one(lm: LM, pairs: list[tuple[str, str]], positions: int) -> np.ndarray:
    """Compute the same probabilities, shape [pairs, positions], with one pass per position."""
    refusal, result = lm.refusal_id(), np.full((len(pairs), positions), np.nan, dtype=np.float32)
    for row, (prompt, response) in enumerate(pairs):
        before, answer = lm.ids(prompt), lm.ids(response)[:positions]
        for t in range(len(answer)):
            ids = torch.tensor([before + answer[:t]], device=lm.model.device)
            with torch.inference_mode():
                logits = lm.model(ids, use_cache=False, logits_to_keep=1).logits[0, -1].float()
            result[row, t] = logits.softmax(-1)[refusal].item()
    return result


def main(model: str, positions: int, number: int, rounds: int) -> None:
    """Print the seconds, their ratio and the largest difference."""
    lm = models.load(model)
    pairs = [(lm.chat(row.prompt), row.response) for row in corpus.responses("harmful-validation")[:number]]
    ways = {
        "one pass": lambda n: depth.refusal_probabilities(lm, pairs, positions=n, batch_size=16),
        "a pass per position": lambda n: one_by_one(lm, pairs, n),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    values = {}
    for probabilities in ways.values():
        probabilities(1)  # to warm up
    for _ in range(rounds):
        for way, probabilities in ways.items():
            start = time.perf_counter()
            values[way] = probabilities(positions)
            seconds[way].append(time.perf_counter() - start)
    once, often = values.values()
    print(f"{model}, {lm.model.dtype}: {number} responses, {positions} positions, {rounds} rounds")
    for way, took in seconds.items():
        print(f"{way}: median {statistics.median(took):.2f} s, best {min(took):.2f} s")
    middle, best = ([f(took) for took in seconds.values()] for f in (statistics.median, min))
    print(f"ratio: {middle[1] / middle[0]:.0f} by the medians, {best[1] / best[0]:.0f} by the best rounds")
    print(f"largest difference of a probability: {np.nanmax(np.abs(once - often)):.1e}")


if __name__ == "__main__":
    small = yaml.safe_load((CHECKOUT / "notebooks" / "params" / "small.yaml").read_text())
    main(small["model"], POSITIONS, PAIRS, ROUNDS)
