"""Compute weighted means over samples, and their standard errors from sampling.

A sample of weight w counts as w samples in every mean, so integer weights give the mean of repeated samples. The standard
error does not count repeats: a weight says how many samples one observed sample represents, and repeating it would
pretend to more data. The error of the mean m over n samples is that of a ratio of sums, Huber's sandwich estimator with
the small-sample factor,

    m = sum(w x) / sum(w),   variance of m = n / (n - 1) * sum(w^2 (x - m)^2) / sum(w)^2.

For equal weights this is s^2 / n. See Särndal, Swensson, Wretman, "Model Assisted Survey Sampling" (1992), section 5.6.
A sample of weight 0 has no effect, and `of_weight` removes it.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float32] | npt.NDArray[np.float64]


def check_weights(weights: Weights, rows: int) -> None:
    """Check that each sample has a finite weight of at least 0.

    Args:
        weights: (N,) float32 or float64.
        rows: N.

    Raises:
        ValueError: the shape, dtype, or a value is invalid.
    """
    if weights.shape != (rows,):
        raise ValueError(
            f"Expected one weight for each of {rows} samples, got shape {weights.shape}. Match their lengths."
        )
    if weights.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"Weights must be float32 or float64, got {weights.dtype}. Convert them.")
    if rows and not (weights.min() >= 0 and weights.max() < math.inf):  # NaN fails this form too
        raise ValueError(
            f"Weights must be finite and at least 0, got values from {weights.min()} to {weights.max()}. Correct them."
        )


def of_weight(
    weights: Weights | None, *columns: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float64] | None, *tuple[npt.NDArray[Any], ...]]:
    """Return float64 weights and the columns (N,) without samples of weight 0. Without weights, return all unchanged."""
    if weights is None:
        return None, *columns
    kept = weights > 0
    if kept.all():
        return weights.astype(np.float64), *columns
    return weights[kept].astype(np.float64), *(column[kept] for column in columns)


def mean_with_error(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """Return the mean of values (N,) and its standard error, N at least 2; `weights` (N,) are above 0."""
    if weights is None:
        return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    rows, total = len(values), weights.sum()
    mean = float(weights @ values / total)
    spread = weights * (values - mean)
    return mean, math.sqrt(rows / (rows - 1) * float(spread @ spread)) / float(total)


def effective_rows(holds: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64]) -> float:
    """Return the number of equally weighted samples that would give the same variance of a share.

    It follows from the variance of the share, as in Korn and Graubard, "Confidence intervals for proportions with small
    expected number of positive counts estimated from survey data" (1998). A share of 0 or 1 has no variance; for it, Kish's
    sum(w)^2 / sum(w^2) is used.

    Args:
        holds: (N,) bool, whether each sample counts in the share.
        weights: (N,) above 0.

    Returns:
        The effective number of samples; N for equal weights.
    """
    total = weights.sum()
    share = weights @ holds / total
    spread = weights * (holds - share)
    variance = spread @ spread / total**2
    if variance == 0:
        return float(total**2 / (weights @ weights))
    return float(share * (1 - share) / variance)
