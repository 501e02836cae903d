# pyright: basic
"""An evaluation as one HTML file, and what it says in sentences."""

from collections.abc import Sequence
from pathlib import Path

from dlrm_adahessian.evaluation.predictions import Predictions
from dlrm_adahessian.evaluation.results import EvaluationSummary, LoglossDifference, ModelFigures
from dlrm_adahessian.metrics.binary import METRICS
from dlrm_adahessian.metrics.curves import curve
from dlrm_adahessian.report import evaluation_plots as plots
from dlrm_adahessian.report.page import render
from dlrm_adahessian.runs.run_directory import environment
from dlrm_adahessian.runs.sealed import write_text
from dlrm_adahessian.statistics.comparison import judgement


def write_evaluation(
    path: Path, summary: EvaluationSummary, labelled: Predictions, further: Sequence[str] = ()
) -> None:
    """Write the report, replacing one that is there.

    Args:
        path: the file.
        summary: of `evaluation.job.evaluate`.
        labelled: the predictions of the samples with a label, at least one.
        further: sentences of the verdict, after those of `verdict`.
    """
    both = summary.first.measured.metrics.auc is not None
    found = {
        name: curve(labelled.labels, scored, weights=labelled.weights)
        for name, scored in labelled.scored.items()
        if both
    }
    drawn = {
        "curves": plots.curves(found) if found else None,
        "reliability": plots.reliability({model.name: model.calibration_bins for model in summary.models}),
        **{f"slices {each.name}": plots.slices(each.slices) for each in summary.slicings if each.slices},
    }
    values = {
        "s": summary,
        "metrics": METRICS,
        "figures": _rows(summary.first),
        "verdict": [*verdict(summary), *further],
        "average_precision": {name: each.average_precision for name, each in found.items()},
        "environment": environment(),
    }
    write_text(path, render("evaluation.html.j2", values, drawn))


def verdict(summary: EvaluationSummary) -> list[str]:
    """Return a sentence on each model: how good the first one is, and what is shown of each later one against it.

    Further ones say it where models were trained or calibrated on some of the samples.

    Args:
        summary: of `evaluation.job.evaluate`, with labeled samples.

    Returns:
        Plain sentences.
    """
    return [_of_one(summary.first, summary.labelled), *map(_of_two, summary.differences), *summary.cautions]


def _rows(model: ModelFigures) -> list[tuple[str, str, float | None]]:
    """Return name and title of the metrics in the table of figures, and what predicting the base rate gets."""
    of_base_rate = model.measured.metrics.of_base_rate
    return [
        *((name, metric.title, of_base_rate(name)) for name, metric in METRICS.items()),
        ("normalized_entropy", "normalized entropy", 1.0),
        ("calibration", "calibration", 1.0),
    ]


def _of_one(model: ModelFigures, samples: int) -> str:
    found = model.measured
    entropy, calibration = found.metrics.normalized_entropy, found.metrics.calibration
    ends = found.interval("calibration")
    if entropy is None or calibration is None or ends is None:
        return f"{model.name}: log loss {found.metrics.logloss:.5f} on {samples:,} rows of one class only."
    known = f"{100 * abs(1 - entropy):.1f}% {'less' if entropy <= 1 else 'more'} log loss than the base rate"
    low, high = ends
    if low <= 1 <= high:
        level = "the click rate as a whole is met within the chance of the rows"
    else:
        way = "more" if calibration > 1 else "fewer"
        level = f"it predicts {100 * abs(calibration - 1):.1f}% {way} clicks than there were"
    return f"{model.name}: {known} on {samples:,} rows, AUC {found.metrics.auc:.4f}; {level}."


def _of_two(found: LoglossDifference) -> str:
    pair = f"{found.model} against {found.against}"
    if found.logloss is None or found.p_adjusted is None:
        return f"{pair}: too few rows to say."
    estimate, (low, high) = found.logloss.estimate, found.logloss.ci95
    judged = judgement(estimate, found.p_adjusted)
    return f"{pair}: {judged} (log loss {estimate:+.5f} [{low:+.5f}, {high:+.5f}])."
