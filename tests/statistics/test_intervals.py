"""Compare the paired mean with SciPy, check its 95% coverage, and compare Holm's adjustment with closed testing."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dlrm_adahessian.statistics.intervals import holm
from tests.statistics.models import covered, paired_mean

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@pytest.mark.oracle
def test_paired_interval_covers_the_true_mean_95_times_in_100() -> None:
    def draw(rng):
        shared = rng.exponential(size=500)
        return paired_mean(shared + 0.1 * rng.exponential(size=500), shared).ci95

    assert covered(400, draw, 0.1)


@pytest.mark.oracle
def test_paired_mean_is_the_paired_test_of_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.exponential(size=300), rng.exponential(size=300)
    found = paired_mean(a, b)
    assert found.estimate == pytest.approx(a.mean() - b.mean(), abs=1e-14)
    statistic = stats.ttest_rel(a, b).statistic
    assert found.estimate / found.standard_error == pytest.approx(statistic, rel=1e-12)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(statistic)), rel=1e-9)


@pytest.mark.oracle
def test_accuracy_error_is_that_of_discordant_pairs() -> None:
    # Only a gets 30 rows right and only b 18; the others agree. Closed form of McNemar's setting.
    a = np.array([True] * 30 + [False] * 18 + [True] * 52)
    b = np.array([False] * 30 + [True] * 18 + [True] * 52)
    found = paired_mean(a, b)
    assert found.estimate == pytest.approx((30 - 18) / 100, abs=1e-15)
    variance = (48 / 100 - (12 / 100) ** 2) * 100 / 99
    assert found.standard_error == pytest.approx((variance / 100) ** 0.5, rel=1e-12)


def closed_testing(values):
    """Return the closure of Bonferroni's test: reject a hypothesis if every intersection with it is rejected."""
    family = range(len(values))
    subsets = [set(s) for size in range(1, len(values) + 1) for s in itertools.combinations(family, size)]
    return [
        max(min(1.0, len(s) * min(values[i] for i in s)) for s in subsets if hypothesis in s)
        for hypothesis in family
    ]


@pytest.mark.oracle
@given(p_values)
def test_holm_is_the_closure_of_bonferroni(values) -> None:
    assert holm(values) == pytest.approx(closed_testing(values), rel=1e-15, abs=0)


@pytest.mark.oracle
def test_holm_by_hand() -> None:
    # 0.01 x 4, 0.02 x 3, 0.03 x 2 (not raised: 0.06 twice), and 0.04 x 1, raised to 0.06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.5, 0.9]) == [1.0, 1.0]


@pytest.mark.oracle
def test_holm_keeps_the_chance_of_any_false_rejection() -> None:
    # Five true hypotheses with correlated statistics, and one false one.
    rng = np.random.default_rng(0)
    trials = 2_000
    shared, own = rng.normal(size=(trials, 1)), rng.normal(size=(trials, 6))
    statistics = 0.5**0.5 * (shared + own) + np.array([0, 0, 0, 0, 0, 3.0])
    table = 2 * stats.norm.sf(np.abs(statistics))
    false = sum(min(holm(row)[:5]) <= 0.05 for row in table)
    assert false <= stats.binom.ppf(1 - 1e-4, trials, 0.05)
    assert sum(min(row[:5]) <= 0.05 for row in table) > 0.1 * trials  # unadjusted, far more often


@given(p_values, st.integers())
def test_holm_is_monotone_and_knows_no_order(values, seed) -> None:
    adjusted = holm(values)
    assert all(p <= q <= 1 for p, q in zip(values, adjusted, strict=True))
    assert [q for _, q in sorted(zip(values, adjusted, strict=True))] == sorted(adjusted)
    order = random.Random(seed).sample(range(len(values)), len(values))
    assert holm([values[i] for i in order]) == [adjusted[i] for i in order]


@pytest.mark.parametrize("values", [[-0.1], [0.5, 1.5], [float("nan"), 0.1]])
def test_holm_refuses(values) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got .*Remove undefined values"):
        holm(values)
