"""Compute confidence intervals of one model's metrics that cover sampling of the data.

AUC uses DeLong's method, shares use Wilson's score interval, and log loss is a mean. Normalized entropy and calibration are
ratios of means over the same samples, so numerator and denominator vary together. Their errors come from the linearized
ratio (delta method). All intervals treat samples as independent, and do not cover other seeds.

The binned calibration error has its own interval, which allows for the bias of this error.

With weights, samples remain the unit of sampling (metrics/means.py). AUC uses weighted placements, shares use Wilson's
interval with the effective number of samples, and means and ratios use the sandwich estimator.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.metrics.binary import (
    METRICS,
    AreaUnderCurve,
    Metric,
    Share,
    check_predictions,
)
from dlrm_adahessian.metrics.curves import CalibrationBin, expected_calibration_error
from dlrm_adahessian.metrics.means import Weights, effective_rows, of_weight
from dlrm_adahessian.metrics.ranking import Labels, Probabilities, auc_with_error, rarer_class
from dlrm_adahessian.statistics.intervals import TWO_SIDED_95, Interval, student_interval, student_quantile

_BLOCK = 1 << 20  # samples; three float64 numbers per sample are in memory at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricIntervals:
    """Hold 95% intervals (low, high) of `METRICS`, normalized entropy, and calibration, by name.

    Attributes:
        by_metric: the intervals; None if there are too few samples or clicks.
    """

    by_metric: Mapping[str, Interval | None]

    def __getitem__(self, metric: str) -> Interval | None:
        """Return the interval of a metric, or None if it has none."""
        return self.by_metric.get(metric)

    def asdict(self) -> dict[str, Interval | None]:
        """Return the intervals as JSON values: `auc_ci95`, ..."""
        return {f"{name}_ci95": ends for name, ends in self.by_metric.items()}


def metric_intervals(
    labels: Labels, probability: Probabilities, weights: Weights | None = None
) -> MetricIntervals:
    """Return the intervals of one set of predictions. Raises the errors of `check_predictions`.

    Args:
        labels: (N,) 0 or 1.
        probability: (N,) float32 or float64 in [0, 1].
        weights: (N,) see `binary_metrics`. Sampling is over the observed samples, so intervals are wider than for repeated
            samples. Equal weights give the intervals without weights.

    Returns:
        The intervals. None for fewer than two samples with weight or, if a metric needs both classes, fewer than two of
        either.
    """
    check_predictions(labels, probability, weights)
    weighed, labels, probability = of_weight(weights, labels, probability)
    moments = _Moments.of(labels, probability, weighed) if len(labels) >= 2 else None
    both = rarer_class(labels) >= 2
    return MetricIntervals(
        by_metric={
            **{name: _interval(name, labels, probability, weighed, moments) for name in METRICS},
            "normalized_entropy": _normalized_entropy(moments) if moments and both else None,
            "calibration": _calibration(moments) if moments and labels.any() else None,
        }
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AucEstimate:
    """AUC with its DeLong standard error and 95% interval, clipped to [0, 1]."""

    auc: float
    standard_error: float
    ci95: Interval


def delong_auc(labels: Labels, probability: Probabilities, weights: Weights | None = None) -> AucEstimate:
    """Return the AUC with an interval that covers sampling.

    The interval is asymptotic in the number of samples of each class. At an AUC of exactly 0 or 1 it is a single point,
    which understates the uncertainty.

    Args:
        labels: (N,) 0 or 1, at least two of each.
        probability: (N,) float32 or float64 in [0, 1].
        weights: (N,) see `binary_metrics`; the error covers sampling of the observed samples, not of repeated ones.

    Returns:
        The estimate.

    Raises:
        ValueError: a class has fewer than two samples with weight.
    """
    check_predictions(labels, probability, weights)
    weighed, labels, probability = of_weight(weights, labels, probability)
    if lacking := METRICS["auc"].lacking(labels):
        raise ValueError(f"The standard error of the AUC needs {lacking}. Evaluate on more samples.")
    auc, standard_error = auc_with_error(labels, probability, weighed)
    low, high = student_interval(auc, standard_error)
    return AucEstimate(auc=auc, standard_error=standard_error, ci95=(max(low, 0.0), min(high, 1.0)))


def proportion_interval(count: float, rows: float) -> Interval:
    """Return Wilson's 95% interval of `count` out of `rows` (at least 1). Valid for few samples and rare events.

    For weighted samples, pass `effective_rows` as `rows`, and that times the share as `count`.

    Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    share, per_row = count / rows, student_quantile(TWO_SIDED_95) ** 2 / rows
    middle = share + per_row / 2
    half = math.sqrt(per_row * (share * (1 - share) + per_row / 4))
    return max((middle - half) / (1 + per_row), 0.0), min((middle + half) / (1 + per_row), 1.0)


