"""Adjustment of p values for the number of comparisons: Holm's.

Holm, "A simple sequentially rejective multiple test procedure" (1979). Rejecting where the adjusted value
is at most alpha keeps the chance of any false rejection at alpha, however the tests depend on each other.
"""

from collections.abc import Sequence

import numpy as np


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
