"""Means over samples with weights, and their errors over the draw of samples.

A sample of weight w counts as w samples in every mean: with whole weights a mean is that over repeated samples. Its error
is not. Rows are what was drawn, and a weight says for how many a row stands; to repeat it would pretend to more data. So
the error of the mean m over n rows is that of a ratio of sums, Huber's sandwich, with the usual factor for few rows,

    m = sum(w x) / sum(w),   variance of m = n / (n - 1) * sum(w^2 (x - m)^2) / sum(w)^2,

which for equal weights is s^2 / n: e.g. Särndal, Swensson, Wretman, "Model Assisted Survey Sampling" (1992), section 5.6.
A row of weight 0 is as if it were not there, and `of_weight` leaves it out.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float32] | npt.NDArray[np.float64]


def check_weights(weights: Weights, rows: int) -> None:
    """Refuse anything but a finite weight of at least 0 for each row.

    Args:
        weights: (N,) float32 or float64.
        rows: N.

    Raises:
        ValueError: shape, dtype or values break the rule.
    """
    if weights.shape != (rows,):
        raise ValueError(f"there is one weight for each of {rows} rows, got {weights.shape}; pair them")
    if weights.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"weights must be float32 or float64, got {weights.dtype}; convert them")
    if rows and not (weights.min() >= 0 and weights.max() < math.inf):  # written so that NaN fails too
        raise ValueError(
            f"weights must be finite and at least 0, got values from {weights.min()} to {weights.max()}; correct them"
        )


def of_weight(
    weights: Weights | None, *columns: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float64] | None, *tuple[npt.NDArray[Any], ...]]:
    """Return the weights in float64, and the columns (N,), of the rows that have weight; without weights all as they are."""
    if weights is None:
        return None, *columns
    kept = weights > 0
    if kept.all():
        return weights.astype(np.float64), *columns
    return weights[kept].astype(np.float64), *(column[kept] for column in columns)


def mean_with_error(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """Return the mean of (N,) values and its standard error, N at least 2; `weights` (N,) are above 0."""
    if weights is None:
        return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    rows, total = len(values), weights.sum()
    mean = float(weights @ values / total)
    spread = weights * (values - mean)
    return mean, math.sqrt(rows / (rows - 1) * float(spread @ spread)) / float(total)


def effective_rows(holds: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64]) -> float:
    """Return of how many rows of equal weight a share is as sure as of these.

    From the variance of the share, as in Korn and Graubard, "Confidence intervals for proportions with small expected number
    of positive counts estimated from survey data" (1998); a share of 0 or 1 has none, and takes Kish's sum(w)^2 / sum(w^2).

    Args:
        holds: (N,) bool, what the share is of.
        weights: (N,) above 0.

    Returns:
        The rows, N for equal weights.
    """
    total = weights.sum()
    share = weights @ holds / total
    spread = weights * (holds - share)
    variance = spread @ spread / total**2
    if variance == 0:
        return float(total**2 / (weights @ weights))
    return float(share * (1 - share) / variance)
