# pyright: basic
"""An evaluation as one HTML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlrm_adahessian.evaluation.predictions import Predictions
from dlrm_adahessian.metrics.curves import curve
from dlrm_adahessian.report import evaluation_plots as plots
from dlrm_adahessian.report.evaluation_words import verdict
from dlrm_adahessian.report.rendering import render
from dlrm_adahessian.runs.run_directory import environment
from dlrm_adahessian.runs.sealed import write_text


def write_evaluation(path: Path, summary: Mapping[str, Any], labelled: Predictions) -> None:
    """Write the report, replacing one that is there.

    Args:
        path: the file.
        summary: of `evaluation.job.evaluate`.
        labelled: the predictions of the rows with a label, at least one.
    """
    both = 0 < int(labelled.labels.sum()) < len(labelled.labels)
    found = {name: curve(labelled.labels, scored) for name, scored in labelled.scored.items()} if both else {}
    bins = {model["name"]: model["calibration_bins"] for model in summary["models"]}
    drawn = {
        "curves": plots.curves(found) if found else None,
        "reliability": plots.reliability(bins),
        **{
            f"slices {name}": plots.slices(cut["slices"])
            for name, cut in summary["slices"].items()
            if cut["slices"]
        },
    }
    values = {
        "s": summary,
        "verdict": verdict(summary),
        "average_precision": {name: each.average_precision for name, each in found.items()},
        "environment": environment(),
    }
    write_text(path, render("evaluation.html.j2", values, drawn))
