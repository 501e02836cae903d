"""Estimate the variance components of a figure measured on the same samples under several seeds.

The figure of seed s on N samples is `mu + R + S_s + E_s`. R is the effect of the samples, the same for all seeds, S_s the
effect of the seed, and E_s the interaction of seed and samples. The mean over S seeds has the variance

    V = var(R) + var(S_s) / S + var(E_s) / S.

This is the analysis of variance with two crossed factors, as for readers and cases in the comparison of diagnostic tests:
Obuchowski and Rockette, "Hypothesis testing of diagnostic accuracy for multiple readers and multiple tests" (1995), with
one difference of two tests per reader. It is estimated by moments:

    V_seeds  = variance of the S figures / S                                 ->  var(S_s) / S + var(E_s) / S
    V_rows   = squared sampling error of the mean over seeds                 ->  var(R)       + var(E_s) / S
    within   = squared sampling error of one seed, averaged over seeds       ->  var(R)       + var(E_s)
    V_inter  = (within - V_rows) / (S - 1)                                   ->  var(E_s) / S
    V        = V_seeds + max(V_rows - V_inter, 0).

`V_rows - V_inter` is the mean covariance between two seeds' figures under sampling. The degrees of freedom follow Hillis,
"A comparison of denominator degrees of freedom methods for multiple observer ROC analysis" (2007). They are
Satterthwaite's with the sampling moments treated as known: (S - 1) (V / V_seeds)**2, between S - 1 (all variance comes from
seeds) and infinity (none does).

If this interval is narrower than the one for the mean over seeds that covers sampling only, the latter is returned. The
spread of few figures can be small by chance, but sampling bounds the uncertainty from below.

The minimum detectable difference follows from the noncentral t distribution: with standard error e and nu degrees of
freedom, a true difference d gives a t statistic with noncentrality d / e. See Lehmann and Romano, "Testing Statistical
Hypotheses" (2005), section 5.2. In the normal case it is (1.960 + 0.842) e for 80% power at a two-sided level of 5%.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.special import nctdtrinc, ndtri

from dlrm_adahessian.statistics.intervals import (
    TWO_SIDED_95,
    Interval,
    PairedDifference,
    student_interval,
    student_quantile,
    two_sided_p,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Mean over seeds with an error that covers samples and seeds, or only samples if there is one seed.

    The shares split the variance of the mean, each in [0, 1]. Only more samples reduce `rows_share`, and only more seeds
    reduce `seeds_share`. The rest is the interaction of seed and samples, which both reduce. The shares are rough: with S
    seeds, as uncertain as a variance of S values.

    Attributes:
        estimate: mean over seeds.
        standard_error: standard error of `estimate`; 0 if no sample and no seed differs.
        ci95: 95% interval (low, high) from Student's t distribution.
        p_value: two-sided p value of a true value of 0; 1 if the estimate is exactly 0.
        degrees_of_freedom: degrees of freedom, at least S - 1; infinity means normal.
        rows_share: share of the variance that only more samples reduce; None for one seed or no variance.
        seeds_share: share of the variance that only more seeds reduce; None for one seed or no variance.
    """

    estimate: float
    standard_error: float
    ci95: Interval
    p_value: float
    degrees_of_freedom: float = math.inf
    rows_share: float | None = None
    seeds_share: float | None = None


class _Error(NamedTuple):
    """Standard error and its degrees of freedom."""

    standard_error: float
    degrees_of_freedom: float

    @property
    def half_width(self) -> float:
        """Half width of the 95% interval."""
        return student_quantile(TWO_SIDED_95, self.degrees_of_freedom) * self.standard_error


def combine(figures: Sequence[float], row_variance: float, within: Sequence[float]) -> Estimate:
    """Return the mean of one figure per seed with an interval that covers samples and seeds.

    The interval is asymptotic in the samples. For seeds it uses Satterthwaite's approximation, which assumes that `figures`
    are approximately normal.

    Args:
        figures: (S,) figure of each seed on the same samples, S at least 1.
        row_variance: squared standard error of the mean of `figures` from sampling.
        within: (S,) squared standard error of each figure from sampling.

    Returns:
        The estimate; with one seed, it covers samples only.
    """
    seeds = len(figures)
    mean = math.fsum(figures) / seeds
    rows_alone = _Error(math.sqrt(row_variance), math.inf)
    if seeds == 1:
        return _estimate(mean, rows_alone)
    interaction = max(math.fsum(within) / seeds - row_variance, 0.0) / (seeds - 1)
    rows = max(row_variance - interaction, 0.0)
    of_seeds = math.fsum((figure - mean) ** 2 for figure in figures) / (seeds - 1) / seeds
    error = max(rows_alone, _error(rows, of_seeds, seeds), key=lambda error: error.half_width)
    only_seeds = max(of_seeds - interaction, 0.0)
    total = rows + only_seeds + interaction
    return dataclasses.replace(
        _estimate(mean, error),
        rows_share=rows / total if total > 0 else None,
        seeds_share=only_seeds / total if total > 0 else None,
    )


def minimum_detectable(
    found: Estimate | PairedDifference, *, power: float = 0.8, level: float = 0.05
) -> float:
    """Return the true difference that a comparison of this size finds significant with probability `power`.

    It depends only on the size and noise of the comparison, not on the difference found. It is as uncertain as the standard
    error; with few seeds, use it for planning only. Rejections in the wrong direction do not count. For m comparisons with
    Holm's adjustment, `level` / m gives an upper bound.

    Args:
        found: an estimate with its standard error; paired differences are treated as normal.
        power: probability of a significant result, in [`level`, 1).
        level: two-sided level of the test, in (0, 1).

    Returns:
        The difference, at least 0, in the unit of the estimate; 0 for a standard error of 0.

    Raises:
        ValueError: `power` or `level` is out of range.
    """
    if not 0 < level < 1 or not level <= power < 1:
        raise ValueError(
            f"level must be in (0, 1) and power in [level, 1), got {level} and {power}. Common choices are 0.05 and 0.8."
        )
    freedom = found.degrees_of_freedom if isinstance(found, Estimate) else math.inf
    critical = student_quantile(1 - level / 2, freedom)
    if math.isinf(freedom):
        return found.standard_error * (critical + float(ndtri(power)))
    return found.standard_error * float(nctdtrinc(freedom, 1 - power, critical))


def _error(rows: float, of_seeds: float, seeds: int) -> _Error:
    """Return the square root of the summed variances with Hillis' degrees of freedom."""
    variance = rows + of_seeds
    ratio = of_seeds / variance if variance > 0 else 0.0
    return _Error(math.sqrt(variance), (seeds - 1) / ratio**2 if ratio > 1e-8 else math.inf)


def _estimate(mean: float, error: _Error) -> Estimate:
    """Compute the interval and the p value."""
    return Estimate(
        estimate=mean,
        standard_error=error.standard_error,
        ci95=student_interval(mean, *error),
        p_value=two_sided_p(mean, *error),
        degrees_of_freedom=error.degrees_of_freedom,
    )
