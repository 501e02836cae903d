"""Fitted maps against scikit-learn on the logits, closed forms, and repeated samples."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from dlrm_adahessian.data.sampling import population_weights
from dlrm_adahessian.data.schema import LabelColumn
from dlrm_adahessian.errors import DataError
from dlrm_adahessian.evaluation.calibration.fit import FOLDS, cross_fitted, fit
from dlrm_adahessian.metrics.binary import log_losses
from dlrm_adahessian.train.results import Predicted

ALL = LabelColumn(column="click")
TENTH = LabelColumn(column="click", negative_rate=0.1)


def drawn(rows=3_000, slope=0.6, intercept=-0.4, *, weighted=False, seed=0):
    """Return samples whose click rate has the logit `slope` z + `intercept` at the predicted logit z."""
    rng = np.random.default_rng(seed)
    probability = expit(rng.normal(-1, 1.5, rows)).astype(np.float32)
    truth = expit(slope * logit(probability.astype(np.float64)) + intercept)
    weights = rng.choice([0.0, 0.5, 1.0, 3.0], rows).astype(np.float32) if weighted else None
    return Predicted((rng.random(rows) < truth).astype(np.int8), probability, weights)


def logits_of(found):
    return logit(found.probability.astype(np.float64))


@pytest.mark.oracle
@pytest.mark.parametrize("weighted", [False, True])
def test_platt_is_the_logistic_regression_of_scikit_learn(weighted):
    found = drawn(weighted=weighted)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    model.fit(logits_of(found)[:, None], found.labels, found.weights)
    ours = fit("platt", found, ALL)
    assert ours.slope == pytest.approx(model.coef_.item(), rel=1e-5)
    assert ours.intercept == pytest.approx(float(np.ravel(model.intercept_)[0]), rel=1e-5)


@pytest.mark.oracle
def test_platt_has_no_gradient_left():
    found = drawn(weighted=True)
    z, fitted = logits_of(found), fit("platt", found, ALL)
    residual = found.weights * (expit(fitted(z)) - found.labels)
    assert abs(residual.sum()) < 1e-6 * found.weights.sum()
    assert abs(residual @ z) < 1e-6 * found.weights.sum()


@pytest.mark.oracle
@pytest.mark.parametrize("label", [ALL, TENTH], ids=["all rows", "a tenth of those without a click"])
def test_known_slope_and_intercept_come_back_whatever_share_the_log_keeps(label):
    """Each logit z has a click of weight q and a non-click of weight 1 - q: the expected log of a logistic population.

    So the likelihood has its maximum at the true slope and intercept, up to float32 rounding.
    """
    z = np.linspace(-6, 3, 400)
    probability = np.repeat(expit(z), 2).astype(np.float32)
    labels = np.tile(np.array([1, 0], np.int8), len(z))
    q = expit(0.7 * logit(probability.astype(np.float64)) - 0.3)
    in_log = np.where(labels == 1, q, (1 - q) * label.negative_rate).astype(np.float32)
    served = population_weights(label, labels, in_log)
    fitted = fit("platt", Predicted(labels, probability, served), label)
    assert (fitted.slope, fitted.intercept) == (pytest.approx(0.7, abs=1e-6), pytest.approx(-0.3, abs=1e-6))
    np.testing.assert_allclose(expit(fitted(z)), expit(0.7 * z - 0.3), rtol=1e-5)


@pytest.mark.oracle
def test_a_log_is_calibrated_as_it_is_and_then_corrected():
    """On random samples, fitting in the log differs from fitting weighted samples. The program does the former."""
    found = drawn(weighted=True)
    served = found._replace(weights=population_weights(TENTH, found.labels, found.weights))
    z_in_log = logits_of(found) - np.log(0.1)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    model.fit(z_in_log[:, None], found.labels, found.weights)
    p = model.predict_proba(z_in_log[:, None])[:, 1]
    np.testing.assert_allclose(
        expit(fit("platt", served, TENTH)(logits_of(found))), p / (p + (1 - p) / 0.1), rtol=1e-4
    )


@pytest.mark.oracle
@pytest.mark.parametrize("weighted", [False, True])
def test_isotonic_is_that_of_scikit_learn_at_rounded_logits(weighted):
    found = drawn(weighted=weighted)
    rounded = np.rint(logits_of(found) * 64) / 64
    kept = np.ones(len(rounded), bool) if found.weights is None else found.weights > 0
    weights = None if found.weights is None else found.weights[kept].astype(np.float64)
    bound = 1 / (kept.sum() + 2)
    model = IsotonicRegression(y_min=bound, y_max=1 - bound, out_of_bounds="clip")
    expected = model.fit(rounded[kept], found.labels[kept], weights).predict(rounded)
    np.testing.assert_allclose(expit(fit("isotonic", found, ALL)(rounded)), expected, rtol=1e-9)


def test_isotonic_maps_are_bounded_and_never_certain():
    found = drawn(rows=200_000, slope=1, intercept=0)
    probability = np.concatenate([found.probability, np.float32([2**-126] * 50 + [1 - 2**-24] * 50)])
    labels = np.concatenate([found.labels, np.int8([0] * 50 + [1] * 50)])
    fitted = fit("isotonic", Predicted(labels, probability, None), ALL)
    assert 2 < len(fitted.thresholds) < 2050
    certain = expit(fitted(np.array([-87.0, 16.0])))
    np.testing.assert_allclose(certain, [1 / 200_102, 1 - 1 / 200_102], rtol=1e-9)
    worst = log_losses(np.int8([1, 0]), certain)
    np.testing.assert_allclose(worst, np.log(200_102), rtol=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_whole_weights_are_repeated_samples(method):
    found = drawn()
    times = np.random.default_rng(1).integers(0, 4, len(found.labels))
    once = fit(method, found._replace(weights=times.astype(np.float32)), ALL)
    repeated = fit(
        method, Predicted(np.repeat(found.labels, times), np.repeat(found.probability, times)), ALL
    )
    z = np.linspace(-3, 1.5, 50)  # no rate is clipped here, since the clip depends on the number of samples
    np.testing.assert_allclose(once(z), repeated(z), rtol=1e-6)


@pytest.mark.oracle
def test_each_sample_is_calibrated_without_itself_as_in_scikit_learn():
    found = drawn()
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    z = logits_of(found)
    expected = cross_val_predict(model, z[:, None], found.labels, cv=folds, method="predict_proba")[:, 1]
    np.testing.assert_allclose(expit(cross_fitted("platt", found, ALL)), expected, rtol=1e-4)


def test_what_says_nothing_of_clicks_cannot_be_calibrated():
    found = drawn()
    ones = np.ones_like(found.labels)
    few = found.at(np.arange(3_000) < 99)
    with pytest.raises(
        DataError,
        match="requires 100 labeled samples with positive weight, 10 of each class, but found 99 with",
    ):
        fit("platt", few, ALL)
    with pytest.raises(DataError, match="isotonic calibration requires 1,000 labeled samples"):
        fit("isotonic", found.at(np.arange(3_000) < 999), ALL)
    with pytest.raises(DataError, match="found 3,000 with 3,000 clicks. Provide more data"):
        fit("platt", found._replace(labels=ones), ALL)
    weightless = found._replace(weights=(np.arange(3_000) < 99).astype(np.float32))
    with pytest.raises(DataError, match="found 99 with"):
        fit("platt", weightless, ALL)
    with pytest.raises(DataError, match="scores that rise with the clicks, but the fitted slope is -"):
        fit("platt", found._replace(labels=1 - found.labels), ALL)
    for method, why in (("platt", "all scores are equal"), ("isotonic", "the isotonic fit is constant")):
        with pytest.raises(DataError, match=f"scores that rise with the clicks, but {why}"):
            fit(method, found._replace(probability=np.full(3_000, 0.3, np.float32)), ALL)


def test_scores_that_separate_the_classes_have_no_slope():
    found = drawn()
    perfect = found._replace(labels=(found.probability >= 0.3).astype(np.int8))
    with pytest.raises(DataError, match="separate the clicks from all other samples, so no finite slope"):
        fit("platt", perfect, ALL)
    assert np.isfinite(fit("isotonic", perfect, ALL)(logits_of(perfect))).all()
