"""Compare the accuracy of two models on the same samples, from the samples that only one of them gets right.

Samples that both models get right, or both get wrong, carry no information about which is better. McNemar's test
conditions on the discordant samples: if the models are equal, each is equally likely to favor either model. We use the
mid-p form for any count. Fagerland, Lydersen and Laake, "The McNemar test for binary matched-pairs data: mid-p and
asymptotic are better than exact conditional" (2013), found that it almost always keeps its level, has more power than the
exact test, and agrees with the chi-square test for many discordant samples. One formula thus covers small and large
counts.

Both results cover sampling for one pair of runs; `crossed` has intervals that cover seeds.
"""

import dataclasses

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

from dlrm_adahessian.statistics.intervals import TWO_SIDED_95, Interval

_Correct = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Discordance:
    """Count the samples, out of `rows`, that only one of two models gets right."""

    only_a: int
    only_b: int
    rows: int

    @property
    def difference(self) -> float:
        """Accuracy of a minus that of b."""
        return (self.only_a - self.only_b) / self.rows


def discordance(a_correct: _Correct, b_correct: _Correct) -> Discordance:
    """Count the samples that one model gets right and the other wrong.

    Args:
        a_correct: (N,) bool, N at least 1; see `metrics.correct_decisions`.
        b_correct: (N,) bool, for the same samples.

    Returns:
        The counts.

    Raises:
        ValueError: shapes differ, there is no sample, or a dtype is not bool.
    """
    if a_correct.ndim != 1 or a_correct.shape != b_correct.shape or not len(a_correct):
        raise ValueError(
            f"Both models need one decision for each of the same samples, at least 1, got {a_correct.shape} "
            f"and {b_correct.shape}. Match the samples first."
        )
    if a_correct.dtype != np.bool_ or b_correct.dtype != np.bool_:
        raise ValueError(
            f"Decisions must be bool, got {a_correct.dtype} and {b_correct.dtype}. Compute them with correct_decisions."
        )
    return Discordance(
        only_a=int(np.count_nonzero(a_correct & ~b_correct)),
        only_b=int(np.count_nonzero(b_correct & ~a_correct)),
        rows=len(a_correct),
    )


def mcnemar(counts: Discordance) -> float:
    """Return McNemar's two-sided mid-p value for equal accuracy; 1 without discordant samples.

    It is 2 P(X < k) + P(X = k) with X ~ Binomial(n, 1/2), n discordant samples, and the smaller count k.

    Args:
        counts: result of `discordance`.

    Returns:
        The p value, above 0 and at most 1.
    """
    total, fewer = counts.only_a + counts.only_b, min(counts.only_a, counts.only_b)
    below = float(bdtr(fewer - 1, total, 0.5)) if fewer else 0.0
    return min(float(bdtr(fewer, total, 0.5)) + below, 1.0)


def bootstrap_accuracy(counts: Discordance, *, draws: int = 10_000, seed: int = 0) -> Interval:
    """Return the 95% percentile bootstrap interval of accuracy(a) - accuracy(b) with paired resampling.

    The difference depends on a resample only through three multinomial counts. Drawing these counts is therefore the exact
    bootstrap over samples, and its cost does not grow with the number of samples.

    Args:
        counts: result of `discordance`.
        draws: number of resamples, at least 1,000.
        seed: random seed of the resampling.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: `draws` is below 1,000.
    """
    if draws < 1_000:
        raise ValueError(
            f"draws must be at least 1,000 for 2.5% tails, got {draws}. A common choice is 10,000."
        )
    tied = counts.rows - counts.only_a - counts.only_b
    shares = np.array([counts.only_a, counts.only_b, tied]) / counts.rows
    resampled = np.random.default_rng(seed).multinomial(counts.rows, shares, size=draws)
    differences = (resampled[:, 0] - resampled[:, 1]) / counts.rows
    low, high = np.quantile(differences, (1 - TWO_SIDED_95, TWO_SIDED_95))
    return float(low), float(high)
