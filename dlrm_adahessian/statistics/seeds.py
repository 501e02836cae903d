"""Student's interval over one figure per seed."""

import math
from collections.abc import Sequence

import numpy as np

from dlrm_adahessian.statistics.intervals import student_interval


def seed_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, low and high of Student's 95% interval over per-seed differences.

    Covers seeds and rows together when each seed is one paired difference; assumes that the differences
    are about normal.

    Args:
        differences: one figure per seed, ours minus baseline; at least two.

    Returns:
        Mean, lower and upper end.

    Raises:
        ValueError: fewer than two differences, or one is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"an interval needs at least 2 finite differences, got {list(differences)}; run more seeds"
        )
    mean = float(values.mean())
    low, high = student_interval(mean, float(values.std(ddof=1)) / math.sqrt(len(values)), len(values) - 1)
    return mean, low, high
