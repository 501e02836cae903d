# pyright: basic
"""A comparison as files: report.html, report.md, results.csv, summary.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dlrm_adahessian.compare.results import NEAR_BEST
from dlrm_adahessian.report import plots
from dlrm_adahessian.report.words import headline, to_first, verdict
from dlrm_adahessian.storage import write_json, write_text


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
    write_text(folder / "report.md", _render("report.md.j2", values, {}))
    sensitivity = plots.sensitivity(runs, NEAR_BEST)
    drawn = {
        "quality": plots.quality(summary["optimizers"], summary["target_val_logloss"]),
        "forest": plots.forest(differences) if differences else None,
        "sensitivity": sensitivity,
        **_band_plots(summary),
        "cost": plots.cost(summary["optimizers"]),
    }
    write_text(folder / "report.html", _render("report.html.j2", values, drawn))


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


def _render(template: str, values: Mapping[str, Any], drawn: Mapping[str, str | None]) -> str:
    environment = Environment(
        loader=PackageLoader("dlrm_adahessian.report"),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figure=_figure, signed=_signed, interval=_interval, setting=_setting)
    # Our own SVG is markup; matplotlib escapes the names in it.
    charts = {name: Markup(svg) if svg else None for name, svg in drawn.items()}
    return environment.get_template(template).render(**values, plots=charts)


def _figure(value: float | None, digits: int = 5) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.5f}"


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"[{ends[0]:+.5f}, {ends[1]:+.5f}]"


def _setting(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
