"""Compare two optimizers with intervals that cover both samples and seeds.

Seed s = 1..S trains a pair of runs, ours and theirs, from the same initial weights with the same order of data, and both
predict the same N samples. The difference d[s, i] of a figure per sample therefore has two crossed factors, and its mean
has the variance

    var(sample) / N + var(seed) / S + var(seed x sample) / (N S),

which `components` estimates by moments. AUC is not a mean over samples, but its DeLong placements play that role: their
mean within each class is the AUC, and to first order they vary like samples (`metrics.ranking`). This is the analysis of
Obuchowski and Rockette (1995) with seeds as readers and DeLong's covariances.

**What the interval covers.** Other samples and other seeds, for the same training set.

* Test samples took no part in training. They are treated as independent draws from the days they come from.
* Progressive validation predicts each sample before the model trains on it. The difference on a sample, minus its
  expectation given the past, is therefore uncorrelated with the others, and the formula for samples holds for means. The
  target is the expected difference on a fresh sample, averaged over the steps of this training. This expectation drifts
  while models learn; the drift counts as sampling variance and widens the interval. Other training sets are not covered.
  For AUC, which compares samples of different steps, this holds only approximately.

**How many seeds.** With many samples and approximately normal figures per seed, the coverage of 95% intervals depends on
the ratio of seed variance to sample variance. At worst it is 87% for 2 seeds, 92% for 3, 94% for 5, and 94.8% for 10. It
approaches 97% if all seed variance is interaction. With 2 seeds the interval is a warning rather than a result: Student's
quantile reaches 12.7. One seed covers samples only. Excluding diverged pairs makes the result conditional on convergence,
so report how many diverged.

**Searches.** If hyper-parameters were tuned, seeds that share a search also share its luck. Their differences on each sample
are averaged first, and searches take the place of seeds above, so the interval covers other searches. With one search the
result is conditional on what that search selected.

Memory: seeds are streamed, and three float64 sums per sample are stored for any S.
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
_NO_SEED = "A difference needs at least one seed, got none. Train a pair of runs first."


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossedDifference:
    """Hold the differences, ours minus theirs, averaged over seeds.

    Attributes:
        rows: N.
        seeds: number of runs of each side.
        by_metric: the difference in each of `METRICS`; None if a class has too few samples.
        searches: number of independent searches that the runs come from; None if all have the same hyper-parameters.
    """

    rows: int
    seeds: int
    by_metric: Mapping[str, Estimate | None]
    searches: int | None = None

    def __getitem__(self, metric: str) -> Estimate | None:
        return self.by_metric[metric]

    @property
    def logloss(self) -> Estimate:
        """Difference of log loss in nats, which decides the verdict; negative if ours is better."""
        return cast(Estimate, self["logloss"])  # defined for any two samples

    @property
    def covers(self) -> Literal["rows", "rows and seeds", "rows, seeds and tuning"]:
        """What the intervals cover. One seed says nothing about other seeds, and one search nothing about others."""
        if self.searches is not None and self.searches > 1:
            return "rows, seeds and tuning"
        return "rows" if self.seeds == 1 else "rows and seeds"

    def asdict(self) -> dict[str, float | str | Interval | None]:
        """Return the estimates as a flat dict of JSON values: `auc`, `auc_ci95`, ...; infinity becomes None."""
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
    """Return ours minus theirs in each of `METRICS`, with 95% intervals that cover samples and seeds.

    With one seed the intervals cover only samples and equal those of `compare_predictions`; see `covers`. Seeds are read
    one at a time, so you can pass a generator that reads one file after another.

    Args:
        labels: (N,) 0 or 1, N at least 2.
        ours: one (N,) float32 or float64 in [0, 1] per seed, in the order of `labels`.
        theirs: like `ours`, the same seeds in the same order.
        weights: (N,) see `binary_metrics`, two above 0; intervals cover sampling of the observed samples, not of repeated
            ones.
        runs_of_searches: number of consecutive seeds with the hyper-parameters of each search, each at least 1; None if all
            seeds have the same.

    Returns:
        The differences.

    Raises:
        ValueError: there is no seed, a seed is missing on one side, there are fewer than two samples, predictions are not
            finite (a diverged run), or `check_predictions` rejects them.
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
                f"Search {searches} should have {runs} runs, got {len(of_search)}. Pass at least one run per search."
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
    """Return the mean of a difference per sample with an interval that covers samples and seeds.

    Use it for figures that `crossed_difference` does not cover, such as a weighted log loss.

    Args:
        differences: one (N,) real or bool array per seed, the same samples in the same order, N at least 2.

    Returns:
        The estimate; with one seed, it covers samples only.

    Raises:
        ValueError: there is no seed, there are fewer than two samples, seeds differ in N, or a value is not finite.
    """
    moments = _Moments(mean_with_error)
    shape: tuple[int, ...] | None = None
    for difference in differences:
        shape = shape or difference.shape
        if difference.ndim != 1 or difference.shape != shape or len(difference) < 2:
            raise ValueError(
                f"Every seed needs one value for each of the same samples, at least 2, got {shape} and "
                f"{difference.shape}. Match the samples first."
            )
        if not np.isfinite(difference).all():
            raise ValueError("Values per sample must be finite, got NaN or infinity. Drop the diverged seed.")
        moments.add(difference.astype(np.float64))
    return moments.estimate()


class _Moments:
    """Accumulate the sums over seeds that `combine` needs, in one (N,) float64 array."""

    def __init__(self, spread: Callable[[_Values], tuple[float, float]]) -> None:
        """Start empty. `spread` maps values per sample (N,) to their figure and its sampling error."""
        self._spread = spread
        self._total: _Values | None = None
        self._figures: list[float] = []
        self._within: list[float] = []

    @property
    def seeds(self) -> int:
        """Number of seeds added."""
        return len(self._figures)

    def add(self, difference: _Values) -> None:
        """Add one seed's differences per sample (N,). The caller must not use the array afterwards."""
        figure, error = self._spread(difference)
        self._figures.append(figure)
        self._within.append(error**2)
        if self._total is None:
            self._total = difference
        else:
            self._total += difference

    def estimate(self) -> Estimate:
        """Return the mean over seeds. Raises a ValueError without seeds."""
        if self._total is None:
            raise ValueError(_NO_SEED)
        _, error = self._spread(self._total)
        return combine(self._figures, (error / self.seeds) ** 2, self._within)


def _checked_pairs(
    labels: Labels, ours: Iterable[Probabilities], theirs: Iterable[Probabilities]
) -> Iterator[tuple[Probabilities, Probabilities]]:
    """Pair the seeds of both sides, and check that their difference is defined."""
    for number, (a, b) in enumerate(zip_longest(ours, theirs)):
        if a is None or b is None:
            longer, shorter = ("theirs", "ours") if a is None else ("ours", "theirs")
            raise ValueError(
                f"Both sides need a run for each seed, got more in {longer} than the {number} in {shorter}. "
                "Drop seeds that are missing on one side."
            )
        for side, probability in (("ours", a), ("theirs", b)):
            if not np.isfinite(probability).all():
                raise ValueError(
                    f"Probabilities must be finite, got NaN or infinity in pair {number} of {side}. Exclude the "
                    "diverged pair, and report that it diverged."
                )
            check_predictions(labels, probability)
        if len(labels) < 2:
            raise ValueError(
                f"An interval needs at least 2 samples, got {len(labels)}. Evaluate on more samples."
            )
        yield a, b
