"""Variance components of a figure measured on the same rows under several seeds: rows, seeds, interaction.

The figure of seed s on N rows is `mu + R + S_s + E_s`: R the chance of the rows, the same for all seeds,
S_s the chance of the seed, E_s that of a seed on a row. The mean over S seeds has the variance

    V = var(R) + var(S_s) / S + var(E_s) / S,

which is the analysis of variance of two crossed factors, and that of readers and cases in the comparison
of diagnostic tests: Obuchowski and Rockette, "Hypothesis testing of diagnostic accuracy for multiple
readers and multiple tests" (1995), one difference of two tests per reader. The moments that estimate it:

    V_seeds  = variance of the S figures / S                        ->  var(S_s) / S + var(E_s) / S
    V_rows   = error over rows of the mean over seeds, squared      ->  var(R)       + var(E_s) / S
    within   = error over rows of one seed, squared, mean of seeds  ->  var(R)       + var(E_s)
    V_inter  = (within - V_rows) / (S - 1)                          ->  var(E_s) / S
    V        = V_seeds + max(V_rows - V_inter, 0).

`V_rows - V_inter` is the mean covariance of two seeds' figures over the draw of rows. The degrees of
freedom are those of Hillis, "A comparison of denominator degrees of freedom methods for multiple observer
ROC analysis" (2007), which are Satterthwaite's with rows so many that their moments count as known:
(S - 1) (V / V_seeds)**2, between S - 1 (all chance is of seeds) and infinity (none is).

Where that interval is narrower than the one over rows alone of the mean over seeds, the latter is given:
a spread of few figures can be small by luck, but the rows bound it from below.

The smallest true difference that a comparison is likely to find: a t test with standard error e and nu degrees of
freedom meets a true difference d with a noncentral t statistic of noncentrality d / e; e.g. Lehmann and Romano,
"Testing Statistical Hypotheses" (2005), section 5.2. The normal case is (1.960 + 0.842) e for 80% power at two-sided 5%.
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
    """A mean over seeds with its error over rows and seeds; over rows alone where there is one seed.

    The shares are of the variance of the mean, each 0 to 1; what they leave of 1 is the interaction, the
    chance of a seed on one row, which more rows and more seeds both reduce. More rows reduce `rows_share`
    alone, more seeds `seeds_share` alone. They are rough: with S seeds, as rough as a variance of S values.

    Attributes:
        estimate: mean over seeds.
        standard_error: of `estimate`; 0 when no row and no seed differs.
        ci95: Student's 95% interval (low, high).
        p_value: two-sided, of a true value of 0; 1 when the estimate is exactly 0.
        degrees_of_freedom: of Student's distribution, at least S - 1; infinity means normal.
        rows_share: part of the variance that only more rows reduce; None for one seed or no variance.
        seeds_share: part of the variance that only more seeds reduce; None as `rows_share`.
    """

    estimate: float
    standard_error: float
    ci95: Interval
    p_value: float
    degrees_of_freedom: float = math.inf
    rows_share: float | None = None
    seeds_share: float | None = None


class _Error(NamedTuple):
    """A standard error and the degrees of freedom that it was estimated with."""

    standard_error: float
    degrees_of_freedom: float

    @property
    def half_width(self) -> float:
        """Half of the 95% interval."""
        return student_quantile(TWO_SIDED_95, self.degrees_of_freedom) * self.standard_error


def combine(figures: Sequence[float], row_variance: float, within: Sequence[float]) -> Estimate:
    """Return the mean of one figure per seed with its interval over rows and seeds.

    Asymptotic in the rows; Satterthwaite's approximation in the seeds, `figures` being about normal.

    Args:
        figures: (S,) the figure of each seed on the same rows, S at least 1.
        row_variance: squared standard error, over the draw of rows, of the mean of `figures`.
        within: (S,) squared standard error, over the draw of rows, of each figure.

    Returns:
        The estimate; with one seed, over the rows alone.
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


def _error(rows: float, of_seeds: float, seeds: int) -> _Error:
    """Return the root of the summed variances with Hillis' degrees of freedom."""
    variance = rows + of_seeds
    ratio = of_seeds / variance if variance > 0 else 0.0
    return _Error(math.sqrt(variance), (seeds - 1) / ratio**2 if ratio > 1e-8 else math.inf)


def _estimate(mean: float, error: _Error) -> Estimate:
    """Add the interval and the p value."""
    return Estimate(
        estimate=mean,
        standard_error=error.standard_error,
        ci95=student_interval(mean, *error),
        p_value=two_sided_p(mean, *error),
        degrees_of_freedom=error.degrees_of_freedom,
    )
