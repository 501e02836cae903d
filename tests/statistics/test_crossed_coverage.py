"""Simulations with a known truth: intervals over rows and seeds have 95% coverage, those over only one do not."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from dlrm_adahessian.metrics.binary import METRICS
from dlrm_adahessian.statistics import crossed
from dlrm_adahessian.statistics.comparison import paired_difference
from dlrm_adahessian.statistics.components import combine
from dlrm_adahessian.statistics.crossed import crossed_difference, crossed_mean

DRAWS = 1_000


def hits_allowed(low, high):
    """Return the range of hits out of `DRAWS` for a coverage in [low, high], missed with probability 1 in 10,000."""
    return stats.binom.ppf(1e-4, DRAWS, low), stats.binom.ppf(1 - 1e-4, DRAWS, high)


def includes(interval, truth):
    return interval[0] <= truth <= interval[1]


# Standard deviations of row and interaction are 1; the third entry is that of a seed. Worst-case coverage
# is 92.2% for 3 seeds and 94.1% for 5 (test_components). If all variance is interaction, the
# interval over rows only, which replaces narrower ones, raises it to 97%.
@pytest.mark.oracle
@pytest.mark.parametrize(
    ("seeds", "rows", "seed_sd", "worst"),
    [
        (3, 200, 0.0, 0.95),
        (3, 200, 0.07, 0.922),
        (3, 200, 0.3, 0.922),
        (5, 200, 0.07, 0.941),
        (5, 50, 0.5, 0.941),
        (10, 200, 0.1, 0.948),
        (10, 100, 0.0, 0.95),
    ],
)
def test_intervals_of_means_cover_the_truth(seeds, rows, seed_sd, worst) -> None:
    truth = 0.3
    hits = 0
    for draw in range(DRAWS):
        rng = np.random.default_rng((seeds, rows, draw))
        data = (
            rng.normal(truth, 1, rows) + rng.normal(0, 1, (seeds, rows)) + rng.normal(0, seed_sd, (seeds, 1))
        )
        hits += includes(crossed_mean(data).ci95, truth)
    least, most = hits_allowed(worst, 0.97)
    assert least <= hits <= most


@pytest.mark.oracle
def test_intervals_over_one_source_of_chance_fail() -> None:
    # Variance of the mean: 1/200 from rows, 1/80 from 5 seeds. Each interval misses the other's part.
    over_rows = over_seeds = over_both = 0
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        data = rng.normal(0, 1, 200) + rng.normal(0, 0.25, (5, 1))
        both, rows_alone = crossed_mean(data), crossed_mean(data.mean(axis=0)[None])
        seeds_alone = combine(list(data.mean(axis=1)), 0.0, [0.0] * 5)
        over_rows += includes(rows_alone.ci95, 0)
        over_seeds += includes(seeds_alone.ci95, 0)
        over_both += includes(both.ci95, 0)
    least, most = hits_allowed(0.941, 0.97)
    assert least <= over_both <= most
    assert over_rows < 0.75 * DRAWS
    assert over_seeds < 0.93 * DRAWS


@pytest.mark.oracle
def test_intervals_over_searches_cover_the_chance_of_tuning() -> None:
    """With five searches of two seeds each, intervals that treat seeds as independent are too narrow."""
    of_searches = of_seeds = 0
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        luck = rng.normal(0, 0.25, (5, 1, 1)) + rng.normal(0, 0.1, (5, 2, 1))
        data = rng.normal(0, 1, 200) + luck
        of_searches += includes(crossed_mean(data.mean(axis=1)).ci95, 0)
        of_seeds += includes(crossed_mean(data.reshape(10, 200)).ci95, 0)
    least, most = hits_allowed(0.941, 0.97)
    assert least <= of_searches <= most
    assert of_seeds < 0.93 * DRAWS


def drawn_scores(rng, seeds, labels, shifts, seed_sd):
    """Return the predictions of two models, (2, S, N): (shift + seed noise) x label + noise of variance 1.

    All models share 50% of the noise, seeds of one model share 20%, and 30% belong to one seed of one model.
    """
    rows = len(labels)
    noise = math.sqrt(0.5) * rng.normal(size=rows)
    noise = (
        noise
        + math.sqrt(0.2) * rng.normal(size=(2, 1, rows))
        + math.sqrt(0.3) * rng.normal(size=(2, seeds, rows))
    )
    slope = np.reshape(shifts, (2, 1, 1)) + rng.normal(0, seed_sd, (2, seeds, 1))
    return expit(slope * labels + noise)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("seeds", "seed_sd", "worst"),
    [
        (3, 0.15, 0.922),
        (5, 0.0, 0.95),
        pytest.param(5, 0.15, 0.941, marks=pytest.mark.campaign),
        pytest.param(10, 0.3, 0.948, marks=pytest.mark.campaign),
    ],
)
def test_intervals_of_auc_cover_the_truth(seeds, seed_sd, worst, monkeypatch) -> None:
    monkeypatch.setattr(
        crossed, "METRICS", {"auc": METRICS["auc"]}
    )  # the other metrics are means, tested above
    # The AUC of a model with a given slope is Phi(slope / sqrt 2), on average Phi(shift / sqrt(2 + seed_sd**2)).
    shifts = np.array([1.2, 0.9])
    truth = -float(np.diff(stats.norm.cdf(shifts / math.sqrt(2 + seed_sd**2)))[0])
    labels = (np.arange(240) % 3 == 0).astype(np.int8)
    hits = over_rows = 0
    for draw in range(DRAWS):
        rng = np.random.default_rng((seeds, draw))
        ours, theirs = drawn_scores(rng, seeds, labels, shifts, seed_sd)
        found = crossed_difference(labels, ours, theirs)["auc"]
        hits += includes(found.ci95, truth)
        if seed_sd == 0.3:  # the interval of the first pair of runs, which covers only rows
            pair = paired_difference(METRICS["auc"], labels, ours[0], theirs[0])
            over_rows += includes(pair.ci95, truth)
    least, most = hits_allowed(worst, 0.97)
    assert least <= hits <= most
    if seed_sd == 0.3:
        assert over_rows < 0.85 * DRAWS
