"""Compare variance components with analysis of variance, coverage by quadrature, and the minimum detectable difference."""

import math

import numpy as np
import pytest
from scipy import stats

from dlrm_adahessian.statistics.components import Estimate, combine, minimum_detectable
from dlrm_adahessian.statistics.crossed import crossed_mean
from dlrm_adahessian.statistics.intervals import PairedDifference


def two_way_mean_squares(differences):
    """Return the mean squares of seeds, rows, and residual of an (S, N) array, by textbook formulas."""
    seeds, rows = differences.shape
    grand = differences.mean()
    of_seeds, of_rows = differences.mean(axis=1, keepdims=True), differences.mean(axis=0, keepdims=True)
    residual = differences - of_seeds - of_rows + grand
    return (
        rows * ((of_seeds - grand) ** 2).sum() / (seeds - 1),
        seeds * ((of_rows - grand) ** 2).sum() / (rows - 1),
        (residual**2).sum() / (seeds - 1) / (rows - 1),
    )


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(8))
def test_a_mean_equals_the_two_way_analysis_of_variance(seed) -> None:
    rng = np.random.default_rng(seed)
    seeds, rows = 4, 30
    differences = rng.normal(0.3, 1, (seeds, 1)) + rng.normal(0, 3, rows) + rng.normal(0, 1, (seeds, rows))
    of_seeds, of_rows, residual = two_way_mean_squares(differences)
    assert of_rows > residual
    variance = (of_seeds + of_rows - residual) / (seeds * rows)
    freedom = (seeds - 1) * (variance * seeds * rows / of_seeds) ** 2

    found = crossed_mean(differences)

    assert found.estimate == pytest.approx(differences.mean(), abs=1e-12)
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-10)
    assert found.degrees_of_freedom == pytest.approx(freedom, rel=1e-9)
    student = stats.t(freedom, differences.mean(), math.sqrt(variance))
    assert found.ci95 == pytest.approx(student.interval(0.95), rel=1e-9)
    statistic = abs(differences.mean()) / math.sqrt(variance)
    assert found.p_value == pytest.approx(2 * stats.t.sf(statistic, freedom), rel=1e-9)


def test_a_hand_computed_example() -> None:
    # Rows differ by 0, 6; seeds by 0, 2; no interaction: var(row) = 18, var(seed) = 2.
    found = crossed_mean(np.array([[0, 6], [2, 8]]))
    assert found.estimate == 4
    assert found.standard_error == pytest.approx(math.sqrt(18 / 2 + 2 / 2))
    assert found.degrees_of_freedom == pytest.approx((2 - 1) * (10 / 1) ** 2)
    assert found.rows_share == pytest.approx(0.9)
    assert found.seeds_share == pytest.approx(0.1)


def test_chance_of_seeds_alone_is_the_t_test_over_seeds() -> None:
    # Figures without sampling error: one-sample t test of the figures.
    figures = [0.3, 0.1, 0.4, 0.15]
    found = combine(figures, row_variance=0.0, within=[0.0] * 4)
    expected = stats.ttest_1samp(figures, 0)
    assert found.degrees_of_freedom == 3
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    assert found.ci95 == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert (found.rows_share, found.seeds_share) == (0.0, 1.0)


def test_chance_of_rows_alone_is_normal() -> None:
    found = combine([0.25, 0.25, 0.25], row_variance=0.01, within=[0.01] * 3)
    assert found.ci95 == pytest.approx(stats.norm(0.25, 0.1).interval(0.95), rel=1e-9)
    assert found.degrees_of_freedom == math.inf
    assert (found.rows_share, found.seeds_share) == (1.0, 0.0)


def test_seeds_that_agree_by_luck_leave_the_interval_over_rows() -> None:
    # All variance is interaction (errors of seeds are uncorrelated), but the two figures coincide.
    found = combine([0.2, 0.2], row_variance=0.005, within=[0.01, 0.01])
    assert found.standard_error == pytest.approx(math.sqrt(0.005))
    assert found.degrees_of_freedom == math.inf
    assert (found.rows_share, found.seeds_share) == (0.0, 0.0)


