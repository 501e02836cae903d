"""Intervals for differences between two sets of predictions, and between runs over seeds.

AUC: DeLong, DeLong, Clarke-Pearson, "Comparing the Areas under Two or More Correlated Receiver Operating
Characteristic Curves" (1988), in the O(N log N) form of Sun and Xu (2014), except that the placement of
every row is counted in one sort per model, where they rank three times. The variance is taken of the
paired differences of placements, which avoids the cancellation of var(a) + var(b) - 2 cov(a, b).

Accuracy and log loss: the normal interval of the mean of paired per-row differences.

These treat rows as independent draws. They say nothing about how another seed would have trained;
`seed_interval` does.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit

from dlrm_adahessian.metrics import (
    Labels,
    Probabilities,
    check_predictions,
    row_correct,
    row_log_losses,
    tie_counts,
)

_TWO_SIDED_95 = 0.975  # quantile that leaves 2.5% on each side

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AucEstimate:
    """One AUC with its DeLong standard error and 95% interval, cut to [0, 1]."""

    auc: float
    standard_error: float
    ci95: Interval


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """A difference a - b of two models on the same rows.

    Attributes:
        estimate: a - b.
        standard_error: of `estimate`, over the draw of rows; 0 when all rows agree.
        ci95: normal 95% interval (low, high).
        p_value: two-sided, of no difference; 1 when both models agree on every row.
    """

    estimate: float
    standard_error: float
    ci95: Interval
    p_value: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """Ours minus the baseline on the same rows, with 95% intervals (low, high).

    The intervals cover the chance of the rows for this one pair of runs, not that of seeds: training both
    again moves the figures by an amount that only several seeds can show. None where too few rows, or too
    few of a class, leave a figure undefined.
    """

    auc: float | None = None
    auc_ci95: Interval | None = None
    accuracy: float | None = None
    accuracy_ci95: Interval | None = None
    logloss: float | None = None
    logloss_ci95: Interval | None = None

    def asdict(self) -> dict[str, float | Interval | None]:
        """Return the figures by name, ready for JSON."""
        return dataclasses.asdict(self)


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
    return _difference(*_mean_over_classes(labels, _placements(labels, a) - _placements(labels, b)))


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
    auc, standard_error = _mean_over_classes(labels, _placements(labels, probability))
    low, high = _normal_interval(auc, standard_error)
    return AucEstimate(auc=auc, standard_error=standard_error, ci95=(max(low, 0.0), min(high, 1.0)))


def paired_mean_difference(
    a_losses: npt.NDArray[np.generic], b_losses: npt.NDArray[np.generic]
) -> PairedDifference:
    """Return mean(a - b) with the normal interval of a mean of paired rows.

    Args:
        a_losses: (N,) a figure per row whose mean matters: log loss, or correctness as bool; N at least 2.
        b_losses: (N,) the same figure of the other model, same rows.

    Returns:
        The paired difference.

    Raises:
        ValueError: the lengths differ, there are fewer than two rows, or a value is not finite.
    """
    if a_losses.ndim != 1 or a_losses.shape != b_losses.shape or len(a_losses) < 2:
        raise ValueError(
            f"both models need one value for each of the same rows, at least 2, got {a_losses.shape} and "
            f"{b_losses.shape}; pair the rows first"
        )
    a, b = a_losses.astype(np.float64), b_losses.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("per-row values must be finite, got NaN or infinity; drop the diverged run")
    difference = a - b
    mean = float(difference.mean())
    return _difference(mean, float(difference.std(ddof=1)) / math.sqrt(len(difference)))


def compare_predictions(labels: Labels, ours: Probabilities, baseline: Probabilities) -> Difference:
    """Return ours minus baseline in AUC, accuracy and log loss, with 95% intervals over the rows.

    The intervals cover the chance of the rows for this one pair of runs, not that of seeds.

    Args:
        labels: (N,) 0 or 1.
        ours: (N,) float32 or float64 in [0, 1].
        baseline: (N,) like `ours`, for the same rows.

    Returns:
        The differences; those of fewer than two rows (AUC: two of each class) are None.
    """
    check_predictions(labels, ours)
    check_predictions(labels, baseline)
    if len(labels) < 2:
        return Difference()
    accuracy = paired_mean_difference(row_correct(labels, ours), row_correct(labels, baseline))
    logloss = paired_mean_difference(row_log_losses(labels, ours), row_log_losses(labels, baseline))
    auc = delong(labels, ours, baseline) if _rarer_class(labels) >= 2 else None
    return Difference(
        auc=auc.estimate if auc else None,
        auc_ci95=auc.ci95 if auc else None,
        accuracy=accuracy.estimate,
        accuracy_ci95=accuracy.ci95,
        logloss=logloss.estimate,
        logloss_ci95=logloss.ci95,
    )


def seed_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, low and high of Student's 95% interval over per-seed differences.

    Covers seeds and rows together when each seed is one paired difference; assumes that the differences
    are about normal.

    Args:
        differences: one figure per seed, ours minus baseline; at least two.

    Returns:
        Mean, lower and upper end.

    Raises:
        ValueError: fewer than two differences, or one is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"an interval needs at least 2 finite differences, got {list(differences)}; run more seeds"
        )
    mean = float(values.mean())
    half = float(stdtrit(len(values) - 1, _TWO_SIDED_95) * values.std(ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def _placements(labels: Labels, probability: Probabilities) -> npt.NDArray[np.float64]:
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
    placements = np.empty(len(labels))
    placements[order] = np.where(clicked, np.repeat(beaten, sizes), np.repeat(beaten_by, sizes))
    return placements


def _mean_over_classes(labels: Labels, values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean of placements and its standard error: the classes' variances over counts, added."""
    of_clicks, of_others = values[labels != 0], values[labels == 0]
    variance = of_clicks.var(ddof=1) / len(of_clicks) + of_others.var(ddof=1) / len(of_others)
    return float(of_clicks.mean()), math.sqrt(variance)


def _difference(estimate: float, standard_error: float) -> PairedDifference:
    """Add the normal interval and p value; without any spread a non-zero difference has p 0."""
    p_value = float(2 * ndtr(-abs(estimate) / standard_error)) if standard_error > 0 else float(estimate == 0)
    return PairedDifference(
        estimate=estimate,
        standard_error=standard_error,
        ci95=_normal_interval(estimate, standard_error),
        p_value=p_value,
    )


def _normal_interval(estimate: float, standard_error: float) -> Interval:
    """Return the central 95% of a normal distribution around `estimate`."""
    half = float(ndtri(_TWO_SIDED_95)) * standard_error
    return estimate - half, estimate + half


def _rarer_class(labels: Labels) -> int:
    """Return how many rows the smaller class has."""
    clicks = int(np.count_nonzero(labels))
    return min(clicks, len(labels) - clicks)


def _check_classes(labels: Labels, probability: Probabilities) -> None:
    """Refuse predictions whose AUC has no standard error."""
    check_predictions(labels, probability)
    if (rarer := _rarer_class(labels)) < 2:
        raise ValueError(
            f"the standard error of an AUC needs two rows of each class, got {rarer} of the rarer one; "
            "evaluate on more rows"
        )
