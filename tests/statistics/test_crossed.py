"""Intervals that cover samples and seeds: brute force, resampling of both, invariances, and refusals."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from dlrm_adahessian.statistics.comparison import compare_predictions
from dlrm_adahessian.statistics.crossed import crossed_difference, crossed_mean
from tests.statistics.models import brute_force_delong

FIGURES = ("auc", "accuracy", "logloss")


def paired_runs(seeds, rows, *, seed=0, levels=None):
    """Return labels (N,) and predictions (S, N) of two optimizers whose quality varies by seed."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-0.5, 1.5, rows)
    labels = (rng.random(rows) < expit(logits)).astype(np.int8)
    sides = []
    for spread in (0.5, 0.9):
        of_rows, of_seeds = rng.normal(0, 1, rows), rng.normal(spread, 0.3, (seeds, 1))
        sides.append(expit(logits + of_seeds * of_rows + rng.normal(0, 0.2, (seeds, rows))))
    if levels:
        sides = [np.round(side * levels) / levels for side in sides]
    return labels, *sides


def mean_kernel(labels, ours, theirs):
    """Return the click x non-click kernel of AUC(ours) - AUC(theirs) per seed, (S, clicks, others)."""
    kernels = []
    for scores in (ours, theirs):
        gap = scores[:, labels == 1, None] - scores[:, None, labels == 0]
        kernels.append((gap > 0) + 0.5 * (gap == 0))
    return kernels[0] - kernels[1]


@pytest.mark.oracle
@pytest.mark.parametrize("levels", [None, 8])
@pytest.mark.parametrize("seeds", [2, 5])
def test_auc_equals_obuchowski_and_rockette_on_the_full_covariance(seeds, levels) -> None:
    labels, ours, theirs = paired_runs(seeds, 300, levels=levels)
    aucs, covariance = brute_force_delong(labels, *ours, *theirs)
    contrast = np.hstack([np.eye(seeds), -np.eye(seeds)])
    differences, covariance = contrast @ aucs, contrast @ covariance @ contrast.T
    between = covariance[~np.eye(seeds, dtype=bool)].mean()
    of_seeds = differences.var(ddof=1) / seeds
    assert between > 0

    found = crossed_difference(labels, ours, theirs)["auc"]

    variance = between + of_seeds
    freedom = (seeds - 1) * (variance / of_seeds) ** 2
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert half > 1.96 * math.sqrt(
        covariance.mean()
    )  # otherwise the interval that covers only rows is returned
    assert found.estimate == pytest.approx(differences.mean(), abs=1e-12)
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)
    assert found.degrees_of_freedom == pytest.approx(freedom, rel=1e-8)
    assert found.ci95 == pytest.approx((differences.mean() - half, differences.mean() + half), abs=1e-12)
    interaction = (np.trace(covariance) / seeds - between) / seeds
    total = between + max(of_seeds, interaction)
    assert found.rows_share == pytest.approx(between / total, rel=1e-8)
    assert found.seeds_share == pytest.approx(max(of_seeds - interaction, 0) / total, rel=1e-8)


@pytest.mark.oracle
def test_accuracy_and_logloss_are_crossed_means_of_their_rows() -> None:
    labels, ours, theirs = paired_runs(3, 200)
    found = crossed_difference(labels, ours, theirs)
    right = [(side >= 0.5) == labels for side in (ours, theirs)]
    assert found["accuracy"] == crossed_mean(right[0].astype(float) - right[1])
    losses = [-np.where(labels, np.log(side), np.log1p(-side)) for side in (ours, theirs)]
    expected = crossed_mean(losses[0] - losses[1])
    assert found.logloss.estimate == pytest.approx(expected.estimate, abs=1e-12)
    assert found.logloss.ci95 == pytest.approx(expected.ci95, abs=1e-12)
    assert (found.rows, found.seeds, found.covers) == (200, 3, "rows and seeds")


