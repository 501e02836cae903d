"""The interval over seeds against scipy and its promise of 95% coverage."""

import numpy as np
import pytest
from scipy import stats

from dlrm_adahessian.statistics.seeds import seed_interval
from tests.statistics.models import covered


@pytest.mark.oracle
def test_seed_interval_covers_the_true_mean_95_times_in_100() -> None:
    # Three seeds: a normal interval instead of Student's would cover only 81%.
    assert covered(400, lambda rng: seed_interval(rng.normal(2.0, 1.0, 3))[1:], 2.0)


@pytest.mark.oracle
def test_seed_interval_is_that_of_student() -> None:
    values = [0.0012, 0.0031, -0.0004, 0.0018, 0.0026]
    mean, low, high = seed_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean == pytest.approx(np.mean(values), rel=1e-12)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert seed_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("values", [[], [0.1], [0.1, float("nan")]])
def test_seed_interval_refuses_what_has_no_spread(values) -> None:
    with pytest.raises(ValueError, match=r"at least 2 finite differences, got .*run more seeds"):
        seed_interval(values)
