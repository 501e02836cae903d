"""Compare intervals of one model's metrics with the jackknife and textbook formulas."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from dlrm_adahessian.metrics import ranking
from dlrm_adahessian.metrics.binary import binary_metrics
from dlrm_adahessian.metrics.curves import CalibrationBin, calibration_bins
from dlrm_adahessian.statistics import single
from dlrm_adahessian.statistics.single import (
    calibration_error_interval,
    delong_auc,
    metric_intervals,
    proportion_interval,
)


def drawn(rows, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1, rows)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    probability = 1 / (1 + np.exp(-(0.8 * logits + 0.3)))
    return labels, probability


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["auc", "logloss", "normalized_entropy", "calibration"])
def test_half_widths_equal_the_jackknife(name):
    """Compare with leave-one-out standard errors, which recompute the metric and need no linearization.

    The two agree up to terms of relative order 1/N from the curvature of the metric; 2% is ten times that here.
    """
    labels, probability = drawn(500)
    keep = ~np.eye(len(labels), dtype=bool)
    left = np.array([getattr(binary_metrics(labels[k], probability[k]), name) for k in keep])
    n = len(left)
    error = np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())
    low, high = metric_intervals(labels, probability)[name]
    assert (high - low) / 2 == pytest.approx(norm.ppf(0.975) * error, rel=0.02)
    assert (low + high) / 2 == pytest.approx(getattr(binary_metrics(labels, probability), name), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["normalized_entropy", "calibration"])
def test_intervals_hold_the_limit_95_times_of_100(name):
    truth = getattr(binary_metrics(*drawn(4_000_000, 999)), name)
    tries = 1000
    held = 0
    for seed in range(tries):
        low, high = metric_intervals(*drawn(400, seed))[name]
        held += low <= truth <= high
    # Four binomial standard errors, plus 1.5 points because 400 rows are finite.
    assert abs(held / tries - 0.95) <= 4 * np.sqrt(0.95 * 0.05 / tries) + 0.015


@pytest.mark.parametrize(("k", "n"), [(3, 40), (0, 10), (10, 10), (1, 1), (500, 1_000_000)])
def test_wilson_is_scipys(k, n):
    expected = binomtest(k, n).proportion_ci(0.95, "wilson")
    assert proportion_interval(k, n) == pytest.approx((expected.low, expected.high), rel=1e-12, abs=1e-15)


def test_auc_is_delongs():
    labels, probability = drawn(300)
    assert metric_intervals(labels, probability)["auc"] == delong_auc(labels, probability).ci95


@pytest.mark.parametrize(
    ("labels", "present"),
    [
        ([], set()),
        ([1], set()),
        ([0, 0, 0], {"accuracy", "logloss"}),
        ([0, 0, 1], {"accuracy", "logloss", "calibration"}),
        ([0, 0, 1, 1], {"accuracy", "logloss", "calibration", "auc", "normalized_entropy"}),
    ],
)
def test_too_few_rows_have_no_interval(labels, present):
    labels = np.array(labels, np.int8)
    probability = np.linspace(0.2, 0.6, len(labels))
    found = metric_intervals(labels, probability).asdict()
    assert {name.removesuffix("_ci95") for name, ends in found.items() if ends is not None} == present


def test_blocks_change_nothing(monkeypatch):
    labels, probability = drawn(300)
    probability = probability.round(2)  # with ties, which blocks must not split
    whole = metric_intervals(labels, probability)
    for module in (ranking, single):
        monkeypatch.setattr(module, "_BLOCK", 7)
    cut = metric_intervals(labels, probability)
    for name, ends in whole.by_metric.items():
        assert cut[name] == pytest.approx(ends, rel=1e-12)


def weighted(rows, seed=0):
    """Return labels and probabilities from `drawn`, and weights that depend on both."""
    labels, probability = drawn(rows, seed)
    noise = np.random.default_rng([seed, 1]).exponential(1.0, rows)
    return labels, probability, (1 + 2 * labels) * (0.2 + probability) * noise


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["auc", "logloss", "accuracy", "normalized_entropy", "calibration"])
def test_weighted_half_widths_equal_the_jackknife_over_rows(name):
    labels, probability, weights = weighted(500)
    keep = ~np.eye(len(labels), dtype=bool)
    left = np.array([getattr(binary_metrics(labels[k], probability[k], weights[k]), name) for k in keep])
    n = len(left)
    error = np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())
    low, high = metric_intervals(labels, probability, weights)[name]
    # The linearized error omits terms of relative order 1/N times the ratio of the largest weight to the mean.
    assert (high - low) / 2 == pytest.approx(norm.ppf(0.975) * error, rel=0.04)


@pytest.mark.parametrize("weight", [0.1, 1.0, 30.0])
def test_equal_weights_have_the_intervals_of_no_weights(weight, monkeypatch):
    labels, probability = drawn(300)
    monkeypatch.setattr(single, "_BLOCK", 64)
    plain = metric_intervals(labels, probability)
    found = metric_intervals(labels, probability, np.full(300, weight))
    for name, ends in plain.by_metric.items():
        assert found[name] == pytest.approx(ends, rel=1e-11), name


def test_rows_without_weight_change_no_interval():
    labels, probability, weights = weighted(200)
    weights[::3] = 0
    kept = weights > 0
    expected = metric_intervals(labels[kept], probability[kept], weights[kept])
    assert metric_intervals(labels, probability, weights) == expected
    assert set(metric_intervals(labels, probability, np.zeros(200)).by_metric.values()) == {None}


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["auc", "accuracy", "logloss", "normalized_entropy", "calibration"])
def test_weighted_intervals_hold_the_limit_95_times_of_100(name):
    truth = getattr(binary_metrics(*weighted(1_000_000, 999)), name)
    tries = 400
    held = 0
    for seed in range(tries):
        low, high = metric_intervals(*weighted(600, seed))[name]
        held += low <= truth <= high
    # Four binomial standard errors, plus 2 points because 600 rows are finite.
    assert abs(held / tries - 0.95) <= 4 * np.sqrt(0.95 * 0.05 / tries) + 0.02


def errs(gap, rows=3_000, tries=400):
    """Return how often the calibration error is below its interval, and how often above, with a known gap of click rates."""
    rng = np.random.default_rng(0)
    probability = np.sort(rng.beta(2, 6, rows))
    true = np.clip(probability + gap(probability), 0, 1)
    error = np.abs((true - probability).reshape(10, -1).mean(1)).mean()  # of the ten bins
    below = above = 0
    for _ in range(tries):
        labels = (rng.random(rows) < true).astype(np.int8)
        low, high = calibration_error_interval(calibration_bins(labels, probability))
        below += error < low
        above += error > high
    return below / tries, above / tries


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("gap", "tight"),
    [
        (lambda p: 0 * p, "low"),  # what is measured is 0.02 on average, and the truth is 0
        (lambda p: 0.1 + 0 * p, "high"),
        (lambda p: 0.3 * p - 0.08, None),  # too sure: gaps of both signs, some of them small
        (lambda p: np.where(p < 0.2, 0.0, 0.05), None),
    ],
)
def test_the_interval_of_the_calibration_error_holds_a_known_one_at_least_95_times_of_100(gap, tight):
    below, above = errs(gap)
    four_errors = 4 * np.sqrt(0.025 * 0.975 / 400)
    assert max(below, above) <= 0.025 + four_errors
    assert below + above <= 0.05 + four_errors
    assert {"low": below, "high": above, None: 0.025}[tight] >= 0.005, "no wider than needed"


@pytest.mark.oracle
def test_the_calibration_error_of_one_bin_is_off_by_a_normal_gap():
    rows, rate, predicted = 9_996, 0.25, 0.4
    error = np.sqrt((rate * rows + 2) / (rows + 4) * (1 - (rate * rows + 2) / (rows + 4)) / rows)
    low, high = calibration_error_interval([CalibrationBin(rows, predicted, rate)])
    assert 0.15 - low == pytest.approx(norm.ppf(0.9875) * error, rel=0.02)  # of |z|, by draws
    assert high - 0.15 == pytest.approx(norm.ppf(0.975) * error, rel=1e-9)


def test_weights_widen_the_interval_of_the_calibration_error_as_fewer_rows_do():
    bins = [CalibrationBin(400, 0.1, 0.2), CalibrationBin(400, 0.5, 0.4)]
    weighed = [entry._replace(weight=900.0, effective_rows=100.0) for entry in bins]
    fewer = [entry._replace(rows=100) for entry in bins]
    assert calibration_error_interval(weighed) == calibration_error_interval(fewer)
    assert calibration_error_interval([]) is None


def test_a_bin_without_a_click_leaves_doubt():
    low, high = calibration_error_interval([CalibrationBin(50, 0.01, 0.0)])
    assert low == 0
    assert high > 0.05
