"""Intervals and tests against published or hand-computed values, and their coverage by simulation."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from derta import stats


def test_wilson_interval():
    # Newcombe 1998 (Statistics in Medicine 17:857), Table I: 81 of 263 and 0 of 20.
    assert stats.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert stats.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert all(math.isnan(x) for x in stats.wilson(0, 0))


def test_the_difference_of_two_rates_has_newcombes_interval():
    found = stats.two_rates(48, 80, 56, 70)  # his Table II, example (a), method 10
    assert found[:3] == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert stats.two_rates(1, 4, 3, 4).p == pytest.approx(34 / 70)  # Fisher's lady tasting tea
    assert stats.two_rates(0, 20, 0, 20)[0] == 0
    low, high = stats.two_rates(0, 20, 0, 20)[1:3]
    assert low == pytest.approx(-high)
    assert high == pytest.approx(0.1611, abs=1e-4)


def test_mcnemar_is_the_exact_binomial_test_on_discordant_pairs():
    first = [True] * 8 + [False] * 2 + [True] * 5
    second = [False] * 8 + [True] * 2 + [True] * 5
    assert stats.mcnemar(first, second) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert stats.mcnemar([True, False], [True, False]) == 1.0


def test_one_seed_gives_the_t_interval_of_the_mean():
    # Student's t for 1 … 5: 3 ± 2.776 · √(2.5 / 5).
    found = stats.crossed([1, 2, 3, 4, 5])
    assert found[:3] == pytest.approx((3, 3 - 2.7764 * math.sqrt(0.5), 3 + 2.7764 * math.sqrt(0.5)), abs=1e-3)
    assert found.p == pytest.approx(0.0132, abs=1e-4)
    assert all(math.isnan(x) for x in stats.crossed([]))


def test_seeds_widen_the_interval_only_as_far_as_they_differ():
    rng = np.random.default_rng(0)
    same = np.repeat(0.1 * rng.random((1, 100)), 3, axis=0)
    apart = same + np.array([[-0.2], [0.0], [0.2]])
    assert stats.crossed(same)[:3] == pytest.approx(stats.crossed(same[0])[:3])
    wide = stats.crossed(apart)
    assert wide.mean == pytest.approx(stats.crossed(same).mean)
    # The three means alone: ± 4.303 · 0.2 / √3.
    assert wide.high - wide.mean == pytest.approx(0.497, abs=0.01)


def test_where_nothing_varies_the_interval_has_a_width():
    mean, low, high, p = stats.crossed(np.zeros((3, 126)), (-1, 1))
    assert (mean, p) == (0, 1)
    assert -0.05 < low < 0 < high < 0.05
    assert stats.crossed(np.ones((1, 126)), (0, 1))[:3] == pytest.approx((1, 0.977, 1), abs=0.001)


@pytest.mark.parametrize("bounds", [(0, 1), (-1, 1)], ids=["rate", "difference"])
@pytest.mark.parametrize(
    ("seeds", "behaviours", "logit", "of_seeds"),
    [(3, 200, 0.0, 0.3), (3, 126, -4.0, 0.3), (1, 126, -4.0, 0.0), (3, 60, 2.0, 0.7)],
)
def test_intervals_cover_the_truth(bounds, seeds, behaviours, logit, of_seeds):
    """Outcomes of a logistic model with random behaviours and seeds; a bootstrap over both covers 86 to 99 % here."""
    rng = np.random.default_rng(5)

    def drawn(seeds: int, behaviours: int) -> np.ndarray:
        def side() -> np.ndarray:
            chance = 1 / (1 + np.exp(-(logit + hard + rng.normal(0, of_seeds, (seeds, 1)))))
            return (rng.random((seeds, behaviours)) < chance).astype(float)

        hard = rng.normal(0, 1, behaviours)
        return side() if bounds == (0, 1) else side() - side()

    truth = drawn(2000, 4000).mean() if bounds == (0, 1) else 0
    found = [stats.crossed(drawn(seeds, behaviours), bounds) for _ in range(300)]
    covered = np.mean([low <= truth <= high for _, low, high, _ in found])
    assert covered >= 0.9


def test_auroc_is_that_of_scikit_learn_and_covers_its_truth():
    rng = np.random.default_rng(0)
    harmful, benign = rng.normal(0.5, 1, (3, 80)), rng.normal(0, 1, (3, 80))
    benign[0, :5] = harmful[0, :5]  # ties
    for mean, h, b in zip(stats.auroc(harmful, benign).mean(-1), harmful, benign, strict=True):
        assert mean == pytest.approx(roc_auc_score([1] * 80 + [0] * 80, [*h, *b]))
    truth, covered = 0.5 * (1 + math.erf(0.5 / 2)), 0  # P(N(0.5, 1) > N(0, 1))
    for _ in range(300):
        shared = rng.normal(0, 1, 100)
        sides = [(shared + rng.normal(0, 1, 100)) / 2**0.5 + shift for shift in (0.5, 0)]
        covered += stats.crossed(stats.auroc(*sides), (0, 1)).low <= truth <= stats.crossed(stats.auroc(*sides)).high
    assert covered >= 0.9 * 300


def test_the_share_of_ordered_pairs_counts_ties_half():
    assert stats.ordered(np.array([0.9, 0.2, 0.5]), np.array([0.1, 0.3, 0.5])).tolist() == [1, 0, 0.5]


def test_d_prime_is_finite_at_the_ends_and_right_between():
    some = np.array([True] * 69 + [False] * 31)
    other = np.array([True] * 31 + [False] * 69)
    assert stats.d_prime(some, other).mean() == pytest.approx(2 * 0.4853, abs=0.001)  # z(70 / 102)
    every = np.ones(100, dtype=bool)
    assert stats.d_prime(every, ~every).mean() == pytest.approx(2 * 2.334, abs=0.001)  # z(101 / 102)
    nothing = stats.crossed(stats.d_prime(every, every))
    assert nothing.mean == pytest.approx(0)
    assert nothing.low < -0.3 < 0.3 < nothing.high


def test_holm_is_that_of_his_example():
    # By hand: 4 · 0.005, 3 · 0.011, then no smaller than the one before.
    assert stats.holm([0.011, 0.02, 0.005, 0.13]) == pytest.approx([0.033, 0.04, 0.02, 0.13])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
