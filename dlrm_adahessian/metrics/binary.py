"""Figures of one set of click predictions: AUC, accuracy, log loss, normalized entropy, calibration.

All are exact and computed in float64, in blocks, so that the 40 M predictions of an epoch need little more
memory than they take themselves. Predictions are kept as arrays, so merging two sets is concatenation.

AUC is the Mann-Whitney statistic with ties counted half. Normalized entropy is that of He et al., "Practical
Lessons from Predicting Clicks on Ads at Facebook" (2014): log loss over the entropy of the base rate.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.metrics.ranking import Labels, Probabilities, cut_between_ties, sorted_keys, tie_counts

_BLOCK = 1 << 20  # rows; a float64 temporary of a block is 8 MiB


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinaryMetrics:
    """Figures of N predictions; None where a figure is not defined (JSON null).

    Attributes:
        rows: N.
        auc: chance that a click outranks a non-click, ties half; None unless both classes occur.
        accuracy: share of rows where (probability >= 0.5) equals the label; None for no rows.
        logloss: mean of -log(probability of the label), in nats; None for no rows.
        normalized_entropy: `logloss` over that of always predicting `base_rate`; None as `auc`.
        base_rate: share of clicks; None for no rows.
        base_rate_accuracy: accuracy of always predicting the commoner class; None for no rows.
        calibration: mean probability over `base_rate`, 1 is ideal; None without a click.
    """

    rows: int
    auc: float | None = None
    accuracy: float | None = None
    logloss: float | None = None
    normalized_entropy: float | None = None
    base_rate: float | None = None
    base_rate_accuracy: float | None = None
    calibration: float | None = None

    def asdict(self) -> dict[str, float | None]:
        """Return the figures by name, ready for JSON."""
        return dataclasses.asdict(self)


class CalibrationBin(NamedTuple):
    """Rows of similar probability: how many, what was predicted, what happened."""

    rows: int
    mean_probability: float
    click_rate: float


def probability_from_logit(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the float32 sigmoid, kept inside the open interval (0, 1).

    Computed in float64 and rounded once, so that every reader of the same logits stores the same numbers;
    then held in [2**-126, 1 - 2**-24], float32's normal numbers, so that the log loss stays finite.

    Args:
        logits: (N,) float32, finite.

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


def check_predictions(labels: Labels, probability: Probabilities) -> None:
    """Refuse anything but 0/1 labels with one probability in [0, 1] each.

    Args:
        labels: (N,) any integer or bool dtype.
        probability: (N,) float32 or float64.

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


def row_correct(labels: Labels, probability: Probabilities) -> npt.NDArray[np.bool_]:
    """Return per row, (N,), whether the decision (probability >= 0.5) equals the label."""
    return (probability >= 0.5) == (labels != 0)


def row_log_losses(labels: Labels, probability: Probabilities) -> npt.NDArray[np.float64]:
    """Return -log(probability of the label) per row, finite even at probability 0 and 1.

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


def binary_metrics(labels: Labels, probability: Probabilities) -> BinaryMetrics:
    """Return all figures of one set of predictions; refuses what `check_predictions` refuses.

    Args:
        labels: (N,) int8, 0 or 1.
        probability: (N,) float32 or float64 in [0, 1]; see `row_log_losses` for exactly 0 and 1.

    Returns:
        The figures; those that N = 0 or a single class leave undefined are None.
    """
    check_predictions(labels, probability)
    rows = len(labels)
    if rows == 0:
        return BinaryMetrics(rows=0)
    clicks = int(np.count_nonzero(labels))
    correct = 0
    losses: list[float] = []
    predicted: list[float] = []
    for start in range(0, rows, _BLOCK):
        y, p = labels[start : start + _BLOCK], probability[start : start + _BLOCK]
        correct += int(np.count_nonzero(row_correct(y, p)))
        losses.append(float(row_log_losses(y, p).sum()))
        predicted.append(float(p.sum(dtype=np.float64)))
    base_rate = clicks / rows
    logloss = math.fsum(losses) / rows
    both = 0 < clicks < rows
    entropy = -base_rate * math.log(base_rate) - (1 - base_rate) * math.log1p(-base_rate) if both else 0.0
    return BinaryMetrics(
        rows=rows,
        auc=_auc(labels, probability) if both else None,
        accuracy=correct / rows,
        logloss=logloss,
        normalized_entropy=logloss / entropy if both else None,
        base_rate=base_rate,
        base_rate_accuracy=max(base_rate, 1 - base_rate),
        calibration=math.fsum(predicted) / clicks if clicks else None,
    )


def calibration_bins(labels: Labels, probability: Probabilities, bins: int = 10) -> list[CalibrationBin]:
    """Group rows by rising probability into bins of equal count, as far as ties allow.

    Rows of equal probability share a bin, so the order of the rows does not matter; a bin that ties empty
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
    """Return the mean gap between predicted and actual click rate, weighted by rows; None for no rows."""
    table = list(bins)
    rows = sum(entry.rows for entry in table)
    gap = math.fsum(entry.rows * abs(entry.mean_probability - entry.click_rate) for entry in table)
    return gap / rows if rows else None


def _auc(labels: Labels, probability: Probabilities) -> float:
    """Return P(click outranks non-click) + P(tie) / 2; exact counts, one rounding at the end."""
    twice_wins = 0
    negatives_below = 0
    cuts = range(_BLOCK, len(labels) + _BLOCK, _BLOCK)
    for block in cut_between_ties(sorted_keys(labels, probability), cuts):
        negatives, positives = tie_counts(block >> 1, block & 1)
        below = negatives_below + np.cumsum(negatives) - negatives
        twice_wins += int(positives @ (2 * below + negatives))
        negatives_below += int(negatives.sum())
    return twice_wins / (2 * negatives_below * (len(labels) - negatives_below))


def _open_interval(dtype: np.dtype[np.floating]) -> tuple[np.floating, np.floating]:
    """Return the smallest normal number and the largest number below 1."""
    limits = np.finfo(dtype)
    return limits.tiny, dtype.type(1) - limits.epsneg
