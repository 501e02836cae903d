"""Compare logs with downsampled negatives with the population that they were drawn from."""

import math

import numpy as np
import pytest
from scipy.special import expit, logit

from dlrm_adahessian.data.sampling import (
    log_weights,
    logit_shift,
    population_probability,
    population_weights,
)
from dlrm_adahessian.data.schema import LabelColumn
from dlrm_adahessian.metrics.binary import binary_metrics
from dlrm_adahessian.metrics.curves import calibration_bins

QUARTER = LabelColumn(column="y", negative_rate=0.25)
ALL = LabelColumn(column="y")

pytestmark = pytest.mark.oracle


def test_probabilities_are_those_of_the_paper():
    p = np.array([0.5, 0.25, 2**-126, 1 - 2**-24], np.float32)
    q = [1 / 5, 1 / 13, 2**-128, (1 - 2**-24) / (1 - 2**-24 + 2**-22)]  # p / (p + (1 - p) / r) by hand
    np.testing.assert_allclose(population_probability(QUARTER, p), q, rtol=2**-23)
    # The paper's example: with a negative rate of 0.01, a click rate of 0.1% becomes about 10%.
    paper = LabelColumn(column="y", negative_rate=0.01)
    tenth = population_probability(paper, np.array([0.1], np.float32))
    assert tenth[0] == pytest.approx(0.1 / (0.1 + 0.9 / 0.01), rel=1e-6)


def test_a_shifted_logit_is_the_same_probability():
    p = np.linspace(0.001, 0.999, 999)
    r = QUARTER.negative_rate
    np.testing.assert_allclose(expit(logit(p) + logit_shift(QUARTER)), p / (p + (1 - p) / r), rtol=1e-12)


def test_rows_without_a_click_stand_for_those_that_were_left_out():
    labels = np.array([0, 1, -1, 0], np.int8)
    assert population_weights(QUARTER, labels, None).tolist() == [4, 1, 1, 4]
    own = np.array([0.5, 3, 2, 0], np.float32)
    found = population_weights(QUARTER, labels, own)
    assert (found.tolist(), found.dtype) == ([2, 3, 2, 0], np.float32)


def test_weights_in_the_log_are_those_before_the_population():
    labels, own = np.array([0, 1, -1, 0], np.int8), np.array([0.5, 3, 2, 0], np.float32)
    assert log_weights(QUARTER, labels, np.array([2, 3, 2, 0], np.float32)).tolist() == own.tolist()
    assert log_weights(QUARTER, labels, np.array([4, 1, 1, 4], np.float32)).tolist() == [1, 1, 1, 1]
    assert log_weights(ALL, labels, own) is own


def test_a_log_of_all_rows_is_the_population():
    p, weights = np.array([0.1], np.float32), np.array([2], np.float32)
    assert (logit_shift(ALL), population_probability(ALL, p)) == (0, p)
    assert population_weights(ALL, np.zeros(1, np.int8), weights) is weights
    assert population_weights(ALL, np.zeros(1, np.int8), None) is None


def population():
    """Return labels and indices of a population, and which samples a log with exactly a quarter of the negatives keeps."""
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.4).astype(np.int8)
    repeats = np.where(labels == 1, 1, 4)  # negatives come in groups of four
    place = np.repeat(np.arange(400), repeats)
    kept = np.diff(place, prepend=-1) > 0
    return np.repeat(labels, repeats), place, kept


def test_figures_of_the_log_are_those_of_the_population_it_was_taken_from():
    labels, place, kept = population()
    in_log = np.random.default_rng(1).random(400).astype(np.float32)
    probability = population_probability(QUARTER, in_log)
    weights = population_weights(QUARTER, labels[kept], None)
    found = binary_metrics(labels[kept], probability, weights).asdict()
    expected = binary_metrics(labels, probability[place]).asdict()
    assert found.pop("weight") == expected.pop("rows") == len(labels)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name
    assert found["base_rate"] == pytest.approx(labels.mean(), rel=1e-12)
    assert found["base_rate"] < 0.6 * labels[kept].mean()


def test_a_model_of_the_click_rates_of_a_log_is_calibrated_only_after_the_correction():
    labels, place, kept = population()
    group = np.arange(400) % 4
    clicks = [labels[kept][group == g].mean() for g in range(4)]
    in_log = np.array(clicks)[group].astype(np.float32)
    weights = population_weights(QUARTER, labels[kept], None)
    corrected = population_probability(QUARTER, in_log)
    assert binary_metrics(labels[kept], corrected, weights).calibration == pytest.approx(1, abs=1e-6)
    assert binary_metrics(labels[kept], in_log, weights).calibration > 1.5
    rates = [labels[group[place] == g].mean() for g in range(4)]
    np.testing.assert_allclose(corrected[:4], rates, rtol=1e-6)
    bins = calibration_bins(labels[kept], corrected, weights=weights)
    for found in bins:
        assert math.isclose(found.mean_probability, found.click_rate, rel_tol=1e-6)
