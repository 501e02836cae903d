"""Fit a calibration map, and calibrate samples with maps fitted without them.

Platt scaling is logistic regression of the label on the logit (Platt, "Probabilistic Outputs for Support Vector Machines
and Comparisons to Regularized Likelihood Methods", 1999), without Platt's prior on the labels, which matters only for few
samples. The isotonic map is scikit-learn's `IsotonicRegression` of the label on the logit (Zadrozny and Elkan,
"Transforming Classifier Scores into Accurate Multiclass Probability Estimates", KDD 2002), with three changes. Logits are
rounded to 1 / `STEPS`, which bounds the number of thresholds. Click rates are clipped to [1 / (n + 2), 1 - 1 / (n + 2)] for
n samples, so no probability is 0 or 1. Between thresholds, the logit of the rate is linear, not the rate.

If the log contains only a fraction of the samples without a click (`data.sampling`), the map is fitted to the log as it is,
because it learns from these labels. The map is then shifted to the logits of the population.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from scipy.special import logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from dlrm_adahessian.data.sampling import log_weights, logit_shift
from dlrm_adahessian.data.schema import LabelColumn
from dlrm_adahessian.errors import DataError
from dlrm_adahessian.evaluation.calibration.maps import (
    REACH,
    STEPS,
    CalibrationMap,
    IsotonicMap,
    Method,
    PlattMap,
)
from dlrm_adahessian.train.results import Predicted

FOLDS = 5
LEAST: Mapping[Method, int] = {"platt": 100, "isotonic": 1000}
"""Minimum number of samples. scikit-learn advises against isotonic calibration with far fewer than 1,000: it overfits."""
LEAST_OF_A_CLASS = 10
_TOLERANCE = 1e-9  # for the mean gradient of the log loss; Newton's last step is far below it
_STEEPEST = 1000  # a larger slope means that the scores hardly differ

_Array = npt.NDArray[np.float64]
_Fit = Callable[[npt.NDArray[np.int8], _Array, _Array], CalibrationMap]


def fit(method: Method, found: Predicted, label: LabelColumn) -> CalibrationMap:
    """Fit a map on all samples.

    Args:
        method: kind of the map.
        found: labels, probabilities, and population weights of N samples. Samples of weight 0 do not count.
        label: label column, with the fraction of samples without a click that the log contains.

    Returns:
        The map of population logits. Scores that do not rise with the clicks raise a DataError.

    Raises:
        DataError: there are too few samples with positive weight, or too few of one class.
    """
    labels, logits, weights = _in_log(found, label)
    clicks = int(np.count_nonzero(labels))
    if len(labels) < LEAST[method] or min(clicks, len(labels) - clicks) < LEAST_OF_A_CLASS:
        raise DataError(
            f"{method} calibration requires {LEAST[method]:,} labeled samples with positive weight, {LEAST_OF_A_CLASS} of "
            f"each class, but found {len(labels):,} with {clicks:,} clicks. Provide more data with --data-path."
        )
    return _FITS[method](labels, logits, weights).shifted(logit_shift(label))


def cross_fitted(method: Method, found: Predicted, label: LabelColumn) -> _Array:
    """Calibrate each sample with a map fitted without its fold.

    Args:
        method: kind of the maps.
        found: samples, as in `fit`.
        label: label column, as in `fit`.

    Returns:
        (N,) float64 calibrated logits.
    """
    logits = logit(found.probability.astype(np.float64))
    calibrated = np.empty_like(logits)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for seen, unseen in folds.split(logits, found.labels):
        chosen = np.zeros(len(logits), np.bool_)
        chosen[seen] = True
        labels, of_log, weights = _in_log(found.at(chosen), label)
        fitted = _FITS[method](labels, of_log, weights).shifted(logit_shift(label))
        calibrated[unseen] = fitted(logits[unseen])
    return calibrated


def _in_log(found: Predicted, label: LabelColumn) -> tuple[npt.NDArray[np.int8], _Array, _Array]:
    """Return labels, logits, and weights of the samples with positive weight, as in the log."""
    weights = log_weights(label, found.labels, found.weights)
    counted = np.ones(len(found.labels)) if weights is None else weights.astype(np.float64)
    logits = logit(found.probability.astype(np.float64)) - logit_shift(label)
    kept = counted > 0
    return found.labels[kept], logits[kept], counted[kept]


def _platt(labels: npt.NDArray[np.int8], logits: _Array, weights: _Array) -> PlattMap:
    middle, spread = float(logits.mean()), float(logits.std())
    if spread == 0:
        raise _not_rising("all scores are equal")
    if logits[labels != 0].min() >= logits[labels == 0].max():
        raise DataError(
            "The scores separate the clicks from all other samples, so no finite slope fits them. Provide more data, or use "
            "--method isotonic."
        )
    inputs = np.stack([(logits - middle) / spread, np.ones(len(logits))], 1)
    model = LogisticRegression(C=np.inf, fit_intercept=False, solver="newton-cholesky", tol=_TOLERANCE)
    scaled, at_middle = model.fit(inputs, labels, weights).coef_[0].tolist()
    slope = scaled / spread
    if not 0 < slope <= _STEEPEST:
        raise _not_rising(f"the fitted slope is {slope:.3g}")
    return PlattMap(slope=slope, intercept=at_middle - slope * middle)


def _isotonic(labels: npt.NDArray[np.int8], logits: _Array, weights: _Array) -> IsotonicMap:
    steps = np.rint(np.clip(logits, -REACH, REACH) * STEPS).astype(np.int64)
    used, place = np.unique(steps, return_inverse=True)
    weight = np.bincount(place, weights)
    rate = np.bincount(place, weights * (labels != 0)) / weight
    least = 1 / (len(labels) + 2)  # the rule of succession for n samples without a click
    model = IsotonicRegression(y_min=least, y_max=1 - least).fit(used / STEPS, rate, weight)
    if len(model.X_thresholds_) < 2 or model.y_thresholds_[0] == model.y_thresholds_[-1]:
        raise _not_rising("the isotonic fit is constant")
    return IsotonicMap(
        thresholds=model.X_thresholds_.tolist(),
        values=logit(model.y_thresholds_).tolist(),
    )


def _not_rising(why: str) -> DataError:
    return DataError(
        f"Calibration requires scores that rise with the clicks, but {why}. Run evaluate to see how well the run ranks them."
    )


_FITS: Mapping[Method, _Fit] = {"platt": _platt, "isotonic": _isotonic}
