"""Intervals and paired tests, all on fractions."""

from collections.abc import Sequence

import numpy as np
import scipy.stats


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a rate; (NaN, NaN) for n = 0."""
    if n == 0:
        return float("nan"), float("nan")
    interval = scipy.stats.binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap(values: Sequence[float], seed: int) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of `values`, one per behaviour; seeded."""
    sample = np.asarray(values, dtype=float)
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    result = scipy.stats.bootstrap((sample,), np.mean, n_resamples=2000, method="percentile", rng=seed)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Return the exact two-sided McNemar p-value for paired outcomes (McNemar 1947); 1.0 if no pair differs."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    if only_first + only_second == 0:
        return 1.0
    return float(scipy.stats.binomtest(only_first, only_first + only_second).pvalue)
