# pyright: basic
"""Write the report of a comparison (report.html, report.md, results.csv, summary.json), and word its verdicts."""

from pathlib import Path

import pandas as pd

from dlrm_adahessian.compare.results import NEAR_BEST, Comparison, PairDifference, TokenBands
from dlrm_adahessian.metrics.binary import METRICS
from dlrm_adahessian.report import comparison_plots as plots
from dlrm_adahessian.report.page import render
from dlrm_adahessian.report.panels import Look, forest, looks
from dlrm_adahessian.report.verdict import Verdict, counted, of_difference
from dlrm_adahessian.runs.sealed import storage_errors, write_json, write_text
from dlrm_adahessian.runtime.terminal import printable_name

PAGE, MARKDOWN = "report.html", "report.md"


def write_runs(folder: Path, runs: pd.DataFrame) -> None:
    """Write results.csv with a line per run, and remove an earlier report, whose figures may differ.

    Args:
        folder: of the comparison.
        runs: from `summary.runs_table`.
    """
    with storage_errors(folder):
        for name in ("summary.json", PAGE, MARKDOWN):
            (folder / name).unlink(missing_ok=True)
    write_text(folder / "results.csv", runs.map(_no_formula).to_csv(index=False))


def write_report(folder: Path, found: Comparison, runs: pd.DataFrame) -> None:
    """Write summary.json, report.md, and report.html.

    Args:
        folder: of the comparison.
        found: from `summary.summarize`.
        runs: from `summary.runs_table`.
    """
    write_json(folder / "summary.json", found.asdict())
    look_of = looks(found.optimizers)
    values = {
        "s": found,
        "metrics": METRICS,
        "verdicts": verdicts(found),
        "curvature": curvature_sentences(found),
        "near_best": NEAR_BEST,
        "looks": look_of,
        "others": {name: look for name, look in look_of.items() if name != found.first},
        "environment": found.environment,
    }
    write_text(folder / MARKDOWN, render("comparison.md.j2", values, {}))
    drawn = {
        "forest": forest(
            {f"{p.optimizer}, {p.part}": (p.difference, p.p_adjusted) for p in found.to_first}
        ) if found.to_first else [],
        "quality": plots.quality(found.optimizers, found.target_val_logloss, look_of),
        "sensitivity": plots.sensitivity(runs, NEAR_BEST, look_of),
        **_band_plots(found.bands, look_of),
        "cost": plots.cost(found.step_ms, look_of),
    }  # fmt: skip
    write_text(folder / PAGE, render("comparison.html.j2", values, drawn))


def verdicts(found: Comparison) -> list[Verdict]:
    """Return a verdict on each entrant after the reference, for each kind of samples.

    Args:
        found: the comparison.

    Returns:
        Verdicts on log loss, in the order of the entrants. Cautions about entrants whose trials all diverged precede them.
    """
    said = [
        Verdict(
            judged="caution",
            sentence=f"All {entrant.trials.count} trials of {name} diverged, so nothing was tuned: its final runs have the "
            "settings of the first trial. Use more trials, or see why they diverged.",
        )
        for name, entrant in found.optimizers.items()
        if entrant.trials is not None and entrant.trials.best_logloss is None
    ]
    for name in list(found.optimizers)[1:]:
        pairs = [_verdict(pair) for pair in found.to_first if pair.optimizer == name]
        sentence = f"{name} cannot be compared with {found.first}: no seed finished with both."
        said += pairs or [Verdict(judged="caution", sentence=sentence)]
    return said


def curvature_sentences(found: Comparison) -> list[str]:
    """Return a sentence for each entrant with curvature: the diagonal of which matrix it uses.

    Args:
        found: the comparison.

    Returns:
        Plain sentences.
    """
    names = {"hessian": "the Hessian", "gauss_newton": "the Gauss-Newton matrix"}
    return [
        f"{name} uses the diagonal of {names[of.weights]} at the weights and of {names[of.pooled]} at the pooled "
        f"embeddings (curvature {entrant.settings['curvature']})."
        for name, entrant in found.optimizers.items()
        if (of := entrant.curvature_of)
    ]


def _verdict(pair: PairDifference) -> Verdict:
    found = pair.difference
    searches = f" of {found.searches} searches" if found.searches is not None else ""
    return of_difference(
        pair.optimizer,
        pair.against,
        f"{pair.part} log loss",
        found.logloss,
        pair.p_adjusted,
        counted(found.seeds, "seed") + searches,
    )


def _band_plots(bands: TokenBands | None, look_of: dict[str, Look]) -> dict[str, list[str]]:
    """Return the plots by token frequency; curvature is that of the last entrant that has one."""
    if bands is None:
        return {"bands": [], "curvature": []}
    measured = [(found, name) for name in look_of if (found := bands.curvature.get(name))]
    return {
        "bands": plots.bands(bands, look_of),
        "curvature": plots.curvature(measured[-1][0], bands.names, measured[-1][1]) if measured else [],
    }


def _no_formula(cell: object) -> object:
    """Return text on one line, with an apostrophe if a spreadsheet would read it as a formula (OWASP, CSV Injection)."""
    if not isinstance(cell, str):
        return cell
    text = printable_name(cell)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
