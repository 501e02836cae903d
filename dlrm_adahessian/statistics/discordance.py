"""Accuracy of two models on the same rows, from the counts of rows that only one of them gets right.

The other rows, where both are right or both wrong, say nothing about which is better. McNemar's test
conditions on the discordant rows, of which each is as likely to favour either model when they are equal.
Its mid-p form is used for any count: Fagerland, Lydersen and Laake, "The McNemar test for binary
matched-pairs data: mid-p and asymptotic are better than exact conditional" (2013), found that it keeps the
level almost always and has the power that the exact test gives away, while for many discordant rows it
agrees with the chi-square. So there is one formula and no threshold between few and many.

Both figures are over the draw of rows for one pair of runs; `crossed` has the intervals over seeds.
"""

import dataclasses

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

from dlrm_adahessian.statistics.intervals import TWO_SIDED_95, Interval

_Correct = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Discordance:
    """How many of `rows` rows only one of two models decides correctly."""

    only_a: int
    only_b: int
    rows: int

    @property
    def difference(self) -> float:
        """Accuracy of a minus accuracy of b."""
        return (self.only_a - self.only_b) / self.rows


def discordance(a_correct: _Correct, b_correct: _Correct) -> Discordance:
    """Count the rows that one model gets right and the other wrong.

    Args:
        a_correct: (N,) bool, N at least 1; see `metrics.correct_decisions`.
        b_correct: (N,) bool, same rows.

    Returns:
        The counts.

    Raises:
        ValueError: shapes differ, there is no row, or a dtype is not bool.
    """
    if a_correct.ndim != 1 or a_correct.shape != b_correct.shape or not len(a_correct):
        raise ValueError(
            f"both models need one decision for each of the same rows, at least 1, got {a_correct.shape} "
            f"and {b_correct.shape}; pair the rows first"
        )
    if a_correct.dtype != np.bool_ or b_correct.dtype != np.bool_:
        raise ValueError(
            f"decisions must be bool, got {a_correct.dtype} and {b_correct.dtype}; take them of correct_decisions"
        )
    return Discordance(
        only_a=int(np.count_nonzero(a_correct & ~b_correct)),
        only_b=int(np.count_nonzero(b_correct & ~a_correct)),
        rows=len(a_correct),
    )


def mcnemar(counts: Discordance) -> float:
    """Return the two-sided mid-p value of equal accuracy, 1 without any discordant row.

    With X ~ Binomial(n, 1/2) of n discordant rows and k the smaller count: 2 P(X < k) + P(X = k).

    Args:
        counts: of `discordance`.

    Returns:
        The p value, above 0 and at most 1.
    """
    total, fewer = counts.only_a + counts.only_b, min(counts.only_a, counts.only_b)
    below = float(bdtr(fewer - 1, total, 0.5)) if fewer else 0.0
    return min(float(bdtr(fewer, total, 0.5)) + below, 1.0)


def bootstrap_accuracy(counts: Discordance, *, draws: int = 10_000, seed: int = 0) -> Interval:
    """Return the 95% percentile bootstrap interval of accuracy(a) - accuracy(b), rows resampled in pairs.

    The difference depends on a resample only through three counts, which are multinomial; so this is the
    bootstrap over rows itself, not an approximation, at a cost that does not grow with the rows.

    Args:
        counts: of `discordance`.
        draws: resamples, at least 1,000.
        seed: of the resampling.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: fewer than 1,000 draws.
    """
    if draws < 1_000:
        raise ValueError(f"2.5% tails need at least 1,000 draws, got {draws}; 10,000 is usual")
    tied = counts.rows - counts.only_a - counts.only_b
    shares = np.array([counts.only_a, counts.only_b, tied]) / counts.rows
    resampled = np.random.default_rng(seed).multinomial(counts.rows, shares, size=draws)
    differences = (resampled[:, 0] - resampled[:, 1]) / counts.rows
    low, high = np.quantile(differences, (1 - TWO_SIDED_95, TWO_SIDED_95))
    return float(low), float(high)
