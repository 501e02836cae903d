"""The mean of a paired per-row difference of two models, over the draw of rows.

The normal interval of a mean; it treats rows as independent draws and says nothing about how another seed
would have trained.
"""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.statistics.intervals import Interval, student_interval, two_sided_p


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """A difference a - b of two models on the same rows.

    Attributes:
        estimate: a - b.
        standard_error: of `estimate`, over the draw of rows; 0 when all rows agree.
        ci95: normal 95% interval (low, high).
        p_value: two-sided, of no difference; 1 when both models agree on every row.
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


def paired_mean_difference(
    a_losses: npt.NDArray[np.generic], b_losses: npt.NDArray[np.generic]
) -> PairedDifference:
    """Return mean(a - b) with the normal interval of a mean of paired rows.

    Args:
        a_losses: (N,) a figure per row whose mean matters: log loss, or correctness as bool; N at least 2.
        b_losses: (N,) the same figure of the other model, same rows.

    Returns:
        The paired difference.

    Raises:
        ValueError: the lengths differ, there are fewer than two rows, or a value is not finite.
    """
    if a_losses.ndim != 1 or a_losses.shape != b_losses.shape or len(a_losses) < 2:
        raise ValueError(
            f"both models need one value for each of the same rows, at least 2, got {a_losses.shape} and "
            f"{b_losses.shape}; pair the rows first"
        )
    a, b = a_losses.astype(np.float64), b_losses.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("per-row values must be finite, got NaN or infinity; drop the diverged run")
    difference = a - b
    mean = float(difference.mean())
    return PairedDifference.normal(mean, float(difference.std(ddof=1)) / math.sqrt(len(difference)))
