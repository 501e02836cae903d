"""Intervals against brute force, scipy, closed forms, and their own promise of 95% coverage."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from dlrm_adahessian.metrics import binary_metrics
from dlrm_adahessian.statistics import (
    Difference,
    PairedDifference,
    compare_predictions,
    delong,
    delong_auc,
    paired_mean_difference,
    seed_interval,
)

paired_rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(1, 63), st.integers(1, 63)), min_size=4, max_size=60
).filter(lambda rows: 2 <= sum(row[0] for row in rows) <= len(rows) - 2)


def brute_force_delong(labels, *models):
    """Return the AUCs and their covariance by the m x n kernel of DeLong et al. (1988)."""
    kernels = []
    for scores in models:
        gap = scores[labels == 1][:, None] - scores[labels == 0][None, :]
        kernels.append((gap > 0) + 0.5 * (gap == 0))
    of_clicks = np.stack([kernel.mean(axis=1) for kernel in kernels])
    of_others = np.stack([kernel.mean(axis=0) for kernel in kernels])
    covariance = np.cov(of_clicks) / of_clicks.shape[1] + np.cov(of_others) / of_others.shape[1]
    return np.array([kernel.mean() for kernel in kernels]), np.atleast_2d(covariance)


def two_models(rows=400, levels=None, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.5, rows)
    labels = (rng.random(rows) < expit(logits)).astype(np.int8)
    a, b = expit(logits + rng.normal(0, 0.5, rows)), expit(logits + rng.normal(0, 1.0, rows))
    if levels:
        a, b = np.round(a * levels) / levels, np.round(b * levels) / levels
    return labels, a, b


@pytest.mark.oracle
@pytest.mark.parametrize("levels", [None, 1, 4, 50])
@pytest.mark.parametrize("rows", [30, 401])
def test_delong_equals_brute_force(rows, levels) -> None:
    labels, a, b = two_models(rows, levels)
    aucs, covariance = brute_force_delong(labels, a, b)
    contrast = np.array([1, -1])

    found = delong(labels, a, b)

    expected_error = (contrast @ covariance @ contrast) ** 0.5
    assert found.estimate == pytest.approx(contrast @ aucs, abs=1e-12)
    assert found.standard_error == pytest.approx(expected_error, abs=1e-12)
    normal = stats.norm(found.estimate, expected_error)
    assert found.ci95 == pytest.approx(normal.interval(0.95), abs=1e-12)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(found.estimate) / expected_error), abs=1e-9)


@pytest.mark.oracle
@pytest.mark.parametrize("levels", [None, 4])
def test_one_auc_equals_brute_force(levels) -> None:
    labels, a, _ = two_models(levels=levels)
    (auc,), covariance = brute_force_delong(labels, a)
    found = delong_auc(labels, a)
    assert found.auc == pytest.approx(auc, abs=1e-12)
    assert found.auc == pytest.approx(binary_metrics(labels, a).auc, abs=1e-12)
    assert found.standard_error == pytest.approx(covariance[0, 0] ** 0.5, abs=1e-12)
    assert found.ci95 == pytest.approx(stats.norm(auc, covariance[0, 0] ** 0.5).interval(0.95), abs=1e-12)


def test_one_auc_interval_stays_in_the_unit_interval() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1], np.int8)
    assert delong_auc(labels, np.array([0.1, 0.2, 0.4, 0.3, 0.5, 0.6])).ci95[1] == 1.0
    assert delong_auc(labels, np.array([0.9, 0.8, 0.6, 0.7, 0.5, 0.4])).ci95[0] == 0.0


def test_equal_rankings_leave_no_doubt() -> None:
    labels, a, _ = two_models(levels=64)
    nothing = PairedDifference(estimate=0.0, standard_error=0.0, ci95=(0.0, 0.0), p_value=1.0)
    assert delong(labels, a, a) == nothing
    assert delong(labels, a, a**3) == nothing


def test_perfect_against_reversed_is_certain() -> None:
    labels = np.array([0, 0, 1, 1], np.int8)
    perfect = np.array([0.1, 0.2, 0.8, 0.9])
    expected = PairedDifference(estimate=1.0, standard_error=0.0, ci95=(1.0, 1.0), p_value=0.0)
    assert delong(labels, perfect, 1 - perfect) == expected


@given(paired_rows)
def test_swapping_the_models_negates(rows) -> None:
    labels, a, b = (np.array(column) for column in zip(*rows, strict=True))
    labels, a, b = labels.astype(np.int8), a / 64, b / 64
    forth, back = delong(labels, a, b), delong(labels, b, a)
    assert back.estimate == -forth.estimate
    assert back.standard_error == forth.standard_error
    assert back.p_value == forth.p_value
    assert back.ci95 == (-forth.ci95[1], -forth.ci95[0])
    mirrored = delong(labels, 1 - a, 1 - b)
    assert mirrored.estimate == pytest.approx(-forth.estimate, abs=1e-12)
    assert mirrored.standard_error == pytest.approx(forth.standard_error, abs=1e-7)  # root of a rounding


@pytest.mark.parametrize("labels", [[0, 0, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]])
def test_delong_refuses_fewer_than_two_of_a_class(labels) -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    with pytest.raises(ValueError, match=r"two rows of each class, got [01] of .*evaluate on more"):
        delong(np.array(labels, np.int8), scores, scores)
    with pytest.raises(ValueError, match="two rows of each class"):
        delong_auc(np.array(labels, np.int8), scores)


def test_delong_checks_both_models() -> None:
    labels, a, _ = two_models()
    with pytest.raises(ValueError, match="one length"):
        delong(labels, a, a[:-1])
    with pytest.raises(ValueError, match="probability must lie"):
        delong(labels, a, np.where(labels == 1, np.nan, a))


def covered(trials, draw_interval, truth):
    low, high = stats.binom.interval(1 - 1e-4, trials, 0.95)
    hits = 0
    for seed in range(trials):
        interval = draw_interval(np.random.default_rng(seed))
        hits += interval[0] <= truth <= interval[1]
    return low <= hits <= high


@pytest.mark.oracle
def test_delong_interval_covers_the_true_difference_95_times_in_100() -> None:
    # Scores shift * label + noise, the noise standard normal and shared for 70%: AUC is Phi(shift / sqrt 2).
    shifts = np.array([1.2, 0.9])
    truth = float(np.diff(-stats.norm.cdf(shifts / 2**0.5))[0])
    labels = (np.arange(600) % 3 == 0).astype(np.int8)

    def draw(rng):
        noise = 0.7**0.5 * rng.normal(size=600) + 0.3**0.5 * rng.normal(size=(2, 600))
        a, b = expit(shifts[:, None] * labels + noise)
        return delong(labels, a, b).ci95

    assert covered(400, draw, truth)


@pytest.mark.oracle
def test_paired_interval_covers_the_true_mean_95_times_in_100() -> None:
    def draw(rng):
        shared = rng.exponential(size=500)
        return paired_mean_difference(shared + 0.1 * rng.exponential(size=500), shared).ci95

    assert covered(400, draw, 0.1)


@pytest.mark.oracle
def test_seed_interval_covers_the_true_mean_95_times_in_100() -> None:
    # Three seeds: a normal interval instead of Student's would cover only 81%.
    assert covered(400, lambda rng: seed_interval(rng.normal(2.0, 1.0, 3))[1:], 2.0)


@pytest.mark.oracle
def test_paired_mean_difference_is_the_paired_test_of_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.exponential(size=300), rng.exponential(size=300)
    found = paired_mean_difference(a, b)
    assert found.estimate == pytest.approx(a.mean() - b.mean(), abs=1e-14)
    statistic = stats.ttest_rel(a, b).statistic
    assert found.estimate / found.standard_error == pytest.approx(statistic, rel=1e-12)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(statistic)), rel=1e-9)


@pytest.mark.oracle
def test_accuracy_error_is_that_of_discordant_pairs() -> None:
    # 30 rows only a gets right, 18 only b, the rest agree: the closed form of McNemar's setting.
    a = np.array([True] * 30 + [False] * 18 + [True] * 52)
    b = np.array([False] * 30 + [True] * 18 + [True] * 52)
    found = paired_mean_difference(a, b)
    assert found.estimate == pytest.approx((30 - 18) / 100, abs=1e-15)
    variance = (48 / 100 - (12 / 100) ** 2) * 100 / 99
    assert found.standard_error == pytest.approx((variance / 100) ** 0.5, rel=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0], [1.0], r"at least 2, got \(1,\)"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], r"got \(2,\) and \(3,\); pair the rows"),
        ([1.0, np.nan], [1.0, 2.0], "must be finite"),
        ([np.inf, 1.0], [np.inf, 2.0], "must be finite"),
    ],
)
def test_paired_mean_difference_refuses(a, b, message) -> None:
    with pytest.raises(ValueError, match=message):
        paired_mean_difference(np.array(a), np.array(b))


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_comparison_is_the_difference_of_both_metrics(dtype) -> None:
    labels, a, b = two_models(rows=2_000)
    a, b = a.astype(dtype), b.astype(dtype)
    ours, baseline = binary_metrics(labels, a), binary_metrics(labels, b)
    found = compare_predictions(labels, a, b)
    for name in ("auc", "accuracy", "logloss"):
        difference = getattr(ours, name) - getattr(baseline, name)
        low, high = getattr(found, f"{name}_ci95")
        assert getattr(found, name) == pytest.approx(difference, abs=1e-12)
        assert low < difference < high
    assert found.auc_ci95 == delong(labels, a, b).ci95
    assert found.auc > 0 > found.logloss  # a has half of the noise of b


def test_comparison_is_ours_minus_baseline_and_prints_as_json() -> None:
    labels = np.array([0, 0, 1, 1], np.int8)
    good, bad = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.9, 0.2, 0.8, 0.1])
    found = json.loads(json.dumps(compare_predictions(labels, good, bad).asdict(), allow_nan=False))
    assert found["auc"] == 0.75
    assert found["accuracy"] == 0.5
    assert found["logloss"] == pytest.approx(-0.5 * np.log(9))
    assert set(found) == {"auc", "auc_ci95", "accuracy", "accuracy_ci95", "logloss", "logloss_ci95"}
    assert len(found["auc_ci95"]) == 2


def test_comparison_leaves_undefined_figures_out() -> None:
    one_click = np.array([0, 0, 0, 1], np.int8)
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    found = compare_predictions(one_click, scores, scores)
    assert found.auc is None
    assert found.auc_ci95 is None
    assert found.accuracy_ci95 == (0.0, 0.0)
    assert compare_predictions(one_click[:1], scores[:1], scores[:1]) == Difference()
    assert compare_predictions(one_click[:0], scores[:0], scores[:0]) == Difference()


def test_comparison_refuses_unpaired_rows() -> None:
    labels, a, b = two_models()
    with pytest.raises(ValueError, match="one length"):
        compare_predictions(labels, a, b[:-1])


@pytest.mark.oracle
def test_seed_interval_is_that_of_student() -> None:
    values = [0.0012, 0.0031, -0.0004, 0.0018, 0.0026]
    mean, low, high = seed_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean == pytest.approx(np.mean(values), rel=1e-12)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert seed_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("values", [[], [0.1], [0.1, float("nan")]])
def test_seed_interval_refuses_what_has_no_spread(values) -> None:
    with pytest.raises(ValueError, match=r"at least 2 finite differences, got .*run more seeds"):
        seed_interval(values)