@pytest.mark.oracle
def test_runs_of_a_search_are_averaged_before_searches_are_compared() -> None:
    labels, ours, theirs = paired_runs(5, 200)
    found = crossed_difference(labels, iter(ours), iter(theirs), runs_of_searches=[2, 1, 2])
    losses = [-np.where(labels, np.log(side), np.log1p(-side)) for side in (ours, theirs)]
    values = losses[0] - losses[1]
    expected = crossed_mean([values[:2].mean(0), values[2], values[3:].mean(0)])
    assert found.logloss.estimate == pytest.approx(expected.estimate, abs=1e-12)
    assert found.logloss.ci95 == pytest.approx(expected.ci95, abs=1e-12)
    assert (found.seeds, found.searches, found.covers) == (5, 3, "rows, seeds and tuning")
    of_seeds = crossed_difference(labels, ours, theirs)
    assert crossed_difference(labels, ours, theirs, runs_of_searches=[1] * 5).by_metric == of_seeds.by_metric


@pytest.mark.parametrize("runs", [[2, 2], [4, 0], [2, 1, 1]])
def test_runs_of_searches_that_are_not_there_are_refused(runs) -> None:
    labels, ours, theirs = paired_runs(3, 20)
    with pytest.raises(ValueError, match="Pass at least one run per search"):
        crossed_difference(labels, ours, theirs, runs_of_searches=runs)


@pytest.mark.oracle
def test_one_seed_is_the_comparison_of_two_runs_and_says_so() -> None:
    labels, ours, theirs = paired_runs(1, 300)
    found = crossed_difference(labels, ours, theirs)
    expected = compare_predictions(labels, ours[0], theirs[0])
    assert found.covers == "rows"
    for name in FIGURES:
        estimate = found[name]
        assert estimate.estimate == expected[name].estimate
        assert estimate.ci95 == pytest.approx(expected[name].ci95, rel=1e-12)
        assert estimate.degrees_of_freedom == math.inf


def pigeonhole_weights(rng, draws, units):
    """Return (draws, units) counts from resampling `units` with replacement, with mean 1."""
    return rng.multinomial(units, np.full(units, 1 / units), size=draws)


@pytest.mark.oracle
def test_a_mean_agrees_with_resampling_rows_and_seeds() -> None:
    # Owen, "The pigeonhole bootstrap" (2007), product weights as in Owen and Eckles (2012). Given the data
    # its variance is exactly that of the three centered parts, each divided by its squared count.
    rng = np.random.default_rng(3)
    seeds, rows, draws = 8, 150, 4_000
    data = rng.normal(0, 0.3, (seeds, 1)) + rng.normal(0, 1, rows) + rng.normal(0, 1, (seeds, rows))
    weighted = pigeonhole_weights(rng, draws, seeds) @ data * pigeonhole_weights(rng, draws, rows)
    resampled = weighted.mean(axis=1) / seeds

    found = crossed_mean(data)

    row_part, seed_part = data.mean(axis=0).var() / rows, data.mean(axis=1).var() / seeds
    residual = data - data.mean(axis=0) - data.mean(axis=1, keepdims=True) + data.mean()
    interaction = residual.var() / (seeds * rows)
    resolution = 5 / math.sqrt(2 * draws)  # five standard errors of the standard deviation of `draws` values
    assert resampled.std() == pytest.approx(math.sqrt(row_part + seed_part + interaction), rel=resolution)
    # Our estimate subtracts the interaction, which resampling adds, and divides by S - 1 and N - 1.
    bessel = (seeds - 1) / seeds
    assert found.standard_error == pytest.approx(
        math.sqrt(
            row_part * rows / (rows - 1) + seed_part / bessel - interaction / bessel * rows / (rows - 1)
        ),
        rel=1e-9,
    )
    assert found.standard_error * math.sqrt(bessel) < resampled.std() * (1 + resolution)


