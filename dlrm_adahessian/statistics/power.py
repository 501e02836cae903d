"""The smallest true difference that a comparison of this size is likely to find.

A t test with standard error e and nu degrees of freedom meets a true difference d with a noncentral t
statistic of noncentrality d / e; e.g. Lehmann and Romano, "Testing Statistical Hypotheses" (2005),
section 5.2. The normal case is (1.960 + 0.842) e for 80% power at two-sided 5%.
"""

import math

from scipy.special import nctdtrinc, ndtri

from dlrm_adahessian.statistics.components import Estimate
from dlrm_adahessian.statistics.intervals import student_quantile
from dlrm_adahessian.statistics.paired import PairedDifference


def minimum_detectable(
    found: Estimate | PairedDifference, *, power: float = 0.8, level: float = 0.05
) -> float:
    """Return the true difference that such a comparison declares significant with probability `power`.

    It depends on the size and noise of the comparison alone, never on the difference found, and is as
    uncertain as the standard error: with few seeds, a figure for planning. Rejections on the wrong side
    are left out. For m comparisons under Holm's adjustment, `level` / m gives an upper bound.

    Args:
        found: an estimate with its standard error; a paired difference counts as normal.
        power: probability of a significant result, in [`level`, 1).
        level: two-sided level of the test, in (0, 1).

    Returns:
        The difference, at least 0 and in the unit of the estimate; 0 for a standard error of 0.

    Raises:
        ValueError: `power` or `level` is out of range.
    """
    if not 0 < level < 1 or not level <= power < 1:
        raise ValueError(
            f"level must lie in (0, 1) and power in [level, 1), got {level} and {power}; 0.05 and 0.8 are usual"
        )
    freedom = found.degrees_of_freedom if isinstance(found, Estimate) else math.inf
    critical = student_quantile(1 - level / 2, freedom)
    if math.isinf(freedom):
        return found.standard_error * (critical + float(ndtri(power)))
    return found.standard_error * float(nctdtrinc(freedom, 1 - power, critical))
