"""Compute metrics of one set of click predictions, and define the metrics that comparisons use.

All metrics are exact and computed in float64. They are computed in blocks: the 40 M predictions of an epoch need little
memory beyond the arrays themselves. To merge two sets of predictions, concatenate the arrays.

A metric for comparisons consists of a function per sample and a field of `BinaryMetrics` with its `Metric`. These determine
its value, its standard error, its difference between models, and where it is printed and plotted.

AUC is the Mann-Whitney statistic with ties counted half. Normalized entropy follows He et al., "Practical Lessons from
Predicting Clicks on Ads at Facebook" (2014): the log loss divided by the entropy of the click rate.

With weights, a sample of weight w counts as w samples. Integer weights give the metrics of repeated samples.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.metrics.means import Weights, check_weights, mean_with_error, of_weight
from dlrm_adahessian.metrics.ranking import (
    Labels,
    Probabilities,
    area_under_curve,
    mean_over_classes,
    placements,
    rarer_class,
)

_BLOCK = 1 << 20  # samples; a float64 temporary of a block is 8 MiB
_LEAST_AUC = (
    0.52  # three standard errors above random predictions of 10,000 samples, a quarter of them clicks
)


def probability_from_logit(
    logits: npt.NDArray[np.float32] | npt.NDArray[np.float64],
) -> npt.NDArray[np.float32]:
    """Return the float32 sigmoid, clipped to the open interval (0, 1).

    The sigmoid is computed in float64 and rounded once, so equal logits always give equal probabilities. It is then
    clipped to [2**-126, 1 - 2**-24], the normal float32 numbers in (0, 1), which keeps the log loss finite.

    Args:
        logits: (N,) float32 or float64, finite.

    Returns:
        (N,) float32 in [2**-126, 1 - 2**-24], non-decreasing in the logit.

    Raises:
        ValueError: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise ValueError("Logits must be finite, got NaN or infinity. Skip this batch.")
    z = logits.astype(np.float64)
    decay = np.exp(-np.abs(z))  # the argument is never positive, so exp cannot overflow
    sigmoid = np.where(z >= 0, 1.0, decay) / (1.0 + decay)
    return np.clip(sigmoid.astype(np.float32), *_open_interval(np.dtype(np.float32)))


def check_predictions(labels: Labels, probability: Probabilities, weights: Weights | None = None) -> None:
    """Check that labels are 0 or 1, probabilities are in [0, 1], and all lengths match.

    Args:
        labels: (N,) any integer or bool dtype.
        probability: (N,) float32 or float64.
        weights: (N,) float32 or float64, finite and at least 0; None for 1 each.

    Raises:
        ValueError: a shape, dtype, or value is invalid.
    """
    if labels.ndim != 1 or labels.shape != probability.shape:
        raise ValueError(
            f"Labels and probabilities must have the same shape (N,), got {labels.shape} and {probability.shape}. "
            "Flatten them, and match each prediction with its sample."
        )
    if labels.dtype.kind not in "biu":
        raise ValueError(f"Labels must be integers, got {labels.dtype}. Convert them with astype(np.int8).")
    if probability.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"Probabilities must be float32 or float64, got {probability.dtype}. Convert them.")
    if weights is not None:
        check_weights(weights, len(labels))
    if not len(labels):
        return
    if labels.min() < 0 or labels.max() > 1:
        raise ValueError(
            f"Labels must be 0 or 1, got values from {labels.min()} to {labels.max()}. Drop unlabeled samples."
        )
    low, high = probability.min(), probability.max()
    if not (low >= 0 and high <= 1):  # NaN propagates through min and max, and fails this form too
        raise ValueError(
            f"Probabilities must be in [0, 1], got values from {low} to {high}. "
            "Convert logits with probability_from_logit."
        )


