"""Curves of one set of predictions: ROC, precision and recall, and gain by threshold; calibration by bin.

A threshold calls the samples at or above it clicks. Every distinct probability is one, counted exactly from one sort; a
curve keeps only as many points as a plot can show.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.metrics.binary import check_predictions
from dlrm_adahessian.metrics.ranking import (
    Labels,
    Probabilities,
    cut_between_ties,
    sorted_keys,
    tie_counts,
)

_Counts = npt.NDArray[np.int64]
_Shares = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """Thresholds from above the highest probability, which calls nothing a click, down to the lowest.

    Attributes:
        threshold: (T,) float64, falling, the first one infinite.
        hits: (T,) int64, clicks among the samples called clicks.
        called: (T,) int64, samples called clicks; the last is N.
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


def curve(labels: Labels, probability: Probabilities, points: int = 512) -> Curve:
    """Return the curve of one set of predictions.

    Args:
        labels: (N,) int8, 0 or 1, both among them.
        probability: (N,) float32 or float64 in [0, 1].
        points: thresholds to keep at most, at least 2; evenly spaced in the samples called clicks, and both ends.

    Returns:
        The curve.

    Raises:
        ValueError: `points` is below 2, a class is absent, or the predictions break the rule of `check_predictions`.
    """
    if points < 2:
        raise ValueError(f"a curve keeps at least its 2 ends, got points={points}")
    check_predictions(labels, probability)
    clicks = int(np.count_nonzero(labels))
    if not 0 < clicks < len(labels):
        raise ValueError(f"a curve needs clicks and non-clicks, got {clicks} clicks of {len(labels)} rows")
    keys = sorted_keys(labels, probability)
    others, positives = (counts[::-1] for counts in tie_counts(keys >> 1, keys & 1))
    hits, called = np.cumsum(positives), np.cumsum(others + positives)
    average_precision = float((positives * (hits / called)).sum() / clicks)
    # The last sample of each group of ties, from the highest probability down.
    values = (keys >> 1).view(probability.dtype)[len(keys) - called]
    kept = np.unique(np.searchsorted(called, len(keys) * np.arange(1, points) // (points - 1)))
    return Curve(
        threshold=np.concatenate(([np.inf], values[kept].astype(np.float64))),
        hits=np.concatenate(([0], hits[kept])),
        called=np.concatenate(([0], called[kept])),
        average_precision=average_precision,
    )


class CalibrationBin(NamedTuple):
    """Samples of similar probability: how many, what was predicted, what happened."""

    rows: int
    mean_probability: float
    click_rate: float


def calibration_bins(labels: Labels, probability: Probabilities, bins: int = 10) -> list[CalibrationBin]:
    """Group samples by rising probability into bins of equal count, as far as ties allow.

    Samples of equal probability share a bin, so the order of the samples does not matter; a bin that ties empty
    is left out, and a constant predictor gets one bin.

    Args:
        labels: (N,) int8, 0 or 1.
        probability: (N,) float32 or float64 in [0, 1].
        bins: most bins to return, at least 1.

    Returns:
        The bins by rising probability; their rows add up to N.

    Raises:
        ValueError: `bins` is below 1, or the predictions break the rule of `check_predictions`.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}; 10 is usual")
    check_predictions(labels, probability)
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


def expected_calibration_error(bins: Iterable[CalibrationBin]) -> float | None:
    """Return the mean gap between predicted and actual click rate, weighted by samples; None for no samples."""
    table = list(bins)
    rows = sum(entry.rows for entry in table)
    gap = math.fsum(entry.rows * abs(entry.mean_probability - entry.click_rate) for entry in table)
    return gap / rows if rows else None