def test_negative_covariance_between_seeds_counts_as_none() -> None:
    # Errors of seeds have opposite signs, so their mean has no sampling error.
    found = combine([-0.1, 0.3], row_variance=0.0, within=[0.02, 0.02])
    assert found.standard_error == pytest.approx(
        0.2
    )  # standard error of two figures, without a sampling term
    assert found.degrees_of_freedom == 1


def test_one_seed_covers_the_rows_alone() -> None:
    found = combine([0.2], row_variance=0.01, within=[0.01])
    assert found.ci95 == pytest.approx(stats.norm(0.2, 0.1).interval(0.95), rel=1e-9)
    assert found.rows_share is None
    assert found.seeds_share is None


@pytest.mark.parametrize(("value", "p_value"), [(0.0, 1.0), (0.5, 0.0)])
def test_no_variance_leaves_no_doubt(value, p_value) -> None:
    nothing = Estimate(estimate=value, standard_error=0.0, ci95=(value, value), p_value=p_value)
    assert combine([value], 0.0, [0.0]) == nothing
    assert combine([value] * 3, 0.0, [0.0] * 3) == nothing


def exact_coverage(seeds, ratio, points=400):
    """Return P(interval covers) for normal figures, known row variance, and var(seed) / S = `ratio` x var(row) / N."""
    pattern = stats.zscore(np.arange(seeds), ddof=1) * math.sqrt(seeds)  # makes V_seeds 1
    quantiles = (np.arange(points) + 0.5) / points
    covered = []
    for scale in stats.chi2.ppf(quantiles, seeds - 1) / (seeds - 1):
        found = combine(pattern * math.sqrt(ratio * scale), 1.0, [1.0] * seeds)
        half = (found.ci95[1] - found.ci95[0]) / 2
        covered.append(2 * stats.norm.cdf(half / math.sqrt(1 + ratio)) - 1)
    return np.mean(covered)


@pytest.mark.oracle
@pytest.mark.parametrize(("seeds", "worst"), [(2, 0.872), (3, 0.922), (5, 0.941), (10, 0.948)])
def test_the_documented_coverage_is_the_worst_over_all_ratios_of_the_variances(seeds, worst) -> None:
    ratios = (0.05, 0.25, 0.5, 1, 2, 4, 7, 10, 15, 25, 60)
    coverage = [exact_coverage(seeds, ratio) for ratio in ratios]
    assert min(coverage) == pytest.approx(worst, abs=1.5e-3)  # 400 points resolve 1e-3
    assert max(coverage) <= 0.953


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
    # Variances of the mean: 1/100 from rows, 1/100 from 5 seeds. True Satterthwaite degrees of freedom: 4 x 2**2.
    seeds, rows, draws = 5, 100, 1_000
    figures = stats.zscore(np.arange(seeds), ddof=1) * math.sqrt(seeds / 100)
    truth = minimum_detectable(combine(list(figures), 0.01, [0.01] * seeds))
    assert truth == pytest.approx(minimum_detectable(with_error(math.sqrt(0.02), 16)), rel=1e-9)
    significant = 0
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        data = rng.normal(truth, 1, rows) + rng.normal(0, math.sqrt(seeds / 100), (seeds, 1))
        significant += crossed_mean(data).p_value < 0.05
    # Each simulation estimates the degrees of freedom, so the approximation changes the power by a few points.
    assert significant / draws == pytest.approx(0.8, abs=0.03 + 4 * math.sqrt(0.8 * 0.2 / draws))


def test_no_error_detects_any_difference() -> None:
    assert minimum_detectable(with_error(0.0, math.inf)) == 0.0


@pytest.mark.parametrize(("power", "level"), [(0.04, 0.05), (1.0, 0.05), (0.8, 0.0), (math.nan, 0.05)])
def test_impossible_tests_are_refused(power, level) -> None:
    with pytest.raises(ValueError, match=r"level must be in .* got .*0\.05 and 0\.8"):
        minimum_detectable(with_error(1.0, 4), power=power, level=level)
