"""Metrics of one set of click predictions, and the table of those that models are compared by.

All are exact and computed in float64, in blocks, so that the 40 M predictions of an epoch need little more
memory than they take themselves. Predictions are kept as arrays, so merging two sets is concatenation.

A metric that models are compared by is a function per sample and a field of `BinaryMetrics` with its `Metric`. From
these follow its value, its standard error, its difference between models, and where it is printed and plotted.

AUC is the Mann-Whitney statistic with ties counted half. Normalized entropy is that of He et al., "Practical
Lessons from Predicting Clicks on Ads at Facebook" (2014): log loss over the entropy of the base rate.

With weights a sample of weight w counts as w samples: with whole weights all metrics are those of repeated samples.
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
    0.52  # three standard errors above that of random predictions of 10,000 samples, a quarter of them clicks
)


def probability_from_logit(
    logits: npt.NDArray[np.float32] | npt.NDArray[np.float64],
) -> npt.NDArray[np.float32]:
    """Return the float32 sigmoid, kept inside the open interval (0, 1).

    Computed in float64 and rounded once, so that every reader of the same logits stores the same numbers;
    then held in [2**-126, 1 - 2**-24], float32's normal numbers, so that the log loss stays finite.

    Args:
        logits: (N,) float32 or float64, finite.

    Returns:
        (N,) float32 in [2**-126, 1 - 2**-24], non-decreasing in the logit.

    Raises:
        ValueError: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite, got NaN or infinity; skip such a batch")
    z = logits.astype(np.float64)
    decay = np.exp(-np.abs(z))  # the argument is never positive, so nothing overflows
    sigmoid = np.where(z >= 0, 1.0, decay) / (1.0 + decay)
    return np.clip(sigmoid.astype(np.float32), *_open_interval(np.dtype(np.float32)))


def check_predictions(labels: Labels, probability: Probabilities, weights: Weights | None = None) -> None:
    """Refuse anything but 0/1 labels with one probability in [0, 1] each, and a weight where there are weights.

    Args:
        labels: (N,) any integer or bool dtype.
        probability: (N,) float32 or float64.
        weights: (N,) float32 or float64, finite and at least 0; None for none.

    Raises:
        ValueError: shapes, dtypes or values break the rule.
    """
    if labels.ndim != 1 or labels.shape != probability.shape:
        raise ValueError(
            f"labels and probability must be (N,) and of one length, got {labels.shape} and "
            f"{probability.shape}; flatten them and pair each prediction with its row"
        )
    if labels.dtype.kind not in "biu":
        raise ValueError(f"labels must be integers, got {labels.dtype}; convert them with astype(np.int8)")
    if probability.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"probability must be float32 or float64, got {probability.dtype}; convert it")
    if weights is not None:
        check_weights(weights, len(labels))
    if not len(labels):
        return
    if labels.min() < 0 or labels.max() > 1:
        raise ValueError(
            f"labels must be 0 or 1, got values from {labels.min()} to {labels.max()}; drop unlabelled rows"
        )
    low, high = probability.min(), probability.max()
    if not (low >= 0 and high <= 1):  # written so that NaN, which min and max pass on, fails too
        raise ValueError(
            f"probability must lie in [0, 1], got values from {low} to {high}; "
            "map logits with probability_from_logit"
        )


_Weights = npt.NDArray[np.float64] | None
"""(N,) above 0, as `of_weight` returns them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric that models are compared by: the mean over N samples of a value per sample.

    Attributes:
        title: for people; its key in JSON is the name of its field in `BinaryMetrics`.
        higher_is_better: else lower is.
        per_sample: labels and probabilities of N samples to (N,) values.
        of_base_rate: what always predicting the base rate gets: a number, or the field of `BinaryMetrics` that has it;
            None where no table shows it.
    """

    title: str
    higher_is_better: bool
    per_sample: Callable[[Labels, Probabilities], npt.NDArray[Any]]
    of_base_rate: float | str | None = None

    def value(self, labels: Labels, probability: Probabilities, weights: _Weights = None) -> float | None:
        """Return the metric of N predictions, or None where it is not defined."""
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
        """Return the value of each sample (N,), which the weights of others change in a ranking alone."""
        return self.per_sample(labels, probability)

    def with_error(
        self, labels: Labels, values: npt.NDArray[np.float64], weights: _Weights = None
    ) -> tuple[float, float]:
        """Return the metric and its standard error from values per sample (N,), or from differences of them."""
        return mean_with_error(values, weights)

    def lacking(self, labels: Labels) -> str | None:
        """Say what these labels lack for a standard error; None when they suffice."""
        return None if len(labels) >= 2 else f"two rows, got {len(labels)}"