@pytest.mark.oracle
def test_auc_agrees_with_resampling_rows_and_seeds() -> None:
    rng = np.random.default_rng(4)
    seeds, rows, draws = 10, 150, 3_000
    labels, ours, theirs = paired_runs(seeds, rows, seed=4)
    kernel = mean_kernel(labels, ours, theirs)
    _, clicks, others = kernel.shape
    of_seeds = pigeonhole_weights(rng, draws, seeds) / seeds
    of_clicks = pigeonhole_weights(rng, draws, clicks) / clicks
    of_others = pigeonhole_weights(rng, draws, others) / others
    per_seed = np.einsum("bj,sij->bsi", of_others, kernel, optimize=True)
    resampled = np.einsum("bs,bsi,bi->b", of_seeds, per_seed, of_clicks)

    found = crossed_difference(labels, ours, theirs)["auc"]

    assert found.estimate == pytest.approx(kernel.mean(), abs=1e-12)
    # Resampling is mildly conservative (Owen and Eckles): it counts interactions twice and adds
    # click/non-click pairs, which are of higher order in 1 / rows. Seeds count (S - 1) / S.
    resolution = 5 / math.sqrt(2 * draws)
    low, high = found.standard_error * math.sqrt(1 - 1 / seeds), found.standard_error * 1.15
    assert low * (1 - resolution) < resampled.std() < high * (1 + resolution)


small_runs = st.integers(2, 4).flatmap(
    lambda seeds: st.lists(
        st.tuples(st.integers(0, 1), *[st.integers(1, 31)] * (2 * seeds)), min_size=4, max_size=20
    ).filter(lambda rows: 2 <= sum(row[0] for row in rows) <= len(rows) - 2)
)


def unpack(table):
    """Split generated rows (label, ours..., theirs...) into labels and the predictions of both sides."""
    columns = np.array(table).T
    ours, theirs = np.split(columns[1:] / 32, 2)
    return columns[0].astype(np.int8), ours, theirs


def close(a, b):
    """Return whether two differences agree; standard errors up to the square root of a rounding error."""
    return all(
        a[name].estimate == pytest.approx(b[name].estimate, abs=1e-12)
        and a[name].ci95 == pytest.approx(b[name].ci95, abs=1e-6)
        for name in FIGURES
    )


@settings(deadline=None)
@given(small_runs)
def test_swapping_the_sides_negates(table) -> None:
    labels, ours, theirs = unpack(table)
    forth, back = crossed_difference(labels, ours, theirs), crossed_difference(labels, theirs, ours)
    for name in FIGURES:
        a, b = forth[name], back[name]
        assert b.estimate == -a.estimate
        assert b.ci95 == (-a.ci95[1], -a.ci95[0])
        assert (b.standard_error, b.p_value) == (a.standard_error, a.p_value)
        assert (b.degrees_of_freedom, b.rows_share, b.seeds_share) == (
            a.degrees_of_freedom,
            a.rows_share,
            a.seeds_share,
        )


@settings(deadline=None)
@given(small_runs, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_of_seeds_does_not_matter(table, random) -> None:
    labels, ours, theirs = unpack(table)
    rows, seeds = list(range(len(labels))), list(range(len(ours)))
    random.shuffle(rows)
    random.shuffle(seeds)
    found = crossed_difference(labels, ours, theirs)
    assert close(found, crossed_difference(labels[rows], ours[:, rows], theirs[:, rows]))
    assert close(found, crossed_difference(labels, ours[seeds], theirs[seeds]))


@settings(deadline=None)
@given(small_runs)
def test_the_interval_is_never_narrower_than_that_over_rows_alone(table) -> None:
    labels, ours, theirs = unpack(table)
    losses = [-np.log(np.where(labels, side, 1 - side)) for side in (ours, theirs)]
    differences = losses[0] - losses[1]
    low, high = crossed_mean(differences).ci95
    rows_low, rows_high = crossed_mean(differences.mean(axis=0)[None]).ci95
    assert high - low >= (rows_high - rows_low) * (1 - 1e-9) - 1e-12


def test_identical_predictions_leave_no_doubt() -> None:
    labels, ours, _ = paired_runs(3, 50)
    found = crossed_difference(labels, ours, ours)
    for name in FIGURES:
        estimate = found[name]
        assert (estimate.estimate, estimate.standard_error, estimate.p_value) == (0.0, 0.0, 1.0)
        assert estimate.ci95 == (0.0, 0.0)
        assert estimate.rows_share is None


def test_seeds_may_come_one_at_a_time_in_float32() -> None:
    labels, ours, theirs = paired_runs(4, 100)
    ours, theirs = ours.astype(np.float32), theirs.astype(np.float32)
    before = ours.copy(), theirs.copy()
    streamed = crossed_difference(labels, iter(ours), (side for side in theirs))
    assert streamed == crossed_difference(labels, list(ours), list(theirs))
    assert np.array_equal(before, (ours, theirs))  # sums over seeds use separate arrays


def test_crossed_mean_leaves_its_input_alone() -> None:
    data = np.arange(12.0).reshape(3, 4)
    crossed_mean(data)
    assert np.array_equal(data, np.arange(12.0).reshape(3, 4))


def test_too_few_clicks_leave_auc_out() -> None:
    labels = np.array([0, 0, 0, 1], np.int8)
    scores = np.array([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.5]])
    found = crossed_difference(labels, scores, scores[::-1])
    assert found["auc"] is None
    assert found.asdict()["auc_ci95"] is None


