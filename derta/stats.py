"""Estimates with intervals, and tests. Rates are fractions; an array of values has the shape [seeds, behaviours]."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats


class Estimate(NamedTuple):
    """A mean with its 95 % interval, and the two-sided p-value against a mean of 0."""

    mean: float
    low: float
    high: float
    p: float


def crossed(values: np.ndarray | Sequence, bounds: tuple[float, ...] = ()) -> Estimate:
    """Estimate the mean over seeds and behaviours, both taken as draws from many.

    This is the two-way random-effects model without replication: the variance of the mean is (MS_seeds + MS_behaviours
    − MS_residual) / (S · B), its degrees of freedom are Satterthwaite's (1946), and seeds are left out where they vary
    less than the residual. With three seeds, a bootstrap over seeds and behaviours covers less (`tests/test_stats.py`).

    Args:
        values: shape [seeds, behaviours], or [behaviours].
        bounds: the smallest and the largest possible value. One pseudo-behaviour of each is added for the interval
            (after Agresti and Min 2005), so that it has a width where nothing varies; it ends at the bounds.

    Returns:
        The mean of `values`; NaN if there are none.
    """
    given = np.atleast_2d(np.asarray(values, dtype=float))
    if given.size == 0:
        return Estimate(*[float("nan")] * 4)
    x = np.hstack([given, *(np.full((len(given), 1), bound) for bound in bounds)])
    (seeds, behaviours), middle = x.shape, x.mean()
    if behaviours < 2:
        return Estimate(float(middle), *[float("nan")] * 3)
    of_behaviours = seeds * x.mean(0).var(ddof=1)
    square, freedom = of_behaviours, behaviours - 1.0
    if seeds > 1:
        of_seeds = behaviours * x.mean(1).var(ddof=1)
        residual = ((x - x.mean(0) - x.mean(1, keepdims=True) + middle) ** 2).sum() / ((seeds - 1) * (behaviours - 1))
        if of_seeds > residual:
            square = of_seeds + of_behaviours - residual
            parts = (of_seeds, seeds - 1), (of_behaviours, behaviours - 1), (residual, (seeds - 1) * (behaviours - 1))
            freedom = square**2 / sum(part**2 / n for part, n in parts)
    error = np.sqrt(square / (seeds * behaviours))
    half = scipy.stats.t.ppf(0.975, freedom) * error
    p = 2 * scipy.stats.t.sf(abs(middle) / error, freedom) if error else float(middle == 0)
    mean, lowest, highest = given.mean(), *(bounds or (-np.inf, np.inf))
    low, high = max(lowest, min(mean, middle - half)), min(highest, max(mean, middle + half))
    return Estimate(float(mean), float(low), float(high), float(p))


def auroc(harmful: np.ndarray, benign: np.ndarray) -> np.ndarray:
    """Compute the area under the ROC curve of harmful against benign scores, as a mean over behaviours.

    Args:
        harmful, benign: shape [..., behaviours], a behaviour and its twin in the same place.

    Returns:
        Shape [..., behaviours], with the AUROC as the mean over the last axis: the placements of a behaviour and of its
        twin (DeLong et al. 1988), less their mean. Its variance over behaviours is that of the AUROC of paired scores.
    """
    above = (np.sign(harmful[..., :, None] - benign[..., None, :]) + 1) / 2
    return above.mean(-1) + above.mean(-2) - above.mean((-1, -2))[..., None]


def ordered(harmful: np.ndarray, benign: np.ndarray) -> np.ndarray:
    """Return 1 for each pair whose harmful side has the higher score, 0 for the other order and ½ for a tie."""
    return (np.sign(harmful - benign) + 1) / 2


def d_prime(harmful: np.ndarray, benign: np.ndarray) -> np.ndarray:
    """Compute d′ = z(refused harmful) − z(refused twins), as a mean over behaviours.

    Rates of 0 and 1 have no z, and no variance: two pseudo-behaviours are added, one of which only the harmful side is
    refused, and one of which only the twin is (after Agresti and Caffo 2000).

    Args:
        harmful, benign: shape [..., behaviours], whether each was refused.

    Returns:
        Shape [..., behaviours + 2], with d′ as the mean over the last axis; its variance is that of d′ by the delta
        method.
    """

    def z(refused: np.ndarray, pseudo: tuple[float, float]) -> np.ndarray:
        added = np.broadcast_to(pseudo, (*refused.shape[:-1], 2))
        refused = np.concatenate([refused.astype(float), added], axis=-1)
        rate = refused.mean(-1, keepdims=True)
        score = scipy.stats.norm.ppf(rate)
        return score + (refused - rate) / scipy.stats.norm.pdf(score)

    return z(harmful, (1, 0)) - z(benign, (0, 1))


def holm(p: Sequence[float]) -> list[float]:
    """Adjust a family of p-values after Holm (1979)."""
    order, adjusted, largest = np.argsort(p), [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a rate; (NaN, NaN) for n = 0."""
    if n == 0:
        return float("nan"), float("nan")
    interval = scipy.stats.binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def two_rates(first: int, n_first: int, second: int, n_second: int) -> Estimate:
    """Compare the rates of two independent samples.

    Returns:
        The second rate less the first as a fraction, with Newcombe's (1998) interval out of two Wilson intervals, and
        the p-value of Fisher's exact test.
    """
    a, b = first / n_first, second / n_second
    (low_a, high_a), (low_b, high_b) = wilson(first, n_first), wilson(second, n_second)
    low = b - a - np.hypot(b - low_b, high_a - a)
    high = b - a + np.hypot(high_b - b, a - low_a)
    p = scipy.stats.fisher_exact([[first, n_first - first], [second, n_second - second]]).pvalue
    return Estimate(b - a, float(low), float(high), float(p))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Return the exact two-sided McNemar p-value for paired outcomes (McNemar 1947); 1.0 if no pair differs."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    if only_first + only_second == 0:
        return 1.0
    return float(scipy.stats.binomtest(only_first, only_first + only_second).pvalue)
