"""Figures of predictions, with intervals: of each model, of its differences to the first one, and of slices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.schema import NO_LABEL
from dlrm_adahessian.evaluation.slices import Slice
from dlrm_adahessian.metrics.binary import (
    Labels,
    binary_metrics,
    calibration_bins,
    expected_calibration_error,
    row_log_losses,
)
from dlrm_adahessian.statistics.comparison import compare_predictions
from dlrm_adahessian.statistics.multiplicity import holm
from dlrm_adahessian.statistics.paired import paired_mean_difference
from dlrm_adahessian.statistics.single import figure_intervals

Scored = Mapping[str, npt.NDArray[np.float32]]


def model_figures(labels: Labels, probability: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Return the figures of one model as JSON values.

    Args:
        labels: (N,) 0 or 1.
        probability: (N,).

    Returns:
        Those of `BinaryMetrics` without the number of rows, their intervals, calibration error and bins.
    """
    bins = calibration_bins(labels, probability)
    return {
        **_with_intervals(labels, probability),
        "expected_calibration_error": expected_calibration_error(bins),
        "calibration_bins": [entry._asdict() for entry in bins],
    }


def differences(labels: Labels, scored: Scored) -> list[dict[str, Any]]:
    """Return each later model minus the first one, on the same rows, as JSON values.

    Args:
        labels: (N,) 0 or 1.
        scored: predictions of each model, (N,).

    Returns:
        For each later model the differences with their intervals, and the p value of the log loss, adjusted by Holm
        over the models.
    """
    first, *others = scored
    return _adjusted(
        [
            {
                **_logloss_difference(labels, name, first, scored),
                **compare_predictions(labels, scored[name], scored[first]).asdict(),
            }
            for name in others
        ]
    )


def slice_figures(labels: Labels, scored: Scored, slices: Sequence[Slice]) -> list[dict[str, Any]]:
    """Return the figures of slices as JSON values.

    Args:
        labels: (N,) 0, 1 or `NO_LABEL`.
        scored: predictions of each model, (N,).
        slices: of these rows.

    Returns:
        For each slice with labelled rows its name, their number, clicks, the figures of each model with intervals, and
        for each later model the difference of the log loss to the first, p values adjusted by Holm over the slices and
        models.
    """
    found: list[dict[str, Any]] = []
    for part in slices:
        rows = part.rows[labels[part.rows] != NO_LABEL]
        if not len(rows):
            continue
        y, here = labels[rows], {name: probability[rows] for name, probability in scored.items()}
        first, *others = here
        found.append(
            {
                "slice": part.label,
                "rows": len(rows),
                "clicks": int(np.count_nonzero(y)),
                "models": {name: _with_intervals(y, probability) for name, probability in here.items()},
                "differences": [_logloss_difference(y, name, first, here) for name in others],
            }
        )
    _adjusted([difference for entry in found for difference in entry["differences"]])
    return found


def _with_intervals(labels: Labels, probability: npt.NDArray[np.float32]) -> dict[str, Any]:
    figures = {k: v for k, v in binary_metrics(labels, probability).asdict().items() if k != "rows"}
    return {**figures, **figure_intervals(labels, probability).asdict()}


def _logloss_difference(labels: Labels, name: str, first: str, scored: Scored) -> dict[str, Any]:
    """Return the difference with its own p value as `p_adjusted`, for `_adjusted` to replace."""
    named = {"model": name, "against": first}
    if len(labels) < 2:
        return {**named, "logloss": None, "logloss_ci95": None, "p_adjusted": None}
    ours, theirs = (row_log_losses(labels, scored[key]) for key in (name, first))
    found = paired_mean_difference(ours, theirs)
    return {**named, "logloss": found.estimate, "logloss_ci95": found.ci95, "p_adjusted": found.p_value}


def _adjusted(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adjust the p values of a family, in place."""
    family = [entry for entry in found if entry["p_adjusted"] is not None]
    for entry, p in zip(family, holm([entry["p_adjusted"] for entry in family]), strict=True):
        entry["p_adjusted"] = p
    return found
