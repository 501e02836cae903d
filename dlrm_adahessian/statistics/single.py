"""Intervals of one model's figures over the draw of rows.

AUC by DeLong, accuracy by Wilson's score interval, log loss as a mean. Normalized entropy and calibration are ratios of
means over the same rows, of which numerator and denominator vary together: their errors are those of the linearized
ratio (delta method), each row's share of the first-order change. All treat rows as independent draws and say nothing about
how another seed would have trained.
"""

import dataclasses
import math

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from dlrm_adahessian.metrics import Labels, Probabilities, check_predictions, row_correct, row_log_losses
from dlrm_adahessian.statistics.delong import delong_auc, rarer_class
from dlrm_adahessian.statistics.intervals import Interval, student_interval


@dataclasses.dataclass(frozen=True, kw_only=True)
class FigureIntervals:
    """95% intervals (low, high) of the figures of `BinaryMetrics`; None where rows or clicks are too few for one."""

    auc_ci95: Interval | None = None
    accuracy_ci95: Interval | None = None
    logloss_ci95: Interval | None = None
    normalized_entropy_ci95: Interval | None = None
    calibration_ci95: Interval | None = None

    def asdict(self) -> dict[str, Interval | None]:
        """Return the intervals by name, ready for JSON."""
        return dataclasses.asdict(self)


def figure_intervals(labels: Labels, probability: Probabilities) -> FigureIntervals:
    """Return the intervals of one set of predictions; refuses what `check_predictions` refuses.

    Args:
        labels: (N,) 0 or 1.
        probability: (N,) float32 or float64 in [0, 1].

    Returns:
        The intervals; None for fewer than two rows, and where a figure needs both classes, for fewer than two rows of one.
    """
    check_predictions(labels, probability)
    rows = len(labels)
    if rows < 2:
        return FigureIntervals()
    losses = row_log_losses(labels, probability)
    correct = int(np.count_nonzero(row_correct(labels, probability)))
    both = rarer_class(labels) >= 2
    return FigureIntervals(
        auc_ci95=delong_auc(labels, probability).ci95 if both else None,
        accuracy_ci95=proportion_interval(correct, rows),
        logloss_ci95=_mean_interval(float(losses.mean()), losses),
        normalized_entropy_ci95=_normalized_entropy(labels, losses) if both else None,
        calibration_ci95=_calibration(labels, probability) if labels.any() else None,
    )


def proportion_interval(count: int, rows: int) -> Interval:
    """Return Wilson's 95% interval of `count` of `rows`, at least 1; it holds its level for few rows and rare events."""
    found = binomtest(count, rows).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


def _normalized_entropy(labels: Labels, losses: npt.NDArray[np.float64]) -> Interval:
    """L / H(c) of mean log loss L and click rate c, H the entropy: d(NE) = dL / H - L H'(c) dc / H**2."""
    rate, loss = float(labels.mean()), float(losses.mean())
    entropy = -rate * math.log(rate) - (1 - rate) * math.log1p(-rate)
    slope = math.log1p(-rate) - math.log(rate)
    return _mean_interval(loss / entropy, losses / entropy - labels * (loss * slope / entropy**2))


def _calibration(labels: Labels, probability: Probabilities) -> Interval:
    """P / c of mean probability P and click rate c: d(P / c) = dP / c - P dc / c**2."""
    rate, mean = float(labels.mean()), float(probability.mean(dtype=np.float64))
    return _mean_interval(mean / rate, probability / rate - labels * (mean / rate**2))


def _mean_interval(figure: float, changes: npt.NDArray[np.float64]) -> Interval:
    """Return the normal interval of a figure whose first-order change is the mean of `changes`."""
    return student_interval(figure, float(changes.std(ddof=1, dtype=np.float64)) / math.sqrt(len(changes)))
