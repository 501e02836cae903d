"""Compare curves with scikit-learn and with the metrics that they integrate to, and calibration bins with hand counts."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

from dlrm_adahessian.metrics.binary import binary_metrics
from dlrm_adahessian.metrics.curves import (
    CalibrationBin,
    calibration_bins,
    curve,
    expected_calibration_error,
)
from tests.metrics.predictions import clicks_on_grid, predictions, split, weights_of


def drawn(rows, levels, seed=0):
    rng = np.random.default_rng(seed)
    probability = (rng.integers(0, levels, rows) / levels).astype(np.float32)
    labels = (rng.random(rows) < 0.2 + 0.6 * probability).astype(np.int8)
    labels[:2] = 0, 1
    return labels, probability


@pytest.mark.oracle
@pytest.mark.parametrize("levels", [1, 3, 50, 1 << 20])
def test_every_threshold_equals_scikit_learn(levels):
    labels, probability = drawn(3000, levels)
    found = curve(labels, probability, points=10_000)
    false_positives, true_positives, thresholds = roc_curve(labels, probability, drop_intermediate=False)
    np.testing.assert_allclose(found.false_positive_rate, false_positives, atol=1e-15)
    np.testing.assert_allclose(found.recall, true_positives, atol=1e-15)
    np.testing.assert_array_equal(found.threshold, thresholds)
    precision, recall, _ = precision_recall_curve(labels, probability)
    np.testing.assert_allclose(found.precision, precision[::-1], atol=1e-15)
    np.testing.assert_allclose(found.recall, recall[::-1], atol=1e-15)
    assert found.average_precision == pytest.approx(average_precision_score(labels, probability), abs=1e-12)


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(2, 30))
def test_fewer_points_are_points_of_the_whole_curve_with_both_ends(seed, levels, points):
    labels, probability = drawn(100, levels, seed)
    whole, thinned = (curve(labels, probability, points=n) for n in (1000, points))
    assert len(thinned.called) <= points
    kept = np.isin(whole.called, thinned.called)
    for name in ("threshold", "hits", "called"):
        np.testing.assert_array_equal(getattr(whole, name)[kept], getattr(thinned, name))
    assert kept[0]
    assert kept[-1]
    assert thinned.average_precision == whole.average_precision


def test_the_area_below_the_curve_is_the_auc():
    labels, probability = drawn(20_000, 5000)
    found = curve(labels, probability, points=20_000)
    area = np.trapezoid(found.recall, found.false_positive_rate)
    assert area == pytest.approx(binary_metrics(labels, probability).auc, abs=1e-12)
    thinned = curve(labels, probability)
    # The gap between a chord and the concave curve above it is below the area of the steps it replaces.
    assert np.trapezoid(thinned.recall, thinned.false_positive_rate) == pytest.approx(area, abs=1 / 511)


@pytest.mark.parametrize(
    ("labels", "points", "told"), [([0, 0], 10, "0 clicks in 2"), ([0, 1], 1, "points must be at least 2")]
)
def test_what_has_no_curve_is_refused(labels, points, told):
    with pytest.raises(ValueError, match=told):
        curve(np.array(labels, np.int8), np.array([0.1, 0.2]), points=points)


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_calibration_bins_cut_the_sorted_rows_equally(dtype) -> None:
    labels, probability = predictions("random", rows=1_003)
    probability = np.unique(probability.astype(dtype))  # sorted and free of ties
    labels = labels[: len(probability)]
    shuffle = np.random.default_rng(0).permutation(len(labels))

    found = calibration_bins(labels[shuffle], probability[shuffle])

    assert [entry.rows for entry in found] == [100, 100, 100, 101, 100, 100, 101, 100, 100, 101]
    start = 0
    for entry in found:
        part = slice(start, start + entry.rows)
        assert entry.mean_probability == pytest.approx(probability[part].mean(dtype=np.float64), abs=1e-12)
        assert entry.click_rate == pytest.approx(labels[part].mean(), abs=1e-12)
        start += entry.rows


@given(clicks_on_grid, st.integers(1, 12), st.randoms(use_true_random=False))
def test_calibration_bins_ignore_the_order_of_rows(rows, bins, random) -> None:
    coarse = [(label, 1 + tick // 128) for label, tick in rows]  # 8 levels: many ties
    shuffled = random.sample(coarse, len(coarse))
    found = calibration_bins(*split(coarse), bins)
    assert found == calibration_bins(*split(shuffled), bins)
    assert sum(entry.rows for entry in found) == len(rows)
    assert len(found) <= bins
    assert all(a.mean_probability < b.mean_probability for a, b in pairwise(found))


def test_constant_prediction_is_one_bin_and_its_error_is_the_bias() -> None:
    found = calibration_bins(np.array([1, 0, 0, 0], np.int8), np.full(4, 0.5))
    assert found == [CalibrationBin(4, 0.5, 0.25)]
    assert expected_calibration_error(found) == 0.25


def test_calibration_error_weighs_bins_by_rows() -> None:
    table = [CalibrationBin(10, 0.5, 0.3), CalibrationBin(30, 0.1, 0.2)]
    assert expected_calibration_error(table) == pytest.approx((10 * 0.2 + 30 * 0.1) / 40)


def test_calibration_of_nothing() -> None:
    assert calibration_bins(np.zeros(0, np.int8), np.zeros(0)) == []
    assert expected_calibration_error([]) is None
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        calibration_bins(np.zeros(1, np.int8), np.zeros(1), bins=0)


@pytest.mark.oracle
def test_a_weighted_curve_is_that_of_repeated_samples():
    labels, probability = drawn(400, 50)
    weights = weights_of(400)
    repeated = [np.repeat(part, weights.astype(int)) for part in (labels, probability)]
    for points in (2, 7, 10_000):
        found, expected = curve(labels, probability, points, weights), curve(*repeated, points)
        for name in ("hits", "called", "threshold"):
            of_found, of_expected = getattr(found, name), getattr(expected, name)
            if points > 7:  # stored points are at shares of the weight, which repeated samples round down
                np.testing.assert_array_equal(of_found, of_expected)
            assert of_found[[0, -1]].tolist() == of_expected[[0, -1]].tolist()
        assert found.average_precision == pytest.approx(expected.average_precision, rel=1e-12)
    any_weights = weights_of(400, "any")
    found = curve(labels, probability, 10_000, any_weights)
    rates = roc_curve(labels, probability, sample_weight=any_weights, drop_intermediate=False)
    np.testing.assert_allclose(found.false_positive_rate, rates[0], atol=1e-13)
    np.testing.assert_allclose(found.recall, rates[1], atol=1e-13)


@pytest.mark.oracle
def test_weighted_bins_are_those_of_repeated_samples():
    labels, probability = drawn(400, 1 << 20)
    weights = weights_of(400)
    weights[0] += -weights.sum() % 10  # make the weight divisible by ten bins
    repeated = [np.repeat(part, weights.astype(int)) for part in (labels, probability)]
    found, expected = calibration_bins(labels, probability, weights=weights), calibration_bins(*repeated)
    assert len(found) == 10
    for part, of_repeated in zip(found, expected, strict=True):
        assert part.weight == of_repeated.rows
        assert part[1:3] == pytest.approx(of_repeated[1:3], rel=1e-12)
    assert sum(part.rows for part in found) == np.count_nonzero(weights)
    error = expected_calibration_error(expected)
    assert expected_calibration_error(found) == pytest.approx(error, rel=1e-12)
    assert set(found[0].asdict()) - set(expected[0].asdict()) == {"weight", "effective_rows"}
    scaled = calibration_bins(labels, probability, weights=weights / 1000)
    assert [part.rows for part in scaled] == [part.rows for part in found]
    assert calibration_bins(labels, probability, weights=np.zeros(400)) == []
