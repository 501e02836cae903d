"""The difference between two optimizers over both sources of chance: rows and seeds.

Seed s = 1..S trains a pair of runs, ours and theirs, from the same initial weights in the same order of
data, and both predict the same N rows. So d[s, i], the difference of a per-row figure, has two crossed
factors, and its mean has the variance

    var(row) / N + var(seed) / S + var(seed x row) / (N S),

estimated by moments in `components`. AUC is no mean over rows, but its DeLong placements stand in for
them: within each class they average to the AUC, and to first order vary like rows (`delong`). It is the
analysis of Obuchowski and Rockette (1995) with seeds as readers and DeLong's covariances.

**What the interval covers.** Another draw of rows and other seeds, for this training set.

* Rows of a test split had no part in training: rows are independent draws of the days they come from.
* Rows of progressive validation are predicted before they are learnt, so the difference on each, less its
  expectation given what came before, is uncorrelated with the others', and the formula for rows holds for
  means: the target is the mean, over the steps of this training, of the expected difference on a fresh
  row. That expectation drifts while models learn; its drift is counted as chance of rows, which widens the
  interval. Not covered is another training set. For AUC, which compares rows of different steps, the same
  holds only roughly.

**How many seeds.** The share of 95% intervals that cover the truth, rows being many and figures of seeds
about normal, depends on the ratio of the variance of seeds to that of rows. At its worst it is 87% for 2
seeds, 92% for 3, 94% for 5 and 94.8% for 10; it nears 97% where a seed's chance is all of the interaction.
At 2 seeds the interval is a warning, not a result: Student's quantile reaches 12.7. One seed shows the
chance of rows alone. Leaving diverged pairs out conditions on not diverging: report how many beside it.

Memory: seeds are streamed; three float64 sums per row are kept, whatever S.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import zip_longest
from typing import Literal

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.metrics.binary import (
    Labels,
    Probabilities,
    check_predictions,
    row_correct,
    row_log_losses,
)
from dlrm_adahessian.statistics.components import Estimate, combine
from dlrm_adahessian.statistics.delong import mean_over_classes, placements, rarer_class
from dlrm_adahessian.statistics.intervals import Interval

_Rows = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossedDifference:
    """Ours minus theirs, averaged over seeds.

    Attributes:
        rows: N.
        seeds: S.
        auc: difference of AUC; None with fewer than two rows of a class.
        accuracy: difference of the share of correct decisions, 0 to 1.
        logloss: difference of log loss in nats; negative where ours is better.
    """

    rows: int
    seeds: int
    auc: Estimate | None
    accuracy: Estimate
    logloss: Estimate

    @property
    def covers(self) -> Literal["rows", "rows and seeds"]:
        """Say which chance the intervals cover; one seed shows nothing of other seeds."""
        return "rows" if self.seeds == 1 else "rows and seeds"

    def asdict(self) -> dict[str, float | str | Interval | None]:
        """Return the figures flat and ready for JSON: `auc`, `auc_ci95`, ...; None for infinity."""
        flat: dict[str, float | str | Interval | None] = {
            "rows": self.rows,
            "seeds": self.seeds,
            "covers": self.covers,
        }
        for name, found in (("auc", self.auc), ("accuracy", self.accuracy), ("logloss", self.logloss)):
            for field in dataclasses.fields(Estimate):
                value = getattr(found, field.name) if found else None
                flat[name if field.name == "estimate" else f"{name}_{field.name}"] = (
                    None if value == math.inf else value
                )
        return flat


def crossed_difference(
    labels: Labels, ours: Iterable[Probabilities], theirs: Iterable[Probabilities]
) -> CrossedDifference:
    """Return ours minus theirs in AUC, accuracy and log loss, with 95% intervals over rows and seeds.

    With one seed the intervals cover the rows alone and equal those of `compare_predictions`; `covers`
    says so. Seeds are taken one at a time, so a generator that reads one file after another will do.

    Refuses, by ValueError, no seed, a seed that only one side has, fewer than two rows, and predictions
    that are not finite (a diverged run) or break the rule of `check_predictions`.

    Args:
        labels: (N,) 0 or 1, N at least 2.
        ours: one (N,) float32 or float64 in [0, 1] per seed, in the order of `labels`.
        theirs: like `ours`, the same seeds in the same order.

    Returns:
        The differences.
    """
    auc = _Moments(partial(mean_over_classes, labels)) if rarer_class(labels) >= 2 else None
    accuracy, logloss = _Moments(_mean_over_rows), _Moments(_mean_over_rows)
    for a, b in _checked_pairs(labels, ours, theirs):
        if auc:
            auc.add(placements(labels, a) - placements(labels, b))
        accuracy.add(np.subtract(row_correct(labels, a), row_correct(labels, b), dtype=np.float64))
        logloss.add(row_log_losses(labels, a) - row_log_losses(labels, b))
    return CrossedDifference(
        rows=len(labels),
        seeds=accuracy.seeds,
        auc=auc.estimate() if auc else None,
        accuracy=accuracy.estimate(),
        logloss=logloss.estimate(),
    )


def crossed_mean(differences: Iterable[npt.NDArray[np.generic]]) -> Estimate:
    """Return the mean of a per-row difference with its interval over rows and seeds.

    For figures that `crossed_difference` does not have, such as a weighted log loss.

    Args:
        differences: one (N,) real or bool array per seed, the same rows in the same order, N at least 2.

    Returns:
        The estimate; with one seed, over the rows alone.

    Raises:
        ValueError: no seed, fewer than two rows, seeds that differ in rows, or a value that is not finite.
    """
    moments = _Moments(_mean_over_rows)
    shape: tuple[int, ...] | None = None
    for difference in differences:
        shape = shape or difference.shape
        if difference.ndim != 1 or difference.shape != shape or len(difference) < 2:
            raise ValueError(
                f"every seed needs one value for each of the same rows, at least 2, got {shape} and "
                f"{difference.shape}; pair the rows first"
            )
        if not np.isfinite(difference).all():
            raise ValueError("per-row values must be finite, got NaN or infinity; drop the diverged seed")
        moments.add(difference.astype(np.float64))
    return moments.estimate()


class _Moments:
    """Sums over seeds of one per-row figure: what `combine` needs, in one (N,) float64 array."""

    def __init__(self, spread: Callable[[_Rows], tuple[float, float]]) -> None:
        """Start empty; `spread` maps per-row values (N,) to their figure and its error over the rows."""
        self._spread = spread
        self._total: _Rows | None = None
        self._figures: list[float] = []
        self._within: list[float] = []

    @property
    def seeds(self) -> int:
        """How many seeds were added."""
        return len(self._figures)

    def add(self, difference: _Rows) -> None:
        """Take in one seed's per-row differences (N,), which the caller gives away."""
        figure, error = self._spread(difference)
        self._figures.append(figure)
        self._within.append(error**2)
        if self._total is None:
            self._total = difference
        else:
            self._total += difference

    def estimate(self) -> Estimate:
        """Return the mean over seeds; raises ValueError without any seed."""
        if self._total is None:
            raise ValueError("a difference needs at least one seed, got none; train a pair of runs first")
        _, error = self._spread(self._total)
        return combine(self._figures, (error / self.seeds) ** 2, self._within)


def _mean_over_rows(values: _Rows) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))


def _checked_pairs(
    labels: Labels, ours: Iterable[Probabilities], theirs: Iterable[Probabilities]
) -> Iterator[tuple[Probabilities, Probabilities]]:
    """Pair the seeds of both sides and refuse what has no difference."""
    for number, (a, b) in enumerate(zip_longest(ours, theirs)):
        if a is None or b is None:
            longer, shorter = ("theirs", "ours") if a is None else ("ours", "theirs")
            raise ValueError(
                f"both sides need a run for each seed, got more in {longer} than the {number} in {shorter}; "
                "drop seeds that one side lacks"
            )
        for side, probability in (("ours", a), ("theirs", b)):
            if not np.isfinite(probability).all():
                raise ValueError(
                    f"probabilities must be finite, got NaN or infinity in pair {number} of {side}; leave "
                    "the diverged pair out and report that it diverged"
                )
            check_predictions(labels, probability)
        if len(labels) < 2:
            raise ValueError(f"an interval needs at least 2 rows, got {len(labels)}; evaluate on more rows")
        yield a, b
