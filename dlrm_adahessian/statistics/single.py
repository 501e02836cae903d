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

from dlrm_adahessian.metrics.binary import (
    Labels,
    Probabilities,
    check_predictions,
    row_correct,
    row_log_losses,
)
from dlrm_adahessian.statistics.delong import delong_auc, rarer_class
from dlrm_adahessian.statistics.intervals import Interval, student_interval

_BLOCK = 1 << 20  # rows; three float64 numbers of each are held at a time


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
    correct = int(np.count_nonzero(row_correct(labels, probability)))
    both = rarer_class(labels) >= 2
    moments = _Moments.of(labels, probability)
    return FigureIntervals(
        auc_ci95=delong_auc(labels, probability).ci95 if both else None,
        accuracy_ci95=proportion_interval(correct, rows),
        logloss_ci95=moments.interval(moments.means[0], (1.0, 0.0, 0.0)),
        normalized_entropy_ci95=_normalized_entropy(moments) if both else None,
        calibration_ci95=_calibration(moments) if labels.any() else None,
    )


def proportion_interval(count: int, rows: int) -> Interval:
    """Return Wilson's 95% interval of `count` of `rows`, at least 1; it holds its level for few rows and rare events."""
    found = binomtest(count, rows).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


@dataclasses.dataclass(frozen=True)
class _Moments:
    """Means (3,) and covariances (3, 3) over N rows of log loss, click and probability."""

    rows: int
    means: npt.NDArray[np.float64]
    covariances: npt.NDArray[np.float64]

    @classmethod
    def of(cls, labels: Labels, probability: Probabilities) -> "_Moments":
        """Take them in blocks, by the update of Chan, Golub, LeVeque (1979)."""
        means, scatter = np.zeros(3), np.zeros((3, 3))
        for start in range(0, len(labels), _BLOCK):
            y, p = labels[start : start + _BLOCK], probability[start : start + _BLOCK]
            block = np.stack([row_log_losses(y, p), y, p])
            share = len(y) / (start + len(y))
            step = block.mean(1) - means
            centred = block - block.mean(1, keepdims=True)
            scatter += centred @ centred.T + np.outer(step, step) * (start * share)
            means += share * step
        return cls(len(labels), means, scatter / (len(labels) - 1))

    def interval(self, figure: float, slopes: tuple[float, float, float]) -> Interval:
        """Return the normal interval of a figure that changes by `slopes` times the changes of the means."""
        variance = np.array(slopes) @ self.covariances @ np.array(slopes)
        return student_interval(float(figure), math.sqrt(max(variance, 0.0) / self.rows))


def _normalized_entropy(moments: _Moments) -> Interval:
    """L / H(c) of mean log loss L and click rate c, H the entropy: d(NE) = dL / H - L H'(c) dc / H**2."""
    loss, rate, _ = moments.means.tolist()
    entropy = -rate * math.log(rate) - (1 - rate) * math.log1p(-rate)
    slope = math.log1p(-rate) - math.log(rate)
    return moments.interval(loss / entropy, (1 / entropy, -loss * slope / entropy**2, 0.0))


def _calibration(moments: _Moments) -> Interval:
    """P / c of mean probability P and click rate c: d(P / c) = dP / c - P dc / c**2."""
    _, rate, mean = moments.means.tolist()
    return moments.interval(mean / rate, (0.0, -mean / rate**2, 1 / rate))
