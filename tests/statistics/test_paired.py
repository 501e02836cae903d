"""The paired mean against scipy, McNemar's closed form, and its promise of 95% coverage."""

import numpy as np
import pytest
from scipy import stats

from dlrm_adahessian.statistics.paired import paired_mean_difference
from tests.statistics.models import covered


@pytest.mark.oracle
def test_paired_interval_covers_the_true_mean_95_times_in_100() -> None:
    def draw(rng):
        shared = rng.exponential(size=500)
        return paired_mean_difference(shared + 0.1 * rng.exponential(size=500), shared).ci95

    assert covered(400, draw, 0.1)


@pytest.mark.oracle
def test_paired_mean_difference_is_the_paired_test_of_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.exponential(size=300), rng.exponential(size=300)
    found = paired_mean_difference(a, b)
    assert found.estimate == pytest.approx(a.mean() - b.mean(), abs=1e-14)
    statistic = stats.ttest_rel(a, b).statistic
    assert found.estimate / found.standard_error == pytest.approx(statistic, rel=1e-12)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(statistic)), rel=1e-9)


@pytest.mark.oracle
def test_accuracy_error_is_that_of_discordant_pairs() -> None:
    # 30 rows only a gets right, 18 only b, the rest agree: the closed form of McNemar's setting.
    a = np.array([True] * 30 + [False] * 18 + [True] * 52)
    b = np.array([False] * 30 + [True] * 18 + [True] * 52)
    found = paired_mean_difference(a, b)
    assert found.estimate == pytest.approx((30 - 18) / 100, abs=1e-15)
    variance = (48 / 100 - (12 / 100) ** 2) * 100 / 99
    assert found.standard_error == pytest.approx((variance / 100) ** 0.5, rel=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0], [1.0], r"at least 2, got \(1,\)"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], r"got \(2,\) and \(3,\); pair the rows"),
        ([1.0, np.nan], [1.0, 2.0], "must be finite"),
        ([np.inf, 1.0], [np.inf, 2.0], "must be finite"),
    ],
)
def test_paired_mean_difference_refuses(a, b, message) -> None:
    with pytest.raises(ValueError, match=message):
        paired_mean_difference(np.array(a), np.array(b))
