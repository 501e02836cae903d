"""Compute curves of one set of predictions by threshold (ROC, precision, recall, gain), and calibration by bin.

A threshold predicts a click for all samples at or above it. Every distinct probability is a threshold, counted exactly
from one sort. A curve stores only as many points as a plot can show.

With weights, a sample of weight w counts as w samples.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.metrics.binary import check_predictions
from dlrm_adahessian.metrics.means import Weights, effective_rows, of_weight
from dlrm_adahessian.metrics.ranking import (
    Labels,
    Probabilities,
    cut_between_ties,
    rarer_class,
    sorted_keys,
    tie_counts,
    tie_starts,
    tie_weights,
)

_Counts = npt.NDArray[np.int64] | npt.NDArray[np.float64]
_Shares = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """Hold counts by threshold, from infinity, which predicts no click, down to the lowest probability.

    Attributes:
        threshold: (T,) float64, decreasing; the first one is infinite.
        hits: (T,) int64, true positives; with weights (T,) float64, their weight.
        called: (T,) like `hits`, predicted positives; the last is N.
        average_precision: mean over clicks of the precision at the click's probability, from all thresholds and not
            only the stored ones.
    """

    threshold: _Shares
    hits: _Counts
    called: _Counts
    average_precision: float

    @property
    def recall(self) -> _Shares:
        """True positives divided by all clicks: recall, the true positive rate of ROC, and the gain."""
        return self.hits / self.hits[-1]

    @property
    def false_positive_rate(self) -> _Shares:
        """False positives divided by all non-clicks."""
        wrong = self.called - self.hits
        return wrong / wrong[-1]

    @property
    def precision(self) -> _Shares:
        """True positives divided by predicted positives; by convention 1 without predicted positives."""
        return np.divide(self.hits, self.called, out=np.ones(len(self.hits)), where=self.called > 0)

    @property
    def share_called(self) -> _Shares:
        """Predicted positives divided by all samples."""
        return self.called / self.called[-1]


def curve(
    labels: Labels, probability: Probabilities, points: int = 512, weights: Weights | None = None
) -> Curve:
    """Return the curve of one set of predictions.

    Args:
        labels: (N,) int8, 0 and 1, both present.
        probability: (N,) float32 or float64 in [0, 1].
        points: maximum number of thresholds to store, at least 2: both ends, and others evenly spaced in the number of
            predicted positives.
        weights: (N,) see `binary_metrics`; both classes must have positive weight.

    Returns:
        The curve.

    Raises:
        ValueError: `points` is below 2, a class is absent, or `check_predictions` rejects the predictions.
    """
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}. A curve stores both of its ends.")
    check_predictions(labels, probability, weights)
    weighed, labels, probability = of_weight(weights, labels, probability)
    if not rarer_class(labels):
        clicks = int(np.count_nonzero(labels))
        raise ValueError(
            f"A curve needs clicks and non-clicks, got {clicks} clicks in {len(labels)} samples."
        )
    scores, others, positives = (values[::-1] for values in _ties(labels, probability, weighed))
    hits, called = np.cumsum(positives), np.cumsum(others + positives)
    average_precision = float((positives * (hits / called)).sum() / hits[-1])
    ends = called[-1] * np.arange(1, points)
    kept = np.unique(
        np.searchsorted(called, ends // (points - 1) if weighed is None else ends / (points - 1))
    )
    kept = kept[kept < len(called)]  # with weights, the last end is rounded
    return Curve(
        threshold=np.concatenate(([np.inf], scores[kept].astype(np.float64))),
        hits=np.concatenate(([0], hits[kept])),
        called=np.concatenate(([0], called[kept])),
        average_precision=average_precision,
    )


def _ties(
    labels: Labels, probability: Probabilities, weights: npt.NDArray[np.float64] | None
) -> tuple[npt.NDArray[np.floating], _Counts, _Counts]:
    """Return the distinct probabilities in ascending order, and the number or weight of non-clicks and clicks of each."""
    if weights is not None:
        order = np.argsort(probability)
        scores = probability[order]
        return scores[tie_starts(scores)], *tie_weights(scores, labels[order], weights[order])
    keys = sorted_keys(labels, probability)
    bits = keys >> 1
    return bits[tie_starts(bits)].view(probability.dtype), *tie_counts(bits, keys & 1)


class CalibrationBin(NamedTuple):
    """Compare prediction and outcome for samples of similar probability.

    Attributes:
        rows: number of samples.
        mean_probability: mean predicted probability.
        click_rate: share of clicks.
        weight: sum of weights; None without weights.
        effective_rows: number of equally weighted samples that would give the same variance of the click rate; None
            without weights.
    """

    rows: int
    mean_probability: float
    click_rate: float
    weight: float | None = None
    effective_rows: float | None = None

    def asdict(self) -> dict[str, float]:
        """Return JSON values, with those about weights only if there are weights."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def calibration_bins(
    labels: Labels, probability: Probabilities, bins: int = 10, weights: Weights | None = None
) -> list[CalibrationBin]:
    """Group samples by ascending probability into bins of equal count, as far as ties allow.

    Samples of equal probability share a bin, so the order of samples does not matter. Bins that ties leave empty are
    omitted, and a constant prediction gets one bin. With weights, bins have equal weight. Integer weights give the bins of
    repeated samples if the number of bins divides the total weight.

    Args:
        labels: (N,) int8, 0 or 1.
        probability: (N,) float32 or float64 in [0, 1].
        bins: maximum number of bins, at least 1.
        weights: (N,) see `binary_metrics`.

    Returns:
        The bins by ascending probability. Their `rows` sum to N minus the samples of weight 0.

    Raises:
        ValueError: `bins` is below 1, or `check_predictions` rejects the predictions.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}. A common choice is 10.")
    check_predictions(labels, probability, weights)
    weighed, labels, probability = of_weight(weights, labels, probability)
    if weighed is not None:
        return _weighted_bins(labels, probability, bins, weighed)
    keys = sorted_keys(labels, probability)
    cuts = (len(keys) * (i + 1) // bins for i in range(bins))
    return [
        CalibrationBin(
            len(part),
            float((part >> 1).view(probability.dtype).mean(dtype=np.float64)),
            float((part & 1).mean(dtype=np.float64)),
        )
        for part in cut_between_ties(keys, cuts)
    ]


def cuts_of_weight(
    scores: npt.NDArray[np.generic], weights: npt.NDArray[np.float64], parts: int
) -> npt.NDArray[np.int64]:
    """Return where to split sorted scores (N,) into parts of equal weight without splitting ties.

    Args:
        scores: (N,) in ascending order, N at least 1.
        weights: (N,) above 0.
        parts: maximum number of parts.

    Returns:
        (at most `parts`,) ends of the parts in ascending order; the last is N.
    """
    ends = np.append(tie_starts(scores)[1:], len(scores))
    reached = np.cumsum(weights)[ends - 1]
    places = np.searchsorted(reached, reached[-1] * np.arange(1, parts + 1) / parts)
    return ends[np.unique(np.minimum(places, len(ends) - 1))]


def expected_calibration_error(bins: Iterable[CalibrationBin]) -> float | None:
    """Return the mean absolute gap between predicted and actual click rate, weighted by samples; None without samples."""
    table = list(bins)
    sizes = [entry.rows if entry.weight is None else entry.weight for entry in table]
    gaps = (abs(entry.mean_probability - entry.click_rate) for entry in table)
    gap = math.fsum(size * gap for size, gap in zip(sizes, gaps, strict=True))
    return gap / sum(sizes) if table else None


def _weighted_bins(
    labels: Labels, probability: Probabilities, bins: int, weights: npt.NDArray[np.float64]
) -> list[CalibrationBin]:
    if not len(labels):
        return []
    order = np.argsort(probability, kind="stable")
    parts = np.split(order, cuts_of_weight(probability[order], weights[order], bins)[:-1])
    found: list[CalibrationBin] = []
    for part in parts:
        of_part, clicked = weights[part], labels[part] != 0
        found.append(
            CalibrationBin(
                rows=len(part),
                mean_probability=float(np.average(probability[part].astype(np.float64), weights=of_part)),
                click_rate=float(np.average(clicked, weights=of_part)),
                weight=float(of_part.sum()),
                effective_rows=effective_rows(clicked, of_part),
            )
        )
    return found
