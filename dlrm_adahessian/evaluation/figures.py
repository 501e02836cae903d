"""Compute metrics of predictions with intervals: of each model, of differences from the first one, and of slices."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.rows import NO_LABEL
from dlrm_adahessian.evaluation.results import (
    Figures,
    LoglossDifference,
    ModelDifference,
    ModelFigures,
    SliceFigures,
    Source,
)
from dlrm_adahessian.evaluation.slices import Slice
from dlrm_adahessian.metrics.binary import METRICS, binary_metrics
from dlrm_adahessian.metrics.curves import calibration_bins
from dlrm_adahessian.metrics.means import Weights, of_weight
from dlrm_adahessian.metrics.ranking import Labels, Probabilities
from dlrm_adahessian.statistics.comparison import compare_predictions, paired_difference
from dlrm_adahessian.statistics.intervals import PairedDifference, holm
from dlrm_adahessian.statistics.single import metric_intervals

Scored = Mapping[str, Probabilities]


def model_figures(
    name: str,
    source: Source | None,
    labels: Labels,
    probability: Probabilities,
    weights: Weights | None = None,
) -> ModelFigures:
    """Return the metrics of one model.

    Args:
        name: name of the model.
        source: origin of the model; None for saved predictions.
        labels: (N,) 0 or 1.
        probability: (N,) predictions.
        weights: (N,) number of samples that each one counts for; None for 1 each.

    Returns:
        The metrics; None for N = 0.
    """
    return ModelFigures(
        name=name,
        source=source,
        figures=figures_of(labels, probability, weights) if len(labels) else None,
        calibration_bins=calibration_bins(labels, probability, weights=weights),
    )


def differences(labels: Labels, scored: Scored, weights: Weights | None = None) -> list[ModelDifference]:
    """Return each later model minus the first one, on the same samples.

    Args:
        labels: (N,) 0 or 1, N at least 1.
        scored: predictions of each model, (N,).
        weights: (N,) number of samples that each one counts for; None for 1 each.

    Returns:
        The differences of each later model with intervals, and the p value of the log loss, adjusted by Holm over the
        models.
    """
    first, *others = scored
    found = [compare_predictions(labels, scored[name], scored[first], weights) for name in others]
    adjusted = _adjusted([difference["logloss"] for difference in found])
    return [
        ModelDifference(
            model=name, against=first, logloss=difference["logloss"], p_adjusted=p, difference=difference
        )
        for name, difference, p in zip(others, found, adjusted, strict=True)
    ]


def slice_figures(
    labels: Labels, scored: Scored, slices: Sequence[Slice], weights: Weights | None = None
) -> list[SliceFigures]:
    """Return the metrics of all slices with labeled samples.

    Args:
        labels: (N,) 0, 1, or `NO_LABEL`.
        scored: predictions of each model, (N,).
        slices: slices of these samples.
        weights: (N,) number of samples that each one counts for; None for 1 each.

    Returns:
        For each slice, the metrics of each model with intervals, and the log loss of each later model minus that of the
        first one, with p values adjusted by Holm over slices and models.
    """
    labelled = [(part.label, part.rows[labels[part.rows] != NO_LABEL]) for part in slices]
    labelled = [(label, samples) for label, samples in labelled if len(samples)]
    first, *others = scored

    def weights_of(samples: npt.NDArray[np.int64]) -> Weights | None:
        return None if weights is None else weights[samples]

    found = [
        _logloss_difference(
            labels[samples], scored[name][samples], scored[first][samples], weights_of(samples)
        )
        for _, samples in labelled
        for name in others
    ]
    adjusted = iter(zip(found, _adjusted(found), strict=True))
    return [
        SliceFigures(
            label=label,
            samples=len(samples),
            clicks=int(np.count_nonzero(labels[samples])),
            models={
                name: figures_of(labels[samples], probability[samples], weights_of(samples))
                for name, probability in scored.items()
            },
            differences=[
                LoglossDifference(model=name, against=first, logloss=logloss, p_adjusted=p)
                for name, (logloss, p) in zip(others, adjusted, strict=False)
            ],
        )
        for label, samples in labelled
    ]


def figures_of(labels: Labels, probability: Probabilities, weights: Weights | None) -> Figures:
    """Return the metrics of N samples with intervals. Arguments are those of `binary_metrics`."""
    return Figures(
        metrics=binary_metrics(labels, probability, weights),
        intervals=metric_intervals(labels, probability, weights),
    )


def _logloss_difference(
    labels: Labels,
    ours: Probabilities,
    theirs: Probabilities,
    weights: Weights | None,
) -> PairedDifference | None:
    metric = METRICS["logloss"]
    _, of_weight_above_0 = of_weight(weights, labels)
    if metric.lacking(of_weight_above_0):
        return None
    return paired_difference(metric, labels, ours, theirs, weights)


def _adjusted(family: Sequence[PairedDifference | None]) -> list[float | None]:
    """Return p values of a family of differences, adjusted by Holm; None stays None."""
    adjusted = iter(holm([found.p_value for found in family if found is not None]))
    return [None if found is None else next(adjusted) for found in family]