class Share(Metric):
    """The share of samples where a statement holds; `per_sample` returns (N,) bool."""


class AreaUnderCurve(Metric):
    """AUC: its values per sample are DeLong's placements, which average to it within each class."""

    def value(self, labels: Labels, probability: Probabilities, weights: _Weights = None) -> float | None:
        """Return the exact AUC, or None unless both classes occur."""
        return area_under_curve(labels, probability, weights) if rarer_class(labels) else None

    def values(
        self, labels: Labels, probability: Probabilities, weights: _Weights = None
    ) -> npt.NDArray[Any]:
        """Return the placements (N,)."""
        return placements(labels, probability, weights)

    def with_error(
        self, labels: Labels, values: npt.NDArray[np.float64], weights: _Weights = None
    ) -> tuple[float, float]:
        """Return the mean of placements, or of their differences, and its standard error."""
        return mean_over_classes(labels, values, weights)

    def lacking(self, labels: Labels) -> str | None:
        """Say how many samples the rarer class has, if fewer than two."""
        rarer = rarer_class(labels)
        return None if rarer >= 2 else f"two rows of each class, got {rarer} of the rarer one"


def correct_decisions(labels: Labels, probability: Probabilities) -> npt.NDArray[np.bool_]:
    """Return per sample, (N,), whether the decision (probability >= 0.5) equals the label."""
    return (probability >= 0.5) == (labels != 0)


def log_losses(labels: Labels, probability: Probabilities) -> npt.NDArray[np.float64]:
    """Return -log(probability of the label) per sample, finite even at probability 0 and 1.

    Probabilities are first held between the smallest normal number and the largest number below 1 of their
    own dtype; for float32 these are the bounds of `probability_from_logit`, which hence changes nothing.

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
    """Metrics of N predictions; None where one is not defined (JSON null).

    Attributes:
        rows: N.
        auc: chance that a click outranks a non-click, ties half; None unless both classes occur.
        accuracy: share of samples where (probability >= 0.5) equals the label; None for no samples.
        logloss: mean of -log(probability of the label), in nats; None for no samples.
        normalized_entropy: `logloss` over that of always predicting `base_rate`; None as `auc`.
        base_rate: share of clicks; None for no samples.
        base_rate_accuracy: accuracy of always predicting the commoner class; None for no samples.
        calibration: mean probability over `base_rate`, 1 is ideal; None without a click.
        weight: sum of the samples' weights, in which all of the above but `rows` are meant then; None without weights.
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
        """Return the metrics by name, ready for JSON; `weight` only where there are weights."""
        values = dataclasses.asdict(self)
        if self.weight is None:
            del values["weight"]
        return values

    @property
    def beats_base_rate(self) -> bool:
        """Whether ranking and log loss, where they are defined, are better than of always predicting `base_rate`."""
        ranking = self.auc is None or self.auc >= _LEAST_AUC
        return ranking and (self.normalized_entropy is None or self.normalized_entropy <= 1)

    def of_base_rate(self, name: str) -> float | None:
        """Return what always predicting the base rate gets in the metric of a name; None where no table shows it."""
        known = METRICS[name].of_base_rate
        return getattr(self, known) if isinstance(known, str) else known


METRICS: Mapping[str, Metric] = {
    field.name: field.metadata["metric"]
    for field in dataclasses.fields(BinaryMetrics)
    if "metric" in field.metadata
}
"""The metrics that models are compared by, by name, in the order in which they are shown."""


def binary_metrics(
    labels: Labels, probability: Probabilities, weights: Weights | None = None
) -> BinaryMetrics:
    """Return all metrics of one set of predictions; refuses what `check_predictions` refuses.

    Args:
        labels: (N,) int8, 0 or 1.
        probability: (N,) float32 or float64 in [0, 1]; see `log_losses` for exactly 0 and 1.
        weights: (N,) float32 or float64, finite and at least 0: as how many samples each counts; None for 1 each.

    Returns:
        The metrics; those that N = 0, no weight or a single class leave undefined are None.
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
    """Return the sum of probabilities, each times its weight."""
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(probability), _BLOCK)]
    if weights is not None:
        return math.fsum(float(weights[b] @ probability[b]) for b in blocks)
    return math.fsum(float(probability[b].sum(dtype=np.float64)) for b in blocks)


def _open_interval(dtype: np.dtype[np.floating]) -> tuple[np.floating, np.floating]:
    """Return the smallest normal number and the largest number below 1."""
    limits = np.finfo(dtype)
    return limits.tiny, dtype.type(1) - limits.epsneg
