"""Compute two-sided intervals and p values from an estimate and its standard error, and adjust for many comparisons.

Intervals use Student's t distribution, by default its normal limit. The adjustment is Holm's, "A simple sequentially
rejective multiple test procedure" (1979). Rejecting if the adjusted p value is at most alpha limits the probability of any
false rejection to alpha, for any dependence between the tests.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

Interval = tuple[float, float]

TWO_SIDED_95 = 0.975  # quantile that leaves 2.5% on each side


def student_quantile(probability: float, degrees_of_freedom: float = math.inf) -> float:
    """Return the quantile of Student's t distribution; exactly normal for infinite degrees of freedom."""
    if math.isinf(degrees_of_freedom):
        return float(ndtri(probability))
    return float(stdtrit(degrees_of_freedom, probability))


def student_interval(
    estimate: float, standard_error: float, degrees_of_freedom: float = math.inf
) -> Interval:
    """Return the 95% interval of Student's t distribution around `estimate`."""
    half = student_quantile(TWO_SIDED_95, degrees_of_freedom) * standard_error
    return estimate - half, estimate + half


def two_sided_p(estimate: float, standard_error: float, degrees_of_freedom: float = math.inf) -> float:
    """Return the p value of no difference. For a standard error of 0 it is 1 if the estimate is 0, else 0."""
    if standard_error == 0:
        return float(estimate == 0)
    statistic = -abs(estimate) / standard_error
    tail = ndtr(statistic) if math.isinf(degrees_of_freedom) else stdtr(degrees_of_freedom, statistic)
    return float(2 * tail)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Difference a - b of two models on the same samples. It covers sampling only, not other seeds.

    Attributes:
        estimate: a - b.
        standard_error: standard error of `estimate` from sampling; 0 if all samples agree.
        ci95: normal 95% interval (low, high).
        p_value: two-sided p value of no difference; 1 if both models agree on every sample.
    """

    estimate: float
    standard_error: float
    ci95: Interval
    p_value: float

    @classmethod
    def normal(cls, estimate: float, standard_error: float) -> "PairedDifference":
        """Compute the normal interval and p value. For a standard error of 0, a non-zero difference has p value 0."""
        return cls(
            estimate=estimate,
            standard_error=standard_error,
            ci95=student_interval(estimate, standard_error),
            p_value=two_sided_p(estimate, standard_error),
        )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values, in the order given.

    The k-th smallest of m values is multiplied by m - k + 1, then raised to at least the adjusted values before it.

    Args:
        p_values: (m,) in [0, 1], one per comparison of a family that is fixed before looking at results.

    Returns:
        (m,) in [0, 1], each at least its p value; equal p values remain equal.

    Raises:
        ValueError: a value is outside [0, 1] or NaN.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():  # NaN fails this form too
        raise ValueError(f"p values must be in [0, 1], got {list(p_values)}. Remove undefined values.")
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return adjusted.tolist()
