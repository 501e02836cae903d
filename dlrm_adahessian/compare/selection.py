"""What chooses among draws, and what is left to report.

With `val` draws are judged by the validation rows after training. Where these are few, chance chooses: `progressive`
judges by every other block of the progressive rows, which are ten times as many and cover the whole of training. The
report then holds the other blocks alone, so that no row both chooses and reports.
"""

from dataclasses import replace
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.metrics.binary import binary_metrics, row_log_losses
from dlrm_adahessian.train.results import Predicted, RunResult

Select = Literal["val", "progressive"]


def judged_logloss(fitted: RunResult, select: Select, block: int) -> float:
    """Return the log loss by which a run is compared with others of its optimizer.

    Args:
        fitted: the run.
        select: the rows that judge.
        block: rows per block.

    Returns:
        Mean log loss in nats.
    """
    if select == "val":
        return cast(float, fitted.summary.val.logloss)  # there are validation samples
    labels, probability = fitted.progressive
    judges = ~_reports(len(labels), block)
    return float(row_log_losses(labels[judges], probability[judges]).mean())


def reported_rows(rows: int, select: Select, block: int) -> npt.NDArray[np.bool_]:
    """Return which of N progressive rows the report may use, (N,)."""
    return np.ones(rows, np.bool_) if select == "val" else _reports(rows, block)


def reported(fitted: RunResult, select: Select, block: int) -> RunResult:
    """Return a run with the rows of its progressive validation that the report may use, and their figures."""
    labels, probability = fitted.progressive
    kept = reported_rows(len(labels), select, block)
    labels, probability = labels[kept], probability[kept]
    summary = replace(fitted.summary, progressive=binary_metrics(labels, probability))
    return replace(fitted, progressive=Predicted(labels, probability), summary=summary)


def _reports(rows: int, block: int) -> npt.NDArray[np.bool_]:
    return np.arange(rows) // block % 2 == 1
