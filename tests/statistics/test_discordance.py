"""Compare McNemar's test with SciPy's binomial and chi-square tests, and the bootstrap with resampling of rows."""

import numpy as np
import pytest
from scipy import stats

from dlrm_adahessian.statistics.discordance import Discordance, bootstrap_accuracy, discordance, mcnemar
from tests.statistics.models import paired_mean


def test_counts_by_hand() -> None:
    a = np.array([True, True, True, False, False])
    b = np.array([True, False, False, True, False])
    found = discordance(a, b)
    assert found == Discordance(only_a=2, only_b=1, rows=5)
    assert found.difference == pytest.approx(a.mean() - b.mean())


@pytest.mark.oracle
@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (3, 9), (9, 3), (12, 12), (0, 30), (480, 520)])
def test_mcnemar_is_the_mid_p_of_the_exact_binomial_test(only_a, only_b) -> None:
    total = only_a + only_b
    exact = stats.binomtest(only_a, total, 0.5).pvalue
    point = stats.binom.pmf(only_a, total, 0.5)
    expected = (
        exact - point if only_a != only_b else 1.0
    )  # two-sided: half of the point probability in each tail
    found = mcnemar(Discordance(only_a=only_a, only_b=only_b, rows=2_000))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.oracle
def test_mcnemar_of_many_rows_is_the_chi_square() -> None:
    found = mcnemar(Discordance(only_a=50_300, only_b=49_500, rows=3_000_000))
    assert found == pytest.approx(
        stats.chi2.sf(800**2 / 99_800, 1), rel=1e-3
    )  # the error is of order 1 / discordant


def test_agreement_on_every_row_has_p_1() -> None:
    assert mcnemar(Discordance(only_a=0, only_b=0, rows=10)) == 1.0


@pytest.mark.oracle
@pytest.mark.parametrize("discordant", [20, 101])
def test_mcnemar_keeps_its_level(discordant) -> None:
    # Exact, by summation over the binomial distribution. Mid-p may exceed 5% slightly, but by less than a tenth.
    counts = np.arange(discordant + 1)
    p_values = [mcnemar(Discordance(only_a=int(k), only_b=int(discordant - k), rows=1_000)) for k in counts]
    level = stats.binom.pmf(counts, discordant, 0.5)[np.array(p_values) <= 0.05].sum()
    assert 0.035 < level < 0.055


@pytest.mark.oracle
def test_bootstrap_is_that_of_resampled_rows() -> None:
    rng = np.random.default_rng(0)
    rows, draws = 400, 4_000
    a, b = rng.random(rows) < 0.8, rng.random(rows) < 0.75
    differences = a.astype(float) - b
    resampled = differences[rng.integers(0, rows, (draws, rows))].mean(axis=1)
    found = bootstrap_accuracy(discordance(a, b), draws=100_000)
    # Error of the 2.5% quantile of `draws` normal values: sqrt(0.025 x 0.975 / draws) / density, plus the grid width.
    sd = resampled.std()
    error = 5 * sd * (0.025 * 0.975 / draws) ** 0.5 / stats.norm.pdf(1.96) + 1 / rows
    assert found == pytest.approx(tuple(np.quantile(resampled, (0.025, 0.975))), abs=error)


@pytest.mark.oracle
def test_bootstrap_of_many_rows_is_the_normal_interval() -> None:
    rng = np.random.default_rng(1)
    a = rng.random(200_000) < 0.79
    b = np.where(rng.random(len(a)) < 0.05, ~a, a)
    counts = discordance(a, b)
    expected = paired_mean(a, b)
    draws = 20_000
    error = 5 * expected.standard_error * (0.025 * 0.975 / draws) ** 0.5 / stats.norm.pdf(1.96)
    assert bootstrap_accuracy(counts, draws=draws) == pytest.approx(expected.ci95, abs=error)
    assert bootstrap_accuracy(counts, seed=4) == bootstrap_accuracy(counts, seed=4)


def test_bootstrap_without_discordant_rows_is_a_point() -> None:
    assert bootstrap_accuracy(Discordance(only_a=0, only_b=0, rows=10)) == (0.0, 0.0)


def test_bad_decisions_are_refused() -> None:
    right = np.array([True, False])
    with pytest.raises(ValueError, match=r"got \(2,\) and \(1,\). Match the samples"):
        discordance(right, right[:1])
    with pytest.raises(ValueError, match="at least 1"):
        discordance(right[:0], right[:0])
    with pytest.raises(
        ValueError, match=r"must be bool, got bool and float64. Compute them with correct_decisions"
    ):
        discordance(right, np.array([1.0, 0.0]))


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(ValueError, match=r"draws must be at least 1,000 .* got 10"):
        bootstrap_accuracy(Discordance(only_a=1, only_b=0, rows=10), draws=10)
