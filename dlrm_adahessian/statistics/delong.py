"""The AUC of one model, or the difference of two on the same rows, with its error over the draw of rows.

DeLong, DeLong, Clarke-Pearson, "Comparing the Areas under Two or More Correlated Receiver Operating
Characteristic Curves" (1988), in the O(N log N) form of Sun and Xu (2014), except that the placement of
every row is counted in one sort per model, where they rank three times. The variance is taken of the
paired differences of placements, which avoids the cancellation of var(a) + var(b) - 2 cov(a, b).
"""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.metrics.binary import Labels, Probabilities, check_predictions
from dlrm_adahessian.metrics.ranking import cut_between_ties, sorted_keys, tie_counts
from dlrm_adahessian.statistics.intervals import Interval, student_interval
from dlrm_adahessian.statistics.paired import PairedDifference

_BLOCK = 1 << 20  # rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class AucEstimate:
    """One AUC with its DeLong standard error and 95% interval, cut to [0, 1]."""

    auc: float
    standard_error: float
    ci95: Interval


def delong(labels: Labels, a: Probabilities, b: Probabilities) -> PairedDifference:
    """Return AUC(a) - AUC(b) with its standard error over the rows; refuses fewer than two rows of a class.

    Exact for the estimate; the interval and p value are asymptotic in the count of each class. Where the
    placements differ by a constant (identical rankings among them) the standard error is 0.

    Args:
        labels: (N,) 0 or 1, at least two of each.
        a: (N,) float32 or float64 in [0, 1].
        b: (N,) like `a`, for the same rows.

    Returns:
        The paired difference.
    """
    _check_classes(labels, a)
    check_predictions(labels, b)
    return PairedDifference.normal(*mean_over_classes(labels, placements(labels, a) - placements(labels, b)))


def delong_auc(labels: Labels, probability: Probabilities) -> AucEstimate:
    """Return one AUC with its interval over the rows; refuses fewer than two rows of a class.

    Asymptotic in the count of each class: at an AUC of exactly 0 or 1 the interval is a point, which
    understates the doubt.

    Args:
        labels: (N,) 0 or 1, at least two of each.
        probability: (N,) float32 or float64 in [0, 1].

    Returns:
        The estimate.
    """
    _check_classes(labels, probability)
    auc, standard_error = _auc_and_error(labels, probability)
    low, high = student_interval(auc, standard_error)
    return AucEstimate(auc=auc, standard_error=standard_error, ci95=(max(low, 0.0), min(high, 1.0)))


def _auc_and_error(labels: Labels, probability: Probabilities) -> tuple[float, float]:
    """Return what `mean_over_classes` says of `placements`, from counts of ties, which need no permutation of the rows."""
    clicks = int(np.count_nonzero(labels))
    others = len(labels) - clicks
    keys = sorted_keys(labels, probability)
    auc = 0.0
    squares = np.zeros(2)
    for exact in (False, True):  # the second time around the mean, so that small variances do not cancel
        clicks_below = others_below = 0
        total = 0.0
        for block in cut_between_ties(keys, range(_BLOCK, len(keys) + _BLOCK, _BLOCK)):
            negatives, positives = tie_counts(block >> 1, block & 1)
            beaten = (others_below + np.cumsum(negatives) - 0.5 * negatives) / others
            beaten_by = 1.0 - (clicks_below + np.cumsum(positives) - 0.5 * positives) / clicks
            total += float(positives @ beaten)
            if exact:
                squares += positives @ (beaten - auc) ** 2, negatives @ (beaten_by - auc) ** 2
            clicks_below += int(positives.sum())
            others_below += int(negatives.sum())
        auc = total / clicks
    variance = squares / (clicks - 1, others - 1) / (clicks, others)
    return auc, math.sqrt(variance.sum())


def placements(labels: Labels, probability: Probabilities) -> npt.NDArray[np.float64]:
    """Return each row's share of the other class that it ranks correctly against, ties half.

    Returns:
        (N,) float64 in [0, 1]: for a click the share of non-clicks below it, for a non-click the share of
        clicks above it. Either class averages to the AUC.
    """
    order = np.argsort(probability)
    clicked = labels[order] != 0
    negatives, positives = tie_counts(probability[order], clicked)
    sizes = negatives + positives
    beaten = (np.cumsum(negatives) - 0.5 * negatives) / negatives.sum()
    beaten_by = 1.0 - (np.cumsum(positives) - 0.5 * positives) / positives.sum()
    placed = np.empty(len(labels))
    placed[order] = np.where(clicked, np.repeat(beaten, sizes), np.repeat(beaten_by, sizes))
    return placed


def mean_over_classes(labels: Labels, values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean of placements and its standard error: the classes' variances over counts, added."""
    of_clicks, of_others = values[labels != 0], values[labels == 0]
    variance = of_clicks.var(ddof=1) / len(of_clicks) + of_others.var(ddof=1) / len(of_others)
    return float(of_clicks.mean()), math.sqrt(variance)


def rarer_class(labels: Labels) -> int:
    """Return how many rows the smaller class has."""
    clicks = int(np.count_nonzero(labels))
    return min(clicks, len(labels) - clicks)


def _check_classes(labels: Labels, probability: Probabilities) -> None:
    """Refuse predictions whose AUC has no standard error."""
    check_predictions(labels, probability)
    if (rarer := rarer_class(labels)) < 2:
        raise ValueError(
            f"the standard error of an AUC needs two rows of each class, got {rarer} of the rarer one; "
            "evaluate on more rows"
        )
