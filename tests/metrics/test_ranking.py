"""Compare DeLong's intervals with the m x n kernel and closed forms, and check their 95% coverage."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from dlrm_adahessian.metrics.binary import METRICS, binary_metrics
from dlrm_adahessian.statistics.comparison import paired_difference
from dlrm_adahessian.statistics.intervals import PairedDifference
from dlrm_adahessian.statistics.single import delong_auc
from tests.metrics.predictions import weights_of
from tests.statistics.models import brute_force_delong, covered, two_models

delong = partial(paired_difference, METRICS["auc"])
paired_rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(1, 63), st.integers(1, 63)), min_size=4, max_size=60
).filter(lambda rows: 2 <= sum(row[0] for row in rows) <= len(rows) - 2)


@pytest.mark.oracle
@pytest.mark.parametrize("levels", [None, 1, 4, 50])
@pytest.mark.parametrize("rows", [30, 401])
def test_delong_equals_brute_force(rows, levels) -> None:
    labels, a, b = two_models(rows, levels)
    aucs, covariance = brute_force_delong(labels, a, b)
    contrast = np.array([1, -1])

    found = delong(labels, a, b)

    expected_error = (contrast @ covariance @ contrast) ** 0.5
    assert found.estimate == pytest.approx(contrast @ aucs, abs=1e-12)
    assert found.standard_error == pytest.approx(expected_error, abs=1e-12)
    normal = stats.norm(found.estimate, expected_error)
    assert found.ci95 == pytest.approx(normal.interval(0.95), abs=1e-12)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(found.estimate) / expected_error), abs=1e-9)


@pytest.mark.oracle
@pytest.mark.parametrize("levels", [None, 4])
def test_one_auc_equals_brute_force(levels) -> None:
    labels, a, _ = two_models(levels=levels)
    (auc,), covariance = brute_force_delong(labels, a)
    found = delong_auc(labels, a)
    assert found.auc == pytest.approx(auc, abs=1e-12)
    assert found.auc == pytest.approx(binary_metrics(labels, a).auc, abs=1e-12)
    assert found.standard_error == pytest.approx(covariance[0, 0] ** 0.5, abs=1e-12)
    assert found.ci95 == pytest.approx(stats.norm(auc, covariance[0, 0] ** 0.5).interval(0.95), abs=1e-12)


def test_one_auc_interval_stays_in_the_unit_interval() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1], np.int8)
    assert delong_auc(labels, np.array([0.1, 0.2, 0.4, 0.3, 0.5, 0.6])).ci95[1] == 1.0
    assert delong_auc(labels, np.array([0.9, 0.8, 0.6, 0.7, 0.5, 0.4])).ci95[0] == 0.0


def test_equal_rankings_leave_no_doubt() -> None:
    labels, a, _ = two_models(levels=64)
    nothing = PairedDifference(estimate=0.0, standard_error=0.0, ci95=(0.0, 0.0), p_value=1.0)
    assert delong(labels, a, a) == nothing
    assert delong(labels, a, a**3) == nothing


def test_perfect_against_reversed_is_certain() -> None:
    labels = np.array([0, 0, 1, 1], np.int8)
    perfect = np.array([0.1, 0.2, 0.8, 0.9])
    expected = PairedDifference(estimate=1.0, standard_error=0.0, ci95=(1.0, 1.0), p_value=0.0)
    assert delong(labels, perfect, 1 - perfect) == expected


@given(paired_rows)
def test_swapping_the_models_negates(rows) -> None:
    labels, a, b = (np.array(column) for column in zip(*rows, strict=True))
    labels, a, b = labels.astype(np.int8), a / 64, b / 64
    forth, back = delong(labels, a, b), delong(labels, b, a)
    assert back.estimate == -forth.estimate
    assert back.standard_error == forth.standard_error
    assert back.p_value == forth.p_value
    assert back.ci95 == (-forth.ci95[1], -forth.ci95[0])
    mirrored = delong(labels, 1 - a, 1 - b)
    assert mirrored.estimate == pytest.approx(-forth.estimate, abs=1e-12)
    assert mirrored.standard_error == pytest.approx(
        forth.standard_error, abs=1e-7
    )  # square root of a rounding error


@pytest.mark.parametrize("labels", [[0, 0, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]])
def test_delong_refuses_fewer_than_two_of_a_class(labels) -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    with pytest.raises(ValueError, match=r"at least 2 samples of each class, got [01] of .*Evaluate on more"):
        delong(np.array(labels, np.int8), scores, scores)
    with pytest.raises(ValueError, match="at least 2 samples of each class"):
        delong_auc(np.array(labels, np.int8), scores)


def test_delong_checks_both_models() -> None:
    labels, a, _ = two_models()
    with pytest.raises(ValueError, match="the same shape"):
        delong(labels, a, a[:-1])
    with pytest.raises(ValueError, match="Probabilities must be in"):
        delong(labels, a, np.where(labels == 1, np.nan, a))


@pytest.mark.oracle
def test_delong_interval_covers_the_true_difference_95_times_in_100() -> None:
    # Scores are shift * label + standard normal noise, of which models share 70%: the AUC is Phi(shift / sqrt 2).
    shifts = np.array([1.2, 0.9])
    truth = float(np.diff(-stats.norm.cdf(shifts / 2**0.5))[0])
    labels = (np.arange(600) % 3 == 0).astype(np.int8)

    def draw(rng):
        noise = 0.7**0.5 * rng.normal(size=600) + 0.3**0.5 * rng.normal(size=(2, 600))
        a, b = expit(shifts[:, None] * labels + noise)
        return delong(labels, a, b).ci95

    assert covered(400, draw, truth)


@pytest.mark.oracle
@pytest.mark.parametrize("levels", [None, 4])
def test_weighted_delong_is_the_sandwich_of_the_kernel(levels) -> None:
    labels, a, b = two_models(150, levels)
    weights = weights_of(150)
    clicks, others = (weights[labels == of] for of in (1, 0))
    kernels = []
    for scores in (a, b):
        gap = scores[labels == 1][:, None] - scores[labels == 0][None, :]
        kernels.append((gap > 0) + 0.5 * (gap == 0))
    kernel = kernels[0] - kernels[1]
    difference = clicks @ kernel @ others / clicks.sum() / others.sum()
    variance = 0.0
    for of, placed in ((clicks, kernel @ others / others.sum()), (others, clicks @ kernel / clicks.sum())):
        n = np.count_nonzero(of)
        variance += n / (n - 1) * ((of * (placed - difference)) ** 2).sum() / of.sum() ** 2

    found = delong(labels, a, b, weights)

    assert found.estimate == pytest.approx(difference, abs=1e-13)
    assert found.standard_error == pytest.approx(variance**0.5, rel=1e-12)
    one = delong_auc(labels, a, weights)
    assert one.auc == pytest.approx(clicks @ kernels[0] @ others / clicks.sum() / others.sum(), abs=1e-13)
    alike = delong_auc(labels, a, np.full(150, 0.7))
    assert alike.standard_error == pytest.approx(delong_auc(labels, a).standard_error, rel=1e-12)
