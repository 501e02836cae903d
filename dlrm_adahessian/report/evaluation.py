# pyright: basic
"""Write the report of an evaluation as one HTML file, and word its verdicts."""

from collections.abc import Sequence
from pathlib import Path

from dlrm_adahessian.evaluation.predictions import Predictions
from dlrm_adahessian.evaluation.results import EvaluationSummary, LoglossDifference, ModelFigures
from dlrm_adahessian.metrics.binary import METRICS
from dlrm_adahessian.metrics.curves import curve
from dlrm_adahessian.report import evaluation_plots as plots
from dlrm_adahessian.report.page import render
from dlrm_adahessian.report.panels import forest, looks
from dlrm_adahessian.report.verdict import Verdict, counted, of_difference
from dlrm_adahessian.runs.run_directory import environment
from dlrm_adahessian.runs.sealed import write_text


def write_evaluation(
    path: Path, summary: EvaluationSummary, labelled: Predictions, further: Sequence[str] = ()
) -> None:
    """Write the report, and replace an earlier one.

    Args:
        path: the file.
        summary: from `evaluation.job.evaluate`.
        labelled: the predictions of the samples with a label, at least one.
        further: sentences after those of `verdicts`.
    """
    both = summary.first.measured.metrics.auc is not None
    found = {
        name: curve(labelled.labels, scored, weights=labelled.weights)
        for name, scored in labelled.scored.items()
        if both
    }
    look_of = looks(model.name for model in summary.models)
    bins = {model.name: model.calibration_bins for model in summary.models}
    drawn = {
        "forest": forest({each.model: (each.difference, each.p_adjusted) for each in summary.differences})
        if summary.differences
        else [],
        "reliability": plots.reliability(bins, look_of),
        "curves": plots.curves(found, look_of) if found else [],
        **{f"slices {each.name}": plots.slices(each.slices, look_of) for each in summary.slicings if each.slices},
    }  # fmt: skip
    values = {
        "s": summary,
        "metrics": METRICS,
        "figures": _rows(summary.first),
        "verdicts": [*verdicts(summary), *(Verdict(judged="note", sentence=each) for each in further)],
        "average_precision": {name: each.average_precision for name, each in found.items()},
        "looks": look_of,
        "environment": environment(),
    }
    write_text(path, render("evaluation.html.j2", values, drawn))


def verdicts(summary: EvaluationSummary) -> list[Verdict]:
    """Return a verdict on the first model, and one on each later model against it.

    Cautions follow if models were trained or calibrated on some of the samples.

    Args:
        summary: from `evaluation.job.evaluate`, with labeled samples.

    Returns:
        Verdicts on log loss.
    """
    cautions = [Verdict(judged="caution", sentence=sentence) for sentence in summary.cautions]
    others = [_of_two(found, summary.labelled) for found in summary.differences]
    return [_of_one(summary.first, summary.labelled), *others, *cautions]


def _rows(model: ModelFigures) -> list[tuple[str, str, float | None]]:
    """Return name and title of each metric in the table of results, and what the constant prediction gets."""
    found = model.measured.metrics
    logloss = found.logloss / found.normalized_entropy if found.logloss and found.normalized_entropy else None
    return [
        *(
            (name, metric.title, logloss if name == "logloss" else found.of_base_rate(name))
            for name, metric in METRICS.items()
        ),
        ("normalized_entropy", "normalized entropy", 1.0),
        ("calibration", "calibration", 1.0),
    ]


def _of_one(model: ModelFigures, samples: int) -> Verdict:
    """Return how the model compares with the constant prediction, and how well it is calibrated."""
    found = model.measured
    entropy, calibration = found.metrics.normalized_entropy, found.metrics.calibration
    against_constant, of_clicks = found.interval("normalized_entropy"), found.interval("calibration")
    if entropy is None or calibration is None or against_constant is None or of_clicks is None:
        return Verdict(
            judged="caution",
            sentence=f"{model.name}: log loss {found.metrics.logloss:.4f} on {counted(samples, 'sample')} of one class.",
        )
    judged = "better" if against_constant[1] < 1 else "worse" if against_constant[0] > 1 else None
    if of_clicks[0] <= 1 <= of_clicks[1]:
        level = "Its predictions add up to the number of clicks, within the interval"
    else:
        way = "more" if calibration > 1 else "fewer"
        level = f"It predicts {100 * abs(calibration - 1):.1f}% {way} clicks than there were"
    return Verdict(
        judged=judged or "no significant difference",
        sentence=f"{model.name}: log loss {found.metrics.logloss:.4f}, {100 * abs(1 - entropy):.1f}% "
        f"{'lower' if entropy <= 1 else 'higher'} than the constant prediction (click rate), and AUC "
        f"{found.metrics.auc:.4f}, on {counted(samples, 'sample')}. {level}.",
    )


def _of_two(found: LoglossDifference, samples: int) -> Verdict:
    if found.logloss is None or found.p_adjusted is None:
        sentence = f"{found.model} cannot be compared with {found.against}: there are too few samples."
        return Verdict(judged="caution", sentence=sentence)
    return of_difference(
        found.model, found.against, "log loss", found.logloss, found.p_adjusted, counted(samples, "sample")
    )
