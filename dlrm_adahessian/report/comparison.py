# pyright: basic
"""A comparison as files: report.html, report.md, results.csv, summary.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dlrm_adahessian.compare.results import NEAR_BEST
from dlrm_adahessian.report import comparison_plots as plots
from dlrm_adahessian.report.comparison_words import headline, to_first, verdict
from dlrm_adahessian.report.rendering import render
from dlrm_adahessian.runs.sealed import write_json, write_text


def write_report(folder: Path, summary: Mapping[str, Any], runs: pd.DataFrame) -> None:
    """Write all files of a comparison's report.

    Args:
        folder: where; files of an earlier report are replaced.
        summary: what `results.summarize` returned.
        runs: what `results.runs_table` returned.
    """
    write_json(folder / "summary.json", summary)
    write_text(folder / "results.csv", runs.to_csv(index=False))
    differences = to_first(summary)
    values = {
        "s": summary,
        "headline": headline(summary),
        "verdict": verdict(summary),
        "near_best": NEAR_BEST,
        "to_first": differences,
    }
    write_text(folder / "report.md", render("comparison.md.j2", values, {}))
    sensitivity = plots.sensitivity(runs, NEAR_BEST)
    drawn = {
        "quality": plots.quality(summary["optimizers"], summary["target_val_logloss"]),
        "forest": plots.forest(differences) if differences else None,
        "sensitivity": sensitivity,
        **_band_plots(summary),
        "cost": plots.cost(summary["optimizers"]),
    }
    write_text(folder / "report.html", render("comparison.html.j2", values, drawn))


def _band_plots(summary: Mapping[str, Any]) -> dict[str, str | None]:
    found, names = summary["bands"], list(summary["optimizers"])
    if found is None:
        return {"bands": None, "curvature": None}
    measured = {name: values for name, values in found["curvature"].items() if values}
    last = next((name for name in reversed(names) if name in measured), None)
    return {
        "bands": plots.bands(found, [name for name in names[1:] if name in found]),
        "curvature": plots.curvature(measured[last], found["names"], last) if last else None,
    }
