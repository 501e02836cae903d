"""Two runs on the same rows: differences in AUC, accuracy and log loss, with intervals over the rows."""

import dataclasses

from dlrm_adahessian.metrics.binary import (
    Labels,
    Probabilities,
    check_predictions,
    row_correct,
    row_log_losses,
)
from dlrm_adahessian.statistics.delong import delong, rarer_class
from dlrm_adahessian.statistics.discordance import bootstrap_accuracy, discordance, mcnemar
from dlrm_adahessian.statistics.intervals import Interval
from dlrm_adahessian.statistics.paired import paired_mean_difference


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """Ours minus the baseline on the same rows, with 95% intervals (low, high).

    The intervals cover the chance of the rows for this one pair of runs, not that of seeds: training both
    again moves the figures by an amount that only several seeds can show. None where too few rows, or too
    few of a class, leave a figure undefined. The bootstrap of the accuracy and McNemar's mid-p value check its normal
    interval where few rows divide the two runs.
    """

    auc: float | None = None
    auc_ci95: Interval | None = None
    accuracy: float | None = None
    accuracy_ci95: Interval | None = None
    accuracy_bootstrap_ci95: Interval | None = None
    accuracy_mcnemar_p: float | None = None
    logloss: float | None = None
    logloss_ci95: Interval | None = None

    def asdict(self) -> dict[str, float | Interval | None]:
        """Return the figures by name, ready for JSON."""
        return dataclasses.asdict(self)


def compare_predictions(labels: Labels, ours: Probabilities, baseline: Probabilities) -> Difference:
    """Return ours minus baseline in AUC, accuracy and log loss, with 95% intervals over the rows.

    The intervals cover the chance of the rows for this one pair of runs, not that of seeds.

    Args:
        labels: (N,) 0 or 1.
        ours: (N,) float32 or float64 in [0, 1].
        baseline: (N,) like `ours`, for the same rows.

    Returns:
        The differences; those of fewer than two rows (AUC: two of each class) are None.
    """
    check_predictions(labels, ours)
    check_predictions(labels, baseline)
    if len(labels) < 2:
        return Difference()
    ours_correct, baseline_correct = row_correct(labels, ours), row_correct(labels, baseline)
    accuracy = paired_mean_difference(ours_correct, baseline_correct)
    counts = discordance(ours_correct, baseline_correct)
    logloss = paired_mean_difference(row_log_losses(labels, ours), row_log_losses(labels, baseline))
    auc = delong(labels, ours, baseline) if rarer_class(labels) >= 2 else None
    return Difference(
        auc=auc.estimate if auc else None,
        auc_ci95=auc.ci95 if auc else None,
        accuracy=accuracy.estimate,
        accuracy_ci95=accuracy.ci95,
        accuracy_bootstrap_ci95=bootstrap_accuracy(counts),
        accuracy_mcnemar_p=mcnemar(counts),
        logloss=logloss.estimate,
        logloss_ci95=logloss.ci95,
    )
