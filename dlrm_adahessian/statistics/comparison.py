"""Compare two models on the same samples: differences in each metric, their intervals, and a verdict.

The intervals cover sampling for this one pair of runs, not seeds. Training both again changes the metrics by an amount that
only several seeds can show (`crossed`). With weights, the errors are those of weighted means (metrics/means.py). Tests on
counts of samples ignore weights, so the two additional checks of shares are unavailable then.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.metrics.binary import METRICS, Metric, Share, check_predictions
from dlrm_adahessian.metrics.means import Weights, of_weight
from dlrm_adahessian.metrics.ranking import Labels, Probabilities
from dlrm_adahessian.statistics.discordance import bootstrap_accuracy, discordance, mcnemar
from dlrm_adahessian.statistics.intervals import Interval, PairedDifference

_LEVEL = 0.05  # a difference is significant if its adjusted p value is below this


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShareDifference(PairedDifference):
    """Difference of shares, with two checks of its normal interval for when few samples differ between the models.

    Attributes:
        bootstrap_ci95: percentile bootstrap interval.
        mcnemar_p: McNemar's mid-p value.
    """

    bootstrap_ci95: Interval
    mcnemar_p: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """Hold the differences, ours minus the baseline, on the same samples.

    Attributes:
        by_metric: the difference in each of `METRICS`; None if there are too few samples, or too few of a class.
    """

    by_metric: Mapping[str, PairedDifference | None]

    def __getitem__(self, metric: str) -> PairedDifference | None:
        return self.by_metric[metric]

    def asdict(self) -> dict[str, float | Interval | None]:
        """Return the differences as a flat dict of JSON values: `auc`, `auc_ci95`, ..."""
        flat: dict[str, float | Interval | None] = {}
        for name, metric in METRICS.items():
            found = self[name]
            flat[name] = None if found is None else found.estimate
            flat[f"{name}_ci95"] = None if found is None else found.ci95
            if isinstance(metric, Share):
                share = found if isinstance(found, ShareDifference) else None
                flat[f"{name}_bootstrap_ci95"] = None if share is None else share.bootstrap_ci95
                flat[f"{name}_mcnemar_p"] = None if share is None else share.mcnemar_p
        return flat


def compare_predictions(
    labels: Labels, ours: Probabilities, baseline: Probabilities, weights: Weights | None = None
) -> Difference:
    """Return ours minus the baseline in each of `METRICS`, with 95% intervals that cover sampling.

    Args:
        labels: (N,) 0 or 1.
        ours: (N,) float32 or float64 in [0, 1].
        baseline: (N,) like `ours`, for the same samples.
        weights: (N,) see `binary_metrics`; intervals cover sampling of the observed samples, not of repeated ones.

    Returns:
        The differences; None for fewer than two samples with weight (AUC: two of each class).
    """
    check_predictions(labels, ours, weights)
    check_predictions(labels, baseline)
    weighed, labels, ours, baseline = of_weight(weights, labels, ours, baseline)
    return Difference(
        by_metric={
            name: None if metric.lacking(labels) else _paired(metric, labels, ours, baseline, weighed)
            for name, metric in METRICS.items()
        }
    )


def paired_difference(
    metric: Metric, labels: Labels, a: Probabilities, b: Probabilities, weights: Weights | None = None
) -> PairedDifference:
    """Return the metric of a minus that of b with a normal interval that covers sampling (DeLong's for AUC).

    Args:
        metric: an entry of `METRICS`.
        labels: (N,) 0 or 1.
        a: (N,) float32 or float64 in [0, 1].
        b: (N,) like `a`, for the same samples.
        weights: (N,) see `binary_metrics`; the error covers sampling of the observed samples, not of repeated ones.

    Returns:
        The difference. The estimate is exact. Interval and p value are asymptotic in the number of samples, for AUC in that
        of each class. If the values per sample differ by a constant, the standard error is 0.

    Raises:
        ValueError: there are too few labels for a standard error, or `check_predictions` rejects the predictions.
    """
    check_predictions(labels, a, weights)
    check_predictions(labels, b)
    weighed, labels, a, b = of_weight(weights, labels, a, b)
    if lacking := metric.lacking(labels):
        raise ValueError(f"The standard error of {metric.title} needs {lacking}. Evaluate on more samples.")
    return _paired(metric, labels, a, b, weighed)


def difference_per_sample(
    metric: Metric,
    labels: Labels,
    a: Probabilities,
    b: Probabilities,
    weights: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """Return the values per sample (N,) of a minus those of b. Their mean is the difference of the metric."""
    return np.subtract(metric.values(labels, a, weights), metric.values(labels, b, weights), dtype=np.float64)


def judgment(logloss: float, p_adjusted: float) -> str:
    """Return the verdict on a difference in log loss from its adjusted p value."""
    if p_adjusted >= _LEVEL:
        return "no significant difference"
    return "better" if logloss < 0 else "worse"


def p_words(value: float) -> str:
    """Format a p value; small ones as an upper bound."""
    return "below 0.0001" if value < 0.0001 else f"{value:.4f}"


def _paired(
    metric: Metric,
    labels: Labels,
    a: Probabilities,
    b: Probabilities,
    weights: npt.NDArray[np.float64] | None,
) -> PairedDifference:
    differences = difference_per_sample(metric, labels, a, b, weights)
    found = PairedDifference.normal(*metric.with_error(labels, differences, weights))
    if not isinstance(metric, Share) or weights is not None:
        return found
    counts = discordance(metric.per_sample(labels, a), metric.per_sample(labels, b))
    return ShareDifference(
        **dataclasses.asdict(found), bootstrap_ci95=bootstrap_accuracy(counts), mcnemar_p=mcnemar(counts)
    )
