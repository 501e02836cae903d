"""Compare differences between two runs with the metrics of each run."""

import json

import numpy as np
import pytest

from dlrm_adahessian.metrics.binary import METRICS, binary_metrics
from dlrm_adahessian.statistics.comparison import Difference, compare_predictions, paired_difference
from tests.statistics.models import two_models


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_comparison_is_the_difference_of_both_metrics(dtype) -> None:
    labels, a, b = two_models(rows=2_000)
    a, b = a.astype(dtype), b.astype(dtype)
    ours, baseline = binary_metrics(labels, a), binary_metrics(labels, b)
    found = compare_predictions(labels, a, b)
    for name in ("auc", "accuracy", "logloss"):
        difference = getattr(ours, name) - getattr(baseline, name)
        low, high = found[name].ci95
        assert found[name].estimate == pytest.approx(difference, abs=1e-12)
        assert low < difference < high
        assert found[name] == paired_difference(METRICS[name], labels, a, b)
    accuracy = found["accuracy"]
    assert accuracy.bootstrap_ci95 == pytest.approx(accuracy.ci95, abs=0.15 * np.ptp(accuracy.ci95))
    assert accuracy.mcnemar_p < 0.05
    assert found["auc"].estimate > 0 > found["logloss"].estimate  # a has half the noise of b


def test_comparison_is_ours_minus_baseline_and_prints_as_json() -> None:
    labels = np.array([0, 0, 1, 1], np.int8)
    good, bad = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.9, 0.2, 0.8, 0.1])
    found = json.loads(json.dumps(compare_predictions(labels, good, bad).asdict(), allow_nan=False))
    assert found["auc"] == 0.75
    assert found["accuracy"] == 0.5
    assert found["logloss"] == pytest.approx(-0.5 * np.log(9))
    # Two discordant samples, both in favor of ours: 2 P(X < 0) + P(X = 0) of Binomial(2, 1/2).
    assert found["accuracy_mcnemar_p"] == 0.25
    assert len(found["auc_ci95"]) == 2


def test_comparison_leaves_undefined_figures_out() -> None:
    one_click = np.array([0, 0, 0, 1], np.int8)
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    found = compare_predictions(one_click, scores, scores)
    assert found["auc"] is None
    assert found.asdict()["auc_ci95"] is None
    assert found["accuracy"].ci95 == (0.0, 0.0)
    for rows in (1, 0):
        nothing = compare_predictions(one_click[:rows], scores[:rows], scores[:rows])
        assert nothing == Difference(by_metric=dict.fromkeys(METRICS))
        assert nothing.asdict() == dict.fromkeys(found.asdict())


def test_comparison_refuses_unpaired_rows() -> None:
    labels, a, b = two_models()
    with pytest.raises(ValueError, match="the same shape"):
        compare_predictions(labels, a, b[:-1])


@pytest.mark.oracle
def test_weighted_comparison_is_the_difference_of_both_metrics_over_the_draw_of_rows() -> None:
    labels, a, b = two_models(rows=600)
    weights = np.random.default_rng(5).integers(0, 4, 600).astype(np.float32)
    ours, baseline = binary_metrics(labels, a, weights), binary_metrics(labels, b, weights)
    found = compare_predictions(labels, a, b, weights)
    repeated = compare_predictions(*(np.repeat(part, weights.astype(int)) for part in (labels, a, b)))
    for name in METRICS:
        assert found[name].estimate == pytest.approx(getattr(ours, name) - getattr(baseline, name), abs=1e-12)
        assert found[name].estimate == pytest.approx(repeated[name].estimate, abs=1e-12)
        assert found[name].standard_error > 1.2 * repeated[name].standard_error
        assert found[name] == paired_difference(METRICS[name], labels, a, b, weights)
    assert found.asdict()["accuracy_mcnemar_p"] is None, "a count of rows says nothing of their weights"
    alike, plain = compare_predictions(labels, a, b, np.full(600, 2.5)), compare_predictions(labels, a, b)
    for name in METRICS:
        assert alike[name].ci95 == pytest.approx(plain[name].ci95, rel=1e-9)
