# pyright: basic
"""A comparison as files (report.html, report.md, results.csv, summary.json), and what it says in sentences."""

from pathlib import Path

import pandas as pd

from dlrm_adahessian.compare.results import NEAR_BEST, PARTS, Comparison, PairDifference, TokenBands
from dlrm_adahessian.metrics.binary import METRICS
from dlrm_adahessian.report import comparison_plots as plots
from dlrm_adahessian.report.page import render
from dlrm_adahessian.runs.sealed import storage_errors, write_json, write_text
from dlrm_adahessian.runtime.terminal import printable_name
from dlrm_adahessian.statistics.comparison import judgement, p_words

PAGE, MARKDOWN = "report.html", "report.md"


def write_runs(folder: Path, runs: pd.DataFrame) -> None:
    """Write results.csv, a line per run, and remove an earlier report, whose figures may be others.

    Args:
        folder: of the comparison.
        runs: what `summary.runs_table` returned.
    """
    with storage_errors(folder):
        for name in ("summary.json", PAGE, MARKDOWN):
            (folder / name).unlink(missing_ok=True)
    write_text(folder / "results.csv", runs.map(_no_formula).to_csv(index=False))


def write_report(folder: Path, found: Comparison, runs: pd.DataFrame) -> None:
    """Write summary.json and the pages of a comparison's report.

    Args:
        folder: of the comparison.
        found: what `summary.summarize` returned.
        runs: what `summary.runs_table` returned.
    """
    write_json(folder / "summary.json", found.asdict())
    values = {
        "s": found,
        "metrics": METRICS,
        "headline": headline(found),
        "verdict": verdict(found),
        "curvature": curvature_sentences(found),
        "near_best": NEAR_BEST,
    }
    write_text(folder / MARKDOWN, render("comparison.md.j2", values, {}))
    drawn = {
        "quality": plots.quality(found.optimizers, found.target_val_logloss),
        "forest": plots.forest(found.to_first) if found.to_first else None,
        "sensitivity": plots.sensitivity(runs, NEAR_BEST),
        **_band_plots(found.bands, list(found.optimizers)),
        "cost": plots.cost(list(found.optimizers), found.step_ms),
    }
    write_text(folder / PAGE, render("comparison.html.j2", values, drawn))


def _no_formula(cell: object) -> object:
    """Return text on one line, with an apostrophe where a spreadsheet would take it for a formula (OWASP, CSV Injection)."""
    if not isinstance(cell, str):
        return cell
    text = printable_name(cell)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _band_plots(bands: TokenBands | None, names: list[str]) -> dict[str, str | None]:
    if bands is None:
        return {"bands": None, "curvature": None}
    measured = [(name, found) for name in names if (found := bands.curvature.get(name))]
    return {
        "bands": plots.bands(bands),
        "curvature": plots.curvature(measured[-1][1], bands.names, measured[-1][0]) if measured else None,
    }


def curvature_sentences(found: Comparison) -> list[str]:
    """Return a sentence for each entrant with curvature: of which matrix the diagonal is that it reads.

    Args:
        found: the comparison.

    Returns:
        Plain sentences.
    """
    names = {"hessian": "the Hessian", "gauss_newton": "the Gauss-Newton matrix"}
    return [
        f"{name} reads the diagonal of {names[of.weights]} at the weights and of {names[of.pooled]} at the pooled "
        f"embeddings (curvature {entrant.settings['curvature']})."
        for name, entrant in found.optimizers.items()
        if (of := entrant.curvature_of)
    ]


def headline(found: Comparison) -> list[str]:
    """Return a sentence for each kind of samples: who is better than the first entrant, who is worse.

    Args:
        found: the comparison.

    Returns:
        Plain sentences.
    """
    sentences: list[str] = []
    for part in PARTS:
        groups: dict[str, list[str]] = {"better": [], "worse": [], "no significant difference": []}
        for pair in found.to_first:
            if pair.part == part:
                groups[_judged(pair)].append(pair.optimizer)
        said = [f"{judged}: {', '.join(names)}" for judged, names in groups.items() if names]
        if said:
            sentences.append(f"Log loss of {part} rows against {found.first}: {'; '.join(said)}.")
    return sentences


def verdict(found: Comparison) -> list[str]:
    """Return a sentence for each entrant after the first, of its difference to the first.

    Args:
        found: the comparison.

    Returns:
        Plain sentences.
    """
    first, *others = found.optimizers
    sentences: list[str] = []
    for name in others:
        pairs = [pair for pair in found.to_first if pair.optimizer == name]
        if not pairs:
            sentences.append(f"{name} cannot be compared with {first}: no seed finished with both.")
        sentences.extend(map(_sentence, pairs))
    return sentences


def _judged(pair: PairDifference) -> str:
    return judgement(pair.difference.logloss.estimate, pair.p_adjusted)


def _sentence(pair: PairDifference) -> str:
    found, logloss = pair.difference, pair.difference.logloss
    low, high = logloss.ci95
    seeds = f"{found.seeds} {'seed' if found.seeds == 1 else 'seeds'}"
    if found.searches is not None:
        seeds += f" of {found.searches} searches"
    where = f"{found.rows:,} {pair.part} rows, {seeds}"
    what = f"log loss {logloss.estimate:+.5f} [{low:+.5f}, {high:+.5f}], {where}, adjusted p {p_words(pair.p_adjusted)}"
    models, judged = f"{pair.optimizer} against {pair.against}", _judged(pair)
    if judged != "no significant difference":
        return f"{models}: {judged} ({what})."
    return (
        f"{models}: {judged} ({what}); one of {pair.minimum_detectable_logloss:.5f} would have been found "
        "four times of five."
    )
