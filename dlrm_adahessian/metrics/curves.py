"""Curves of one set of predictions: ROC, precision and recall, and gain by threshold; calibration by bin.

A threshold calls the samples at or above it clicks. Every distinct probability is one, counted exactly from one sort; a
curve keeps only as many points as a plot can show.

With weights a sample of weight w counts as w samples.
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
    """Thresholds from above the highest probability, which calls nothing a click, down to the lowest.

    Attributes:
        threshold: (T,) float64, falling, the first one infinite.
        hits: (T,) int64, clicks among the samples called clicks; their weight, float64, where there are weights.
        called: (T,) like `hits`, samples called clicks; the last is N.
        average_precision: the mean over clicks of the precision at the click's own probability, over all thresholds
            and not only those that are kept.
    """

    threshold: _Shares
    hits: _Counts
    called: _Counts
    average_precision: float

    @property
    def recall(self) -> _Shares:
        """Clicks found, over all clicks; also the share of clicks that a gain curve shows, and ROC's true positive rate."""
        return self.hits / self.hits[-1]

    @property
    def false_positive_rate(self) -> _Shares:
        """Non-clicks called clicks, over all non-clicks."""
        wrong = self.called - self.hits
        return wrong / wrong[-1]

    @property
    def precision(self) -> _Shares:
        """Clicks among what is called clicks; 1 where nothing is called so, by convention."""
        return np.divide(self.hits, self.called, out=np.ones(len(self.hits)), where=self.called > 0)

    @property
    def share_called(self) -> _Shares:
        """Samples called clicks, over all samples."""
        return self.called / self.called[-1]


def curve(
    labels: Labels, probability: Probabilities, points: int = 512, weights: Weights | None = None
) -> Curve:
    """Return the curve of one set of predictions.

    Args:
        labels: (N,) int8, 0 or 1, both among them.
        probability: (N,) float32 or float64 in [0, 1].
        points: thresholds to keep at most, at least 2; evenly spaced in the samples called clicks, and both ends.
        weights: (N,) as `binary_metrics` has them; both classes have some.

    Returns:
        The curve.

    Raises:
        ValueError: `points` is below 2, a class is absent, or the predictions break the rule of `check_predictions`.
    """
    if points < 2:
        raise ValueError(f"a curve keeps at least its 2 ends, got points={points}")
    check_predictions(labels, probability, weights)
    weighed, labels, probability = of_weight(weights, labels, probability)
    if not rarer_class(labels):
        clicks = int(np.count_nonzero(labels))
        raise ValueError(f"a curve needs clicks and non-clicks, got {clicks} clicks of {len(labels)} rows")
    scores, others, positives = (values[::-1] for values in _ties(labels, probability, weighed))
    hits, called = np.cumsum(positives), np.cumsum(others + positives)
    average_precision = float((positives * (hits / called)).sum() / hits[-1])
    ends = called[-1] * np.arange(1, points)
    kept = np.unique(
        np.searchsorted(called, ends // (points - 1) if weighed is None else ends / (points - 1))
    )
    kept = kept[kept < len(called)]  # the last end is rounded with weights
    return Curve(
        threshold=np.concatenate(([np.inf], scores[kept].astype(np.float64))),
        hits=np.concatenate(([0], hits[kept])),
        called=np.concatenate(([0], called[kept])),
        average_precision=average_precision,
    )


def _ties(
    labels: Labels, probability: Probabilities, weights: npt.NDArray[np.float64] | None
) -> tuple[npt.NDArray[np.floating], _Counts, _Counts]:
    """Return the distinct probabilities, rising, and the non-clicks and clicks of each, or their weights."""
    if weights is not None:
        order = np.argsort(probability)
        scores = probability[order]
        return scores[tie_starts(scores)], *tie_weights(scores, labels[order], weights[order])
    keys = sorted_keys(labels, probability)
    bits = keys >> 1
    return bits[tie_starts(bits)].view(probability.dtype), *tie_counts(bits, keys & 1)


class CalibrationBin(NamedTuple):
    """Samples of similar probability: how many, what was predicted, what happened.

    Attributes:
        rows: how many.
        mean_probability: of them.
        click_rate: of them.
        weight: their sum of weights; None without weights.
        effective_rows: of how many rows of equal weight the click rate is as sure; None without weights.
    """

    rows: int
    mean_probability: float
    click_rate: float
    weight: float | None = None
    effective_rows: float | None = None

    def asdict(self) -> dict[str, float]:
        """Return JSON values; those of weights only where there are weights."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def calibration_bins(
    labels: Labels, probability: Probabilities, bins: int = 10, weights: Weights | None = None
) -> list[CalibrationBin]:
    """Group samples by rising probability into bins of equal count, as far as ties allow.

    Samples of equal probability share a bin, so the order of the samples does not matter; a bin that ties empty
    is left out, and a constant predictor gets one bin. With weights the bins are of equal weight; they are those of repeated
    samples where the bins divide the weight.

    Args:
        labels: (N,) int8, 0 or 1.
        probability: (N,) float32 or float64 in [0, 1].
        bins: most bins to return, at least 1.
        weights: (N,) as `binary_metrics` has them.

    Returns:
        The bins by rising probability; their rows add up to N, less those without weight.

    Raises:
        ValueError: `bins` is below 1, or the predictions break the rule of `check_predictions`.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}; 10 is usual")
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
    """Return where to cut sorted scores (N,) into parts of equal weight, each cut after its ties, the last at N.

    Args:
        scores: (N,) rising, N at least 1.
        weights: (N,) above 0.
        parts: most parts.

    Returns:
        (at most `parts`,) rising ends of the parts.
    """
    ends = np.append(tie_starts(scores)[1:], len(scores))
    reached = np.cumsum(weights)[ends - 1]
    places = np.searchsorted(reached, reached[-1] * np.arange(1, parts + 1) / parts)
    return ends[np.unique(np.minimum(places, len(ends) - 1))]


def expected_calibration_error(bins: Iterable[CalibrationBin]) -> float | None:
    """Return the mean gap between predicted and actual click rate, weighted by samples; None for no samples."""
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
