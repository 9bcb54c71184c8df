"""Intervals and tests against published or hand-computed values."""

import math

import pytest

from derta import stats


def test_wilson_interval():
    # Newcombe 1998 (Statistics in Medicine 17:857), Table I: 81 of 263 and 0 of 20.
    assert stats.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert stats.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert all(math.isnan(x) for x in stats.wilson(0, 0))


def test_mcnemar_is_the_exact_binomial_test_on_discordant_pairs():
    first = [True] * 8 + [False] * 2 + [True] * 5
    second = [False] * 8 + [True] * 2 + [True] * 5
    assert stats.mcnemar(first, second) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert stats.mcnemar([True, False], [True, False]) == 1.0


def test_bootstrap_is_seeded_and_covers_the_mean():
    values = [0, 1, 1, 0, 1, 1, 1, 0, 1, 1]
    low, high = stats.bootstrap(values, seed=1)
    assert (low, high) == stats.bootstrap(values, seed=1)
    assert low < 0.7 < high
    assert stats.bootstrap([1, 1, 1], seed=0) == (1.0, 1.0)
