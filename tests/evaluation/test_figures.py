"""Metrics of several models and slices against their formulas."""

import numpy as np
import pytest
from scipy.stats import norm

from dlrm_adahessian.data.rows import NO_LABEL
from dlrm_adahessian.evaluation.figures import differences, model_figures, slice_figures
from dlrm_adahessian.evaluation.slices import Slice
from dlrm_adahessian.statistics.intervals import holm


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 1, (3, 900)) * [[0.1], [0.1], [0.2]] + rng.normal(-1, 1, 900)
    labels = (rng.random(900) < 1 / (1 + np.exp(-logits[0]))).astype(np.int8)
    models = dict(zip("abc", (1 / (1 + np.exp(-logits))).astype(np.float32), strict=True))
    return labels, models


def paired(labels, ours, theirs):
    """Return the mean difference of the log loss, its standard error, and the p value of no difference."""
    ours, theirs = (np.where(labels == 1, p.astype(float), 1 - p.astype(float)) for p in (ours, theirs))
    difference = np.log(theirs) - np.log(ours)
    error = difference.std(ddof=1) / len(difference) ** 0.5
    return difference.mean(), error, 2 * norm.sf(abs(difference.mean()) / error)


@pytest.mark.oracle
def test_models_are_compared_with_the_first_and_adjusted_together(scored):
    labels, models = scored
    expected = [paired(labels, models[name], models["a"]) for name in "bc"]
    found = differences(labels, models)
    assert [(row.model, row.against) for row in found] == [("b", "a"), ("c", "a")]
    assert [row.logloss.estimate for row in found] == pytest.approx(
        [mean for mean, _, _ in expected], rel=1e-6
    )
    assert [row.difference["logloss"] for row in found] == [row.logloss for row in found]
    assert [row.p_adjusted for row in found] == pytest.approx(holm([p for _, _, p in expected]), rel=1e-6)
    assert min(row.p_adjusted for row in found) > min(p for _, _, p in expected)


@pytest.mark.oracle
def test_slices_are_adjusted_over_slices_and_models(scored):
    labels, models = scored
    cuts = np.split(np.arange(900), [200, 500])
    found = slice_figures(labels, models, [Slice(str(i), rows) for i, rows in enumerate(cuts)])
    expected = [paired(labels[rows], models[name][rows], models["a"][rows]) for rows in cuts for name in "bc"]
    pairs = [pair for entry in found for pair in entry.differences]
    assert [pair.model for pair in pairs] == ["b", "c"] * 3
    assert [pair.p_adjusted for pair in pairs] == pytest.approx(holm([p for _, _, p in expected]), rel=1e-6)
    for pair, (mean, error, _) in zip(pairs, expected, strict=True):
        assert pair.logloss.ci95 == pytest.approx(
            [mean - norm.ppf(0.975) * error, mean + norm.ppf(0.975) * error], rel=1e-6
        )


def test_rows_without_a_label_are_in_no_slice(scored):
    labels, models = scored
    some = labels.copy()
    some[:300] = NO_LABEL
    cuts = [
        Slice("none", np.arange(300)),
        Slice("one", np.array([5, 300])),
        Slice("rest", np.arange(301, 900)),
    ]
    found = slice_figures(some, models, cuts)
    assert [(entry.label, entry.samples) for entry in found] == [("one", 1), ("rest", 599)]
    assert found[0].differences[0].p_adjusted is None
    assert found[1].differences[0].p_adjusted is not None


@pytest.mark.oracle
def test_whole_weights_repeat_the_rows_in_all_figures(scored):
    labels, models = scored
    weights = np.random.default_rng(1).integers(0, 4, 900)
    weights[0] += -weights.sum() % 10
    of_labels = np.repeat(labels, weights)
    of_models = {name: np.repeat(probability, weights) for name, probability in models.items()}
    found = model_figures("a", None, labels, models["a"], weights.astype(np.float32))
    expected = model_figures("a", None, of_labels, of_models["a"])
    for name in ("auc", "accuracy", "logloss", "normalized_entropy", "calibration"):
        assert found.figures.value(name) == pytest.approx(expected.figures.value(name), rel=1e-9), name
    assert found.expected_calibration_error == pytest.approx(expected.expected_calibration_error, rel=1e-9)
    assert found.figures_asdict()["weight"] == weights.sum()
    rows = np.arange(200, 500)
    (part,) = slice_figures(labels, models, [Slice("part", rows)], weights.astype(np.float32))
    plain = model_figures(
        "b", None, np.repeat(labels[rows], weights[rows]), np.repeat(models["b"][rows], weights[rows])
    )
    assert (part.samples, part.clicks) == (300, labels[rows].sum())
    assert part.models["b"].value("logloss") == pytest.approx(plain.figures.value("logloss"), rel=1e-9)
    pairs = zip(
        differences(labels, models, weights.astype(np.float32)),
        differences(of_labels, of_models),
        strict=True,
    )
    for row, of_repeated in pairs:
        assert row.logloss.estimate == pytest.approx(of_repeated.logloss.estimate, rel=1e-6)
        assert row.logloss.standard_error > of_repeated.logloss.standard_error, (
            "samples were drawn, not repeats of them"
        )