_Weights = npt.NDArray[np.float64] | None
"""(N,) above 0, as returned by `of_weight`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """Define a metric for comparisons: the mean over N samples of a value per sample.

    Attributes:
        title: display name; the key in JSON is the name of the field in `BinaryMetrics`.
        higher_is_better: whether higher values are better.
        per_sample: function from labels and probabilities of N samples to (N,) values.
        of_base_rate: value of the constant prediction: a number, or the field of `BinaryMetrics` that has it; None if no
            table shows it.
    """

    title: str
    higher_is_better: bool
    per_sample: Callable[[Labels, Probabilities], npt.NDArray[Any]]
    of_base_rate: float | str | None = None

    def value(self, labels: Labels, probability: Probabilities, weights: _Weights = None) -> float | None:
        """Return the metric of N predictions, or None if it is undefined."""
        if not len(labels):
            return None
        blocks = [slice(start, start + _BLOCK) for start in range(0, len(labels), _BLOCK)]
        if weights is not None:
            sums = [float(weights[b] @ self.per_sample(labels[b], probability[b])) for b in blocks]
            return math.fsum(sums) / float(weights.sum())
        sums = [float(self.per_sample(labels[b], probability[b]).sum(dtype=np.float64)) for b in blocks]
        return math.fsum(sums) / len(labels)

    def values(
        self, labels: Labels, probability: Probabilities, weights: _Weights = None
    ) -> npt.NDArray[Any]:
        """Return the value of each sample (N,). Only in ranking metrics do weights of other samples affect it."""
        return self.per_sample(labels, probability)

    def with_error(
        self, labels: Labels, values: npt.NDArray[np.float64], weights: _Weights = None
    ) -> tuple[float, float]:
        """Return the metric and its standard error from values per sample (N,) or their differences."""
        return mean_with_error(values, weights)

    def lacking(self, labels: Labels) -> str | None:
        """Return what these labels lack for a standard error, or None if they suffice."""
        return None if len(labels) >= 2 else f"at least 2 samples, got {len(labels)}"


class Share(Metric):
    """Define a metric that is a share of samples; `per_sample` returns (N,) bool."""


class AreaUnderCurve(Metric):
    """Define AUC. The values per sample are DeLong's placements, whose mean within each class is the AUC."""

    def value(self, labels: Labels, probability: Probabilities, weights: _Weights = None) -> float | None:
        """Return the exact AUC, or None if a class is absent."""
        return area_under_curve(labels, probability, weights) if rarer_class(labels) else None

    def values(
        self, labels: Labels, probability: Probabilities, weights: _Weights = None
    ) -> npt.NDArray[Any]:
        """Return the placements (N,)."""
        return placements(labels, probability, weights)

    def with_error(
        self, labels: Labels, values: npt.NDArray[np.float64], weights: _Weights = None
    ) -> tuple[float, float]:
        """Return the mean of placements or of their differences, and its standard error."""
        return mean_over_classes(labels, values, weights)

    def lacking(self, labels: Labels) -> str | None:
        """Return what the rarer class lacks for a standard error, or None if it has two samples."""
        rarer = rarer_class(labels)
        return None if rarer >= 2 else f"at least 2 samples of each class, got {rarer} of the rarer one"


def correct_decisions(labels: Labels, probability: Probabilities) -> npt.NDArray[np.bool_]:
    """Return (N,) bool, whether the decision (probability >= 0.5) equals the label."""
    return (probability >= 0.5) == (labels != 0)


def log_losses(labels: Labels, probability: Probabilities) -> npt.NDArray[np.float64]:
    """Return -log(probability of the label) per sample, finite even at probability 0 and 1.

    Probabilities are first clipped to the smallest normal number and the largest number below 1 of their dtype.
    For float32 these are the bounds of `probability_from_logit`, so its results are not clipped again.

    Args:
        labels: (N,) 0 or 1.
        probability: (N,) float32 or float64 in [0, 1].

    Returns:
        (N,) float64, nats, at least 0.
    """
    inside = np.clip(probability, *_open_interval(probability.dtype)).astype(np.float64)
    return -np.log(np.where(labels != 0, inside, 1.0 - inside))


