"""Weighted means compared with hand calculations, and invalid weights."""

import numpy as np
import pytest

from dlrm_adahessian.metrics.means import check_weights, effective_rows, mean_with_error, of_weight


def test_the_error_is_the_sandwich():
    values, weights = np.array([0.0, 1.0, 4.0]), np.array([1.0, 2.0, 1.0])
    # Mean (0 + 2 + 4) / 4; residuals -1.5, -0.5, 2.5 times weights: -1.5, -1, 2.5, squares 9.5; 3 / 2 for three samples.
    assert mean_with_error(values, weights) == pytest.approx((1.5, (1.5 * 9.5) ** 0.5 / 4), rel=1e-15)


@pytest.mark.parametrize("weight", [0.25, 1.0, 7.0])
def test_equal_weights_have_the_plain_error(weight):
    values = np.random.default_rng(0).normal(size=50)
    assert mean_with_error(values, np.full(50, weight)) == pytest.approx(mean_with_error(values), rel=1e-13)


def test_repeated_rows_would_be_too_sure():
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=200), rng.integers(1, 9, 200)
    mean, error = mean_with_error(values, weights.astype(np.float64))
    repeated = mean_with_error(np.repeat(values, weights))
    assert mean == pytest.approx(repeated[0], rel=1e-12)
    assert error > 1.9 * repeated[1]  # at least the square root of 5 repeats per sample on average


def test_a_share_of_equal_weights_is_of_all_its_rows():
    holds = np.arange(40) % 5 == 0
    assert effective_rows(holds, np.full(40, 0.3)) == pytest.approx(40, rel=1e-13)
    assert effective_rows(holds[:1], np.array([2.0])) == 1
    # A share of 0: (1 + 3)^2 / (1 + 9).
    assert effective_rows(np.array([False, False]), np.array([1.0, 3.0])) == pytest.approx(1.6)


def test_rows_without_weight_are_left_out():
    labels, values = np.array([0, 1, 1]), np.array([0.1, 0.2, 0.3])
    weights, kept, of_kept = of_weight(np.array([2, 0, 1], np.float32), labels, values)
    assert weights.dtype == np.float64
    assert (weights.tolist(), kept.tolist(), of_kept.tolist()) == ([2, 1], [0, 1], [0.1, 0.3])
    assert of_weight(None, labels)[1] is labels


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"one weight for each of 2 samples, got shape \(1,\)"),
        ([1.0, -0.5], "at least 0, got values from -0.5 to 1.0"),
        ([1.0, np.nan], "finite and at least 0"),
        ([1.0, np.inf], "finite and at least 0"),
        ([1, 2], "float32 or float64, got int64. Convert"),
    ],
)
def test_weights_are_finite_numbers_from_0_on_one_for_each_row(weights, message):
    with pytest.raises(ValueError, match=message):
        check_weights(np.array(weights), 2)
