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

**Searches.** Where hyper-parameters were tuned, seeds that share a search share its luck too. Their differences on each row
are averaged first, and the searches stand for the seeds in all of the above: the interval then covers another search. With
one search it is conditional on what that one chose.

Memory: seeds are streamed; three float64 sums per row are kept, whatever S.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, repeat, zip_longest
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.metrics.binary import METRICS, check_predictions
from dlrm_adahessian.metrics.means import Weights, check_weights, mean_with_error, of_weight
from dlrm_adahessian.metrics.ranking import Labels, Probabilities
from dlrm_adahessian.statistics.comparison import difference_per_sample
from dlrm_adahessian.statistics.components import Estimate, combine
from dlrm_adahessian.statistics.intervals import Interval

_Values = npt.NDArray[np.float64]
_NO_SEED = "a difference needs at least one seed, got none; train a pair of runs first"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossedDifference:
    """Ours minus theirs, averaged over seeds.

    Attributes:
        rows: N.
        seeds: runs of each side.
        by_metric: the difference in each of `METRICS`; None where a class has too few samples for it.
        searches: independent searches that the runs come from; None where all have the same hyper-parameters.
    """

    rows: int
    seeds: int
    by_metric: Mapping[str, Estimate | None]
    searches: int | None = None

    def __getitem__(self, metric: str) -> Estimate | None:
        return self.by_metric[metric]

    @property
    def logloss(self) -> Estimate:
        """The difference of log loss in nats, by which optimizers are judged; negative where ours is better."""
        return cast(Estimate, self["logloss"])  # defined for any two samples

    @property
    def covers(self) -> Literal["rows", "rows and seeds", "rows, seeds and tuning"]:
        """Say which chance the intervals cover; one seed shows nothing of other seeds, one search nothing of others."""
        if self.searches is not None and self.searches > 1:
            return "rows, seeds and tuning"
        return "rows" if self.seeds == 1 else "rows and seeds"

    def asdict(self) -> dict[str, float | str | Interval | None]:
        """Return the estimates flat and ready for JSON: `auc`, `auc_ci95`, ...; None for infinity."""
        flat: dict[str, float | str | Interval | None] = {
            "rows": self.rows,
            "seeds": self.seeds,
            "covers": self.covers,
        }
        for name, found in self.by_metric.items():
            for field in dataclasses.fields(Estimate):
                value = getattr(found, field.name) if found else None
                flat[name if field.name == "estimate" else f"{name}_{field.name}"] = (
                    None if value == math.inf else value
                )
        return flat


def crossed_difference(
    labels: Labels,
    ours: Iterable[Probabilities],
    theirs: Iterable[Probabilities],
    *,
    weights: Weights | None = None,
    runs_of_searches: Sequence[int] | None = None,
) -> CrossedDifference:
    """Return ours minus theirs in each of `METRICS`, with 95% intervals over rows and seeds.

    With one seed the intervals cover the rows alone and equal those of `compare_predictions`; `covers`
    says so. Seeds are taken one at a time, so a generator that reads one file after another will do.

    Args:
        labels: (N,) 0 or 1, N at least 2.
        ours: one (N,) float32 or float64 in [0, 1] per seed, in the order of `labels`.
        theirs: like `ours`, the same seeds in the same order.
        weights: (N,) as `binary_metrics` has them, two above 0; the draw is of rows, not of repeated ones.
        runs_of_searches: how many seeds in a row have the hyper-parameters of the first search, of the second, ..., each at
            least 1; None where all have the same.

    Returns:
        The differences.

    Raises:
        ValueError: there is no seed, a seed is of one side only, there are fewer than two rows, or predictions are not
            finite (a diverged run) or break the rule of `check_predictions`.
    """
    if weights is not None:
        check_weights(weights, len(labels))
    rows, pairs = len(labels), _checked_pairs(labels, ours, theirs)
    weighed, labels = of_weight(weights, labels)
    moments = {
        name: _Moments(partial(metric.with_error, labels, weights=weighed))
        for name, metric in METRICS.items()
        if not metric.lacking(labels)
    }
    seeds = searches = 0
    for runs in repeat(1) if runs_of_searches is None else runs_of_searches:
        of_search = [of_weight(weights, *pair)[1:] for pair in islice(pairs, runs)]
        if not of_search and runs_of_searches is None:
            break
        if len(of_search) < max(runs, 1):
            raise ValueError(
                f"search {searches} has {runs} runs, got {len(of_search)}; give the runs of each, at least one"
            )
        seeds, searches = seeds + runs, searches + 1
        for name, of_metric in moments.items():
            metric = METRICS[name]
            differences = (difference_per_sample(metric, labels, a, b, weighed) for a, b in of_search)
            of_metric.add(cast(_Values, sum(differences)) / runs)
    if not seeds:
        raise ValueError(_NO_SEED)
    return CrossedDifference(
        rows=rows,
        seeds=seeds,
        by_metric={name: moments[name].estimate() if name in moments else None for name in METRICS},
        searches=None if runs_of_searches is None else searches,
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
    moments = _Moments(mean_with_error)
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
    """Sums over seeds of one value per sample: what `combine` needs, in one (N,) float64 array."""

    def __init__(self, spread: Callable[[_Values], tuple[float, float]]) -> None:
        """Start empty; `spread` maps values per sample (N,) to their figure and its error over the samples."""
        self._spread = spread
        self._total: _Values | None = None
        self._figures: list[float] = []
        self._within: list[float] = []

    @property
    def seeds(self) -> int:
        """How many seeds were added."""
        return len(self._figures)

    def add(self, difference: _Values) -> None:
        """Take in one seed's differences per sample (N,), which the caller gives away."""
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
            raise ValueError(_NO_SEED)
        _, error = self._spread(self._total)
        return combine(self._figures, (error / self.seeds) ** 2, self._within)


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
