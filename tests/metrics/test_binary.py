"""Compare metrics with scikit-learn, closed forms, and brute force."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from dlrm_adahessian.metrics import binary, ranking
from dlrm_adahessian.metrics.binary import (
    BinaryMetrics,
    binary_metrics,
    log_losses,
    probability_from_logit,
)
from tests.metrics.predictions import clicks_on_grid, predictions, split, weights_of


def brute_force_auc(labels, probability):
    wins = probability[labels == 1][:, None] - probability[labels == 0][None, :]
    return ((wins > 0).sum() + 0.5 * (wins == 0).sum()) / wins.size


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["random", "tied", "constant", "extreme", "at the threshold"])
def test_figures_equal_scikit_learn(kind, dtype) -> None:
    labels, probability = predictions(kind)
    probability = probability.astype(dtype)
    if kind == "extreme":
        probability = probability.clip(dtype(1e-15), 1 - np.finfo(dtype).epsneg)
    wide = probability.astype(np.float64)  # scikit-learn would clip float32 at 1.2e-7

    found = binary_metrics(labels, probability)

    base_rate = labels.mean()
    logloss = log_loss(labels, wide)
    assert found.rows == len(labels)
    assert found.auc == pytest.approx(roc_auc_score(labels, wide), abs=1e-9)
    assert found.logloss == pytest.approx(logloss, abs=1e-9)
    assert found.accuracy == accuracy_score(labels, wide >= 0.5)
    assert found.base_rate == pytest.approx(base_rate, abs=1e-12)
    assert found.base_rate_accuracy == pytest.approx(max(base_rate, 1 - base_rate), abs=1e-12)
    constant = log_loss(labels, np.full(len(labels), base_rate))
    assert found.normalized_entropy == pytest.approx(logloss / constant, abs=1e-9)
    assert found.calibration == pytest.approx(wide.mean() / base_rate, abs=1e-9)


@pytest.mark.oracle
@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
@pytest.mark.parametrize("levels", [1, 3, 50, 1_000_000])
def test_auc_and_sums_are_exact_across_blocks_and_ties(monkeypatch, block, levels) -> None:
    rng = np.random.default_rng(levels)
    probability = (rng.integers(0, levels, 1_000) / levels).astype(np.float32)
    labels = rng.integers(0, 2, 1_000, dtype=np.int8)
    for module in (binary, ranking):
        monkeypatch.setattr(module, "_BLOCK", block)
    found = binary_metrics(labels, probability)
    assert found.auc == pytest.approx(brute_force_auc(labels, probability), abs=1e-15)
    assert found.logloss == pytest.approx(log_losses(labels, probability).mean(), rel=1e-13)
    assert found.accuracy == np.mean((probability >= 0.5) == (labels == 1))


def test_negative_zero_ties_with_zero() -> None:
    labels = np.array([1, 0], np.int8)
    assert binary_metrics(labels, np.array([-0.0, 0.0])).auc == 0.5


@given(clicks_on_grid)
def test_auc_depends_on_the_order_alone(rows) -> None:
    labels, probability = split(rows)
    auc = binary_metrics(labels, probability).auc
    assert auc == binary_metrics(labels, probability**2).auc
    assert auc == binary_metrics(labels, probability.astype(np.float32)).auc
    assert auc == binary_metrics(labels[::-1], probability[::-1]).auc
    assert auc == pytest.approx(brute_force_auc(labels, probability), abs=1e-15)


@given(clicks_on_grid)
def test_auc_of_the_complement_is_the_complement(rows) -> None:
    labels, probability = split(rows)
    auc = binary_metrics(labels, probability).auc
    assert binary_metrics(labels, 1 - probability).auc == pytest.approx(1 - auc, abs=1e-15)
    assert binary_metrics(1 - labels, probability).auc == pytest.approx(1 - auc, abs=1e-15)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_leaves_only_ranking_figures_undefined(label) -> None:
    found = binary_metrics(np.full(4, label, np.int8), np.full(4, 0.25))
    assert found == BinaryMetrics(
        rows=4,
        accuracy=float(label == 0),
        logloss=pytest.approx(-math.log(0.25 if label else 0.75)),
        base_rate=float(label),
        base_rate_accuracy=1.0,
        calibration=0.25 if label else None,
    )


def test_no_rows_leave_everything_undefined_and_print_as_json() -> None:
    found = binary_metrics(np.zeros(0, np.int8), np.zeros(0, np.float32))
    assert found == BinaryMetrics(rows=0)
    text = json.dumps(found.asdict(), allow_nan=False)
    assert json.loads(text)["auc"] is None
    assert set(json.loads(text)) >= {"auc", "accuracy", "logloss", "normalized_entropy", "base_rate_accuracy"}


@pytest.mark.parametrize(
    ("dtype", "zero_bits", "one_bits"), [(np.float32, 126, 24), (np.float64, 1022, 53)], ids=["f32", "f64"]
)
def test_certain_mistakes_cost_the_last_distance_of_the_dtype(dtype, zero_bits, one_bits) -> None:
    losses = log_losses(np.array([1, 0, 1, 0], np.int8), np.array([0, 1, 1, 0], dtype))
    assert losses[:2] == pytest.approx([zero_bits * math.log(2), one_bits * math.log(2)], rel=1e-14)
    assert (np.abs(losses[2:]) <= 1.01 * np.finfo(dtype).epsneg).all()


@pytest.mark.parametrize(
    ("labels", "probability", "message"),
    [
        ([0, 1], [0.5, np.nan], r"Probabilities must be in \[0, 1\].*nan.*probability_from_logit"),
        ([0, 1], [0.5, np.inf], r"Probabilities must be in \[0, 1\].*inf"),
        ([0, 1], [-0.1, 0.5], r"got values from -0\.1"),
        ([0, 1], [0.5, 1.1], r"to 1\.1"),
        ([0, -1], [0.5, 0.5], "Labels must be 0 or 1, got values from -1.*Drop unlabeled"),
        ([0, 2], [0.5, 0.5], "Labels must be 0 or 1.*to 2"),
        ([0, 1, 1], [0.5, 0.5], r"the same shape \(N,\), got \(3,\) and \(2,\)"),
        ([[0], [1]], [[0.5], [0.5]], r"the same shape \(N,\)"),
        ([0.0, 1.0], [0.5, 0.5], "Labels must be integers, got float64"),
    ],
)
def test_wrong_predictions_are_refused(labels, probability, message) -> None:
    with pytest.raises(ValueError, match=message):
        binary_metrics(np.array(labels), np.array(probability))


def test_half_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="float32 or float64, got float16"):
        binary_metrics(np.array([0, 1]), np.array([0.5, 0.5], np.float16))


@pytest.mark.oracle
def test_probability_is_the_sigmoid_rounded_once() -> None:
    logits = np.linspace(-80, 16, 100_001, dtype=np.float32)  # clipping applies only beyond -87 and 17
    assert np.array_equal(probability_from_logit(logits), expit(logits.astype(np.float64)).astype(np.float32))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_probability_stays_inside_and_keeps_the_order(values) -> None:
    logits = np.sort(np.array(values, np.float32))
    found = probability_from_logit(logits)
    assert found.dtype == np.float32
    assert found.min() >= 2.0**-126
    assert found.max() <= 1 - 2.0**-24
    assert (np.diff(found) >= 0).all()
    assert np.isfinite(log_losses(np.ones(len(found), np.int8), found)).all()
    assert np.isfinite(log_losses(np.zeros(len(found), np.int8), found)).all()


@pytest.mark.oracle
def test_log_loss_of_logits_is_softplus() -> None:
    logits = np.linspace(-15, 8, 2_001, dtype=np.float32)
    # The relative rounding error of a probability is up to 2**-24 if small and 2**-25 near 1. The loss
    # changes by that error divided by the probability of the label.
    for label, sign in ((1, -1), (0, 1)):
        labels = np.full(len(logits), label, np.int8)
        probability = probability_from_logit(logits)
        exact = np.logaddexp(0, sign * logits.astype(np.float64))
        allowed = 1.01 * 2.0**-24 * np.maximum(probability, 2.0**-24) / np.exp(-exact)
        assert (np.abs(log_losses(labels, probability) - exact) <= allowed).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_logits_are_refused(value) -> None:
    with pytest.raises(ValueError, match="Logits must be finite"):
        probability_from_logit(np.array([0, value], np.float32))


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighting", ["whole", "any"])
@pytest.mark.parametrize("kind", ["random", "tied", "constant", "at the threshold"])
def test_weighted_figures_equal_scikit_learn(kind, weighting, dtype) -> None:
    labels, probability = predictions(kind)
    probability, weights = probability.astype(dtype), weights_of(len(labels), weighting)
    wide = probability.astype(np.float64)
    found = binary_metrics(labels, probability, weights)
    base_rate = np.average(labels, weights=weights)
    logloss = log_loss(labels, wide, sample_weight=weights)
    constant = log_loss(labels, np.full(len(labels), base_rate), sample_weight=weights)
    assert found.rows == len(labels)
    assert found.weight == pytest.approx(weights.sum(), rel=1e-14)
    assert found.auc == pytest.approx(roc_auc_score(labels, wide, sample_weight=weights), abs=1e-9)
    assert found.logloss == pytest.approx(logloss, abs=1e-9)
    accuracy = accuracy_score(labels, wide >= 0.5, sample_weight=weights)
    assert found.accuracy == pytest.approx(accuracy, abs=1e-9)
    assert found.base_rate == pytest.approx(base_rate, abs=1e-12)
    assert found.normalized_entropy == pytest.approx(logloss / constant, abs=1e-9)
    assert found.calibration == pytest.approx(np.average(wide, weights=weights) / base_rate, abs=1e-9)


@pytest.mark.oracle
def test_whole_weights_repeat_the_samples(monkeypatch) -> None:
    labels, probability = predictions("tied", rows=500)
    weights = weights_of(500)
    repeated = binary_metrics(*(np.repeat(part, weights.astype(int)) for part in (labels, probability)))
    monkeypatch.setattr(binary, "_BLOCK", 7)
    found = binary_metrics(labels, probability, weights.astype(np.float32)).asdict()
    expected = {**repeated.asdict(), "rows": 500, "weight": repeated.rows}
    assert found == pytest.approx(expected, rel=1e-12)


def test_samples_without_weight_leave_nothing() -> None:
    labels, probability = np.array([0, 1], np.int8), np.array([0.2, 0.7])
    assert binary_metrics(labels, probability, np.zeros(2)) == BinaryMetrics(rows=2, weight=0.0)
    one_class = binary_metrics(labels, probability, np.array([3.0, 0.0]))
    assert (one_class.auc, one_class.normalized_entropy, one_class.base_rate) == (None, None, 0.0)
    assert one_class.logloss == pytest.approx(-math.log(0.8))


def test_without_weights_nothing_is_said_of_them() -> None:
    labels, probability = np.array([0, 1], np.int8), np.array([0.2, 0.7])
    assert "weight" not in binary_metrics(labels, probability).asdict()
    with pytest.raises(ValueError, match="one weight for each of 2 samples"):
        binary_metrics(labels, probability, np.ones(3))


@pytest.mark.parametrize(("probability", "beats"), [
    ([0.2, 0.6, 0.4, 0.7], True),
    ([0.5, 0.5, 0.5, 0.5], False),  # the constant prediction, with AUC 0.5
    ([0.8, 0.4, 0.6, 0.3], False),  # wrong order
    ([0.001, 0.002, 0.001, 0.002], False),  # right order, but too confident for a good log loss
])  # fmt: skip
def test_predictions_beat_the_base_rate_if_they_rank_and_lose_less(probability, beats) -> None:
    labels = np.array([0, 1, 0, 1], np.int8)
    assert binary_metrics(labels, np.array(probability, np.float32)).beats_base_rate == beats


def test_of_one_class_and_of_no_rows_nothing_is_asked() -> None:
    for labels in ([], [1, 1]):
        found = binary_metrics(np.array(labels, np.int8), np.full(len(labels), 0.1, np.float32))
        assert found.beats_base_rate
