"""Two-sided intervals and p values of an estimate with a standard error: Student's t, normal by default."""

import math

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
