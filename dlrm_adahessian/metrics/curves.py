"""What each threshold on the probability would do: the curves of ROC, precision and recall, and gain.

A threshold calls the rows at or above it clicks. Every distinct probability is one, counted exactly from one sort; a
curve keeps only as many points as a plot can show.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.metrics.binary import check_predictions
from dlrm_adahessian.metrics.ranking import Labels, Probabilities, sorted_keys, tie_counts

_Counts = npt.NDArray[np.int64]
_Shares = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """Thresholds from above the highest probability, which calls nothing a click, down to the lowest.

    Attributes:
        threshold: (T,) float64, falling, the first one infinite.
        hits: (T,) int64, clicks among the rows called clicks.
        called: (T,) int64, rows called clicks; the last is N.
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
        """Rows called clicks, over all rows."""
        return self.called / self.called[-1]


def curve(labels: Labels, probability: Probabilities, points: int = 512) -> Curve:
    """Return the curve of one set of predictions.

    Args:
        labels: (N,) int8, 0 or 1, both among them.
        probability: (N,) float32 or float64 in [0, 1].
        points: thresholds to keep at most, at least 2; evenly spaced in the rows called clicks, and both ends.

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
    # The last row of each group of ties, from the highest probability down.
    values = (keys >> 1).view(probability.dtype)[len(keys) - called]
    kept = np.unique(np.searchsorted(called, len(keys) * np.arange(1, points) // (points - 1)))
    return Curve(
        threshold=np.concatenate(([np.inf], values[kept].astype(np.float64))),
        hits=np.concatenate(([0], hits[kept])),
        called=np.concatenate(([0], called[kept])),
        average_precision=average_precision,
    )