def calibration_error_interval(bins: Sequence[CalibrationBin]) -> Interval | None:
    """Return a 95% interval of the binned calibration error, the sum over bins of w |g| with shares w and true gaps g.

    The measured error T is biased upward: noise turns a gap of |g| into |g + s z|, where s is the standard error of the
    bin's click rate and z is normal (Kumar, Liang, Ma, "Verified Uncertainty Calibration", NeurIPS 2019, section 5). A
    perfect model has T > 0, and a bootstrap adds the bias once more. So the interval is not centered on T.

    - Lower end: by the triangle inequality T exceeds the true error by at most sum(w s |z|). The end is T minus the 97.5%
      quantile of that sum, and at least 0.
    - Upper end: T is at least sum(w sign(g) (g + s z)), which is normal around the true error. The end is T plus
      1.96 sqrt(sum(w^2 s^2)).

    The interval holds at least 95% for any gaps, as far as click rates are normal; each end errs exactly 2.5% where it is
    tight, the lower one for a perfect model and the upper one for gaps that are clear. It is about these bins: the error of
    finer ones is at least as large.

    Args:
        bins: of `calibration_bins`, which the labels do not choose.

    Returns:
        The interval in [0, 1]; None without bins.
    """
    if not bins:
        return None
    size = np.array([entry.rows if entry.weight is None else entry.weight for entry in bins])
    rows = np.array([entry.effective_rows or entry.rows for entry in bins])
    # Two clicks and two others more, as of Agresti and Coull (1998): a bin without a click is not known without error.
    rate = (np.array([entry.click_rate for entry in bins]) * rows + 2) / (rows + 4)
    noise = size / size.sum() * np.sqrt(rate * (1 - rate) / rows)
    error = expected_calibration_error(bins) or 0.0
    low = error - float(np.quantile(_absolute_normals(len(bins)) @ noise, TWO_SIDED_95))
    high = error + student_quantile(TWO_SIDED_95) * math.sqrt(float(noise @ noise))
    return max(low, 0.0), min(high, 1.0)


@cache
def _absolute_normals(count: int) -> npt.NDArray[np.float64]:
    """Return (10,000, count) draws of |z|, the same each time; the quantile of their sum is known to about 1%."""
    return np.abs(np.random.default_rng(0).standard_normal((10_000, count)))


def _interval(
    name: str,
    labels: Labels,
    probability: Probabilities,
    weights: npt.NDArray[np.float64] | None,
    moments: "_Moments | None",
) -> Interval | None:
    metric = METRICS[name]
    if moments is None or metric.lacking(labels):
        return None
    if isinstance(metric, AreaUnderCurve):
        return delong_auc(labels, probability, weights).ci95
    if isinstance(metric, Share):
        holds = metric.per_sample(labels, probability)
        if weights is None:
            return proportion_interval(int(holds.sum()), len(labels))
        rows = effective_rows(holds, weights)
        return proportion_interval(rows * float(weights @ holds / weights.sum()), rows)
    return moments.interval({name: 1.0}, moments[name])


_CLICK, _PROBABILITY = "click", "probability"


