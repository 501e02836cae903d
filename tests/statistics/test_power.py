"""The smallest detectable difference against simulated tests and the normal closed form."""

import math

import numpy as np
import pytest
from scipy import stats

from dlrm_adahessian.statistics.components import Estimate, combine
from dlrm_adahessian.statistics.crossed import crossed_mean
from dlrm_adahessian.statistics.paired import PairedDifference
from dlrm_adahessian.statistics.power import minimum_detectable


def with_error(standard_error, freedom):
    return Estimate(
        estimate=0.3,
        standard_error=standard_error,
        ci95=(0.0, 0.0),
        p_value=1.0,
        degrees_of_freedom=freedom,
    )


@pytest.mark.oracle
def test_normal_case_is_the_textbook_factor() -> None:
    paired = PairedDifference.normal(0.3, 0.01)
    expected = 0.01 * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8))
    assert minimum_detectable(paired) == pytest.approx(expected, rel=1e-9)
    assert minimum_detectable(with_error(0.01, math.inf)) == pytest.approx(0.0280159, rel=1e-5)
    assert minimum_detectable(with_error(0.01, 1e7)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("freedom", [1, 2, 4, 9.3, 60])
@pytest.mark.parametrize(("power", "level"), [(0.8, 0.05), (0.5, 0.01)])
def test_t_tests_at_the_detectable_difference_have_the_power(freedom, power, level) -> None:
    rng = np.random.default_rng(0)
    draws = 200_000
    difference = minimum_detectable(with_error(2.0, freedom), power=power, level=level) / 2.0
    spread = np.sqrt(rng.chisquare(freedom, draws) / freedom)
    found = np.mean((rng.normal(difference, 1, draws) / spread) > stats.t.ppf(1 - level / 2, freedom))
    assert found == pytest.approx(power, abs=5 * math.sqrt(power * (1 - power) / draws))


@pytest.mark.oracle
def test_crossed_comparisons_at_the_detectable_difference_find_it_4_times_in_5() -> None:
    # Variances of the mean: 1/100 of rows, 1/100 of 5 seeds. Satterthwaite's freedom of the truth: 4 x 2**2.
    seeds, rows, draws = 5, 100, 1_000
    figures = stats.zscore(np.arange(seeds), ddof=1) * math.sqrt(seeds / 100)
    truth = minimum_detectable(combine(list(figures), 0.01, [0.01] * seeds))
    assert truth == pytest.approx(minimum_detectable(with_error(math.sqrt(0.02), 16)), rel=1e-9)
    significant = 0
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        data = rng.normal(truth, 1, rows) + rng.normal(0, math.sqrt(seeds / 100), (seeds, 1))
        significant += crossed_mean(data).p_value < 0.05
    # Freedom is estimated in each draw: Satterthwaite's approximation moves the power by a few points.
    assert significant / draws == pytest.approx(0.8, abs=0.03 + 4 * math.sqrt(0.8 * 0.2 / draws))


def test_no_error_detects_any_difference() -> None:
    assert minimum_detectable(with_error(0.0, math.inf)) == 0.0


@pytest.mark.parametrize(("power", "level"), [(0.04, 0.05), (1.0, 0.05), (0.8, 0.0), (math.nan, 0.05)])
def test_impossible_tests_are_refused(power, level) -> None:
    with pytest.raises(ValueError, match=r"level must lie in .* got .*0\.05 and 0\.8 are usual"):
        minimum_detectable(with_error(1.0, 4), power=power, level=level)
