"""Two-sided intervals and p values of an estimate with a standard error, and their adjustment for many comparisons.

Student's t, normal by default. The adjustment is Holm's, "A simple sequentially rejective multiple test procedure"
(1979): rejecting where the adjusted value is at most alpha keeps the chance of any false rejection at alpha, however the
tests depend on each other.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

Interval = tuple[float, float]

TWO_SIDED_95 = 0.975  # quantile that leaves 2.5% on each side


def student_quantile(probability: float, degrees_of_freedom: float = math.inf) -> float:
    """Return Student's quantile, exactly the normal one for infinitely many degrees of freedom."""
    if math.isinf(degrees_of_freedom):
        return float(ndtri(probability))
    return float(stdtrit(degrees_of_freedom, probability))


def student_interval(
    estimate: float, standard_error: float, degrees_of_freedom: float = math.inf
) -> Interval:
    """Return the central 95% of Student's distribution around `estimate`."""
    half = student_quantile(TWO_SIDED_95, degrees_of_freedom) * standard_error
    return estimate - half, estimate + half


def two_sided_p(estimate: float, standard_error: float, degrees_of_freedom: float = math.inf) -> float:
    """Return the p value of no difference; without any spread, 1 for an estimate of 0 and else 0."""
    if standard_error == 0:
        return float(estimate == 0)
    statistic = -abs(estimate) / standard_error
    tail = ndtr(statistic) if math.isinf(degrees_of_freedom) else stdtr(degrees_of_freedom, statistic)
    return float(2 * tail)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """A difference a - b of two models on the same samples; it says nothing about how another seed would have trained.

    Attributes:
        estimate: a - b.
        standard_error: of `estimate`, over the draw of samples; 0 when all samples agree.
        ci95: normal 95% interval (low, high).
        p_value: two-sided, of no difference; 1 when both models agree on every sample.
    """

    estimate: float
    standard_error: float
    ci95: Interval
    p_value: float

    @classmethod
    def normal(cls, estimate: float, standard_error: float) -> "PairedDifference":
        """Add the normal interval and p value; without any spread a non-zero difference has p 0."""
        return cls(
            estimate=estimate,
            standard_error=standard_error,
            ci95=student_interval(estimate, standard_error),
            p_value=two_sided_p(estimate, standard_error),
        )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values, in the order given.

    The k-th smallest of m is multiplied by m - k + 1, then raised to the adjusted values before it.

    Args:
        p_values: (m,) in [0, 1], one for each comparison of the family, which is fixed before looking.

    Returns:
        (m,) in [0, 1], none below its own p value; equal p values stay equal.

    Raises:
        ValueError: a value lies outside [0, 1] or is NaN.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():  # written so that NaN fails too
        raise ValueError(f"p values must lie in [0, 1], got {list(p_values)}; leave undefined ones out")
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return adjusted.tolist()
