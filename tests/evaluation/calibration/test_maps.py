"""Calibration maps follow their formulas, rise, and shift with the logits."""

import numpy as np
import pydantic
import pytest
from scipy.special import expit

from dlrm_adahessian.evaluation.calibration.maps import IsotonicMap, PlattMap

PLATT = PlattMap(slope=0.5, intercept=-1.0)
ISOTONIC = IsotonicMap(thresholds=[-2.0, -1.0, 1.0], values=[-3.0, -1.0, 0.0])
LOGITS = np.linspace(-90, 17, 10_001, dtype=np.float32)


def test_a_line_and_points() -> None:
    np.testing.assert_array_equal(PLATT(np.array([-4.0, 0.0, 2.0])), [-3.0, -1.0, 0.0])
    found = ISOTONIC(np.array([-90.0, -2.0, -1.5, -1.0, 0.0, 0.5, 1.0, 17.0]))
    np.testing.assert_array_equal(found, [-3, -3, -2, -1, -0.5, -0.25, 0, 0])
    assert (PLATT.steepest, ISOTONIC.steepest) == (0.5, 2.0)


@pytest.mark.parametrize("map_", [PLATT, ISOTONIC], ids=["platt", "isotonic"])
def test_no_sample_overtakes_another(map_) -> None:
    found = map_(LOGITS)
    assert found.dtype == np.float64
    assert (np.diff(found) >= 0).all()
    assert (np.diff(found) <= (map_.steepest + 1e-9) * np.diff(LOGITS.astype(np.float64))).all()


@pytest.mark.oracle
@pytest.mark.parametrize("map_", [PLATT, ISOTONIC], ids=["platt", "isotonic"])
def test_a_map_moved_to_the_population_corrects_what_the_map_of_the_log_says(map_) -> None:
    """In a log that keeps a share r of the samples without a click, q = p / (p + (1 - p) / r)."""
    rate = 0.05
    in_log = expit(map_(LOGITS))
    expected = in_log / (in_log + (1 - in_log) / rate)
    served = LOGITS.astype(np.float64) + np.log(rate)
    np.testing.assert_allclose(expit(map_.shifted(np.log(rate))(served)), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "said",
    [
        {"slope": 0.0, "intercept": 0.0},
        {"slope": -1.0, "intercept": 0.0},
        {"slope": float("nan"), "intercept": 0.0},
        {"slope": float("inf"), "intercept": 0.0},
        {"slope": 1.0, "intercept": float("nan")},
        {"slope": 1e7, "intercept": 0.0},
        {"slope": 1.0, "intercept": -1e7},
        {"slope": 1.0},
    ],
)
def test_a_line_that_does_not_rise_is_none(said) -> None:
    with pytest.raises(pydantic.ValidationError):
        PlattMap(**said)


@pytest.mark.parametrize(
    ("thresholds", "values"),
    [
        ([0.0, 1.0], [1.0, 0.0]),
        ([1.0, 0.0], [0.0, 1.0]),
        ([0.0, 0.0], [0.0, 1.0]),
        ([0.0, 1 / 65], [0.0, 1.0]),
        ([0.0, 1.0, 2.0], [0.0, 1.0]),
        ([0.0], [0.0]),
        ([], []),
        ([0.0, float("nan")], [0.0, 1.0]),
        ([0.0, 1.0], [0.0, float("inf")]),
        ([0.0, 1.0], [-1e7, 1.0]),
        (np.arange(2050).tolist(), np.arange(2050).tolist()),
    ],
)
def test_points_that_do_not_rise_or_are_too_many_are_none(thresholds, values) -> None:
    with pytest.raises(pydantic.ValidationError):
        IsotonicMap(thresholds=thresholds, values=values)