def _compared_by(metric: Metric) -> Any:
    return dataclasses.field(default=None, metadata={"metric": metric})


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinaryMetrics:
    """Hold the metrics of N predictions. An undefined metric is None (JSON null).

    Attributes:
        rows: N.
        auc: probability that a click is ranked above a non-click, ties half; None if a class is absent.
        accuracy: share of samples where (probability >= 0.5) equals the label; None without samples.
        logloss: mean of -log(probability of the label), in nats; None without samples.
        normalized_entropy: `logloss` divided by that of the constant prediction `base_rate`; None if a class is absent.
        base_rate: click rate; None without samples.
        base_rate_accuracy: accuracy of always predicting the more common class; None without samples.
        calibration: mean probability divided by `base_rate`, 1 is ideal; None without clicks.
        weight: sum of sample weights; None without weights. With weights, all metrics except `rows` are weighted.
    """

    rows: int
    auc: float | None = _compared_by(
        AreaUnderCurve(title="AUC", higher_is_better=True, per_sample=placements, of_base_rate=0.5)
    )
    accuracy: float | None = _compared_by(
        Share(
            title="accuracy",
            higher_is_better=True,
            per_sample=correct_decisions,
            of_base_rate="base_rate_accuracy",
        )
    )
    logloss: float | None = _compared_by(
        Metric(title="log loss", higher_is_better=False, per_sample=log_losses)
    )
    normalized_entropy: float | None = None
    base_rate: float | None = None
    base_rate_accuracy: float | None = None
    calibration: float | None = None
    weight: float | None = None

    def asdict(self) -> dict[str, float | None]:
        """Return the metrics by name as JSON values, with `weight` only if there are weights."""
        values = dataclasses.asdict(self)
        if self.weight is None:
            del values["weight"]
        return values

    @property
    def beats_base_rate(self) -> bool:
        """Whether AUC and log loss, if defined, are better than those of the constant prediction."""
        ranking = self.auc is None or self.auc >= _LEAST_AUC
        return ranking and (self.normalized_entropy is None or self.normalized_entropy <= 1)

    def of_base_rate(self, name: str) -> float | None:
        """Return the constant prediction's value of the metric `name`; None if no table shows it."""
        known = METRICS[name].of_base_rate
        return getattr(self, known) if isinstance(known, str) else known


METRICS: Mapping[str, Metric] = {
    field.name: field.metadata["metric"]
    for field in dataclasses.fields(BinaryMetrics)
    if "metric" in field.metadata
}
"""Metrics used in comparisons, by name, in display order."""


def binary_metrics(
    labels: Labels, probability: Probabilities, weights: Weights | None = None
) -> BinaryMetrics:
    """Return all metrics of one set of predictions. Raises the errors of `check_predictions`.

    Args:
        labels: (N,) int8, 0 or 1.
        probability: (N,) float32 or float64 in [0, 1]; see `log_losses` for exactly 0 and 1.
        weights: (N,) float32 or float64, finite and at least 0; a sample of weight w counts as w samples. None for 1 each.

    Returns:
        The metrics. Those that are undefined for N = 0, zero total weight, or a single class are None.
    """
    check_predictions(labels, probability, weights)
    rows = len(labels)
    weighed, labels, probability = of_weight(weights, labels, probability)
    total = rows if weighed is None else float(weighed.sum())
    found = BinaryMetrics(
        rows=rows,
        weight=None if weighed is None else total,
        **{name: metric.value(labels, probability, weighed) for name, metric in METRICS.items()},
    )
    if found.logloss is None:
        return found
    clicks = int(np.count_nonzero(labels)) if weighed is None else float(weighed[labels != 0].sum())
    base_rate = clicks / total
    both = rarer_class(labels) > 0
    entropy = -base_rate * math.log(base_rate) - (1 - base_rate) * math.log1p(-base_rate) if both else 0.0
    return dataclasses.replace(
        found,
        normalized_entropy=found.logloss / entropy if both else None,
        base_rate=base_rate,
        base_rate_accuracy=max(base_rate, 1 - base_rate),
        calibration=_predicted_clicks(probability, weighed) / clicks if clicks else None,
    )


def _predicted_clicks(probability: Probabilities, weights: _Weights) -> float:
    """Return the weighted sum of probabilities."""
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(probability), _BLOCK)]
    if weights is not None:
        return math.fsum(float(weights[b] @ probability[b]) for b in blocks)
    return math.fsum(float(probability[b].sum(dtype=np.float64)) for b in blocks)


def _open_interval(dtype: np.dtype[np.floating]) -> tuple[np.floating, np.floating]:
    """Return the smallest normal number and the largest number below 1 of a dtype."""
    limits = np.finfo(dtype)
    return limits.tiny, dtype.type(1) - limits.epsneg