@dataclasses.dataclass(frozen=True)
class _Moments:
    """Hold means (K,) and covariances (K, K) over N samples of click, probability, and each metric that is a mean.

    With weights, the covariances are N times those of the means.
    """

    rows: int
    names: tuple[str, ...]
    means: npt.NDArray[np.float64]
    covariances: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls, labels: Labels, probability: Probabilities, weights: npt.NDArray[np.float64] | None
    ) -> "_Moments":
        """Compute them in blocks with the update of Chan, Golub, LeVeque (1979), or in two passes with weights."""
        metrics = {name: metric for name, metric in METRICS.items() if type(metric) is Metric}
        if weights is not None:
            return cls.weighted(metrics, labels, probability, weights)
        count = len(metrics) + 2
        means, scatter = np.zeros(count), np.zeros((count, count))
        for start in range(0, len(labels), _BLOCK):
            y, p = labels[start : start + _BLOCK], probability[start : start + _BLOCK]
            block = np.stack([*(metric.per_sample(y, p) for metric in metrics.values()), y, p])
            share = len(y) / (start + len(y))
            step = block.mean(1) - means
            centered = block - block.mean(1, keepdims=True)
            scatter += centered @ centered.T + np.outer(step, step) * (start * share)
            means += share * step
        return cls(len(labels), (*metrics, _CLICK, _PROBABILITY), means, scatter / (len(labels) - 1))

    @classmethod
    def weighted(
        cls,
        metrics: Mapping[str, Metric],
        labels: Labels,
        probability: Probabilities,
        weights: npt.NDArray[np.float64],
    ) -> "_Moments":
        """Compute them with weights (N,) above 0: first the means, then the sandwich estimator around them."""
        total, rows = weights.sum(), len(weights)

        parts = [slice(start, start + _BLOCK) for start in range(0, rows, _BLOCK)]

        def figures(part: slice) -> npt.NDArray[np.float64]:
            y, p = labels[part], probability[part]
            return np.stack(
                [*(metric.per_sample(y, p) for metric in metrics.values()), y, p], dtype=np.float64
            )

        means, scatter = np.zeros(len(metrics) + 2), np.zeros((len(metrics) + 2, len(metrics) + 2))
        for part in parts:
            means += figures(part) @ (weights[part] / total)
        for part in parts:
            spread = (figures(part) - means[:, None]) * (weights[part] / total)
            scatter += spread @ spread.T
        covariances = rows**2 / (rows - 1) * scatter
        return cls(rows, (*metrics, _CLICK, _PROBABILITY), means, covariances)

    def __getitem__(self, name: str) -> float:
        return float(self.means[self.names.index(name)])

    def interval(self, slopes: Mapping[str, float], figure: float) -> Interval:
        """Return the normal interval of a figure whose derivatives with respect to the means are `slopes`."""
        vector = np.array([slopes.get(name, 0.0) for name in self.names])
        variance = vector @ self.covariances @ vector
        return student_interval(float(figure), math.sqrt(max(variance, 0.0) / self.rows))


def _normalized_entropy(moments: _Moments) -> Interval:
    """Return the interval of NE = L / H(c), mean log loss L, click rate c, entropy H: d(NE) = dL / H - L H'(c) dc / H**2."""
    loss, rate = moments["logloss"], moments[_CLICK]
    entropy = -rate * math.log(rate) - (1 - rate) * math.log1p(-rate)
    slope = math.log1p(-rate) - math.log(rate)
    return moments.interval({"logloss": 1 / entropy, _CLICK: -loss * slope / entropy**2}, loss / entropy)


def _calibration(moments: _Moments) -> Interval:
    """Return the interval of P / c, mean probability P, click rate c: d(P / c) = dP / c - P dc / c**2."""
    rate, mean = moments[_CLICK], moments[_PROBABILITY]
    return moments.interval({_CLICK: -mean / rate**2, _PROBABILITY: 1 / rate}, mean / rate)