def test_difference_prints_as_json() -> None:
    for seeds in (1, 3):
        labels, ours, theirs = paired_runs(seeds, 60)
        flat = json.loads(json.dumps(crossed_difference(labels, ours, theirs).asdict(), allow_nan=False))
        assert flat["seeds"] == seeds
        for name, suffix in itertools.product(FIGURES, ("", "_ci95", "_standard_error", "_p_value")):
            assert flat[name + suffix] is not None
        assert (flat["logloss_degrees_of_freedom"] is None) == (seeds == 1)


def test_a_seed_of_one_side_is_refused() -> None:
    labels, ours, theirs = paired_runs(3, 20)
    with pytest.raises(ValueError, match=r"more in ours than the 2 in theirs. Drop seeds"):
        crossed_difference(labels, ours, theirs[:2])
    with pytest.raises(ValueError, match=r"more in theirs than the 1 in ours. Drop seeds"):
        crossed_difference(labels, ours[:1], theirs)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_run_is_refused(value) -> None:
    labels, ours, theirs = paired_runs(3, 20)
    theirs[1, 5] = value
    with pytest.raises(ValueError, match=r"finite, got .* in pair 1 of theirs. Exclude the diverged pair"):
        crossed_difference(labels, ours, theirs)
    with pytest.raises(ValueError, match=r"finite, got NaN or infinity. Drop the diverged seed"):
        crossed_mean(theirs)


def test_bad_predictions_and_too_few_rows_are_refused() -> None:
    labels, ours, theirs = paired_runs(2, 20)
    with pytest.raises(ValueError, match="the same shape"):
        crossed_difference(labels, ours, theirs[:, 1:])
    with pytest.raises(ValueError, match="Probabilities must be in"):
        crossed_difference(labels, ours, theirs + 1)
    with pytest.raises(ValueError, match=r"at least 2 samples, got 1. Evaluate"):
        crossed_difference(labels[:1], ours[:, :1], theirs[:, :1])
    with pytest.raises(ValueError, match=r"at least 2, got \(20,\) and \(19,\). Match the samples"):
        crossed_mean([ours[0], ours[1, 1:]])
    with pytest.raises(ValueError, match="at least 2"):
        crossed_mean([ours[0, :1]])


def test_no_seed_is_refused() -> None:
    labels, _, _ = paired_runs(2, 20)
    with pytest.raises(ValueError, match="at least one seed, got none. Train"):
        crossed_difference(labels, [], [])
    with pytest.raises(ValueError, match="at least one seed, got none. Train"):
        crossed_mean([])


@pytest.mark.oracle
def test_one_weighted_seed_is_the_weighted_comparison_and_equal_weights_are_none():
    labels, ours, theirs = paired_runs(3, 500)
    weights = np.random.default_rng(0).integers(0, 4, 500).astype(np.float64)
    one = crossed_difference(labels, ours[:1], theirs[:1], weights=weights)
    expected = compare_predictions(labels, ours[0], theirs[0], weights)
    assert one.rows == 500
    for name in FIGURES:
        assert one[name].estimate == pytest.approx(expected[name].estimate, abs=1e-13)
        assert one[name].ci95 == pytest.approx(expected[name].ci95, abs=1e-13)
    plain = crossed_difference(labels, ours, theirs)
    alike = crossed_difference(labels, ours, theirs, weights=np.full(500, 0.3))
    for name in FIGURES:
        assert alike[name].ci95 == pytest.approx(plain[name].ci95, abs=1e-12)
