"""Draw docs/img from benchmarks/results: cost against size, on logarithmic axes, with the slopes in the legend.

    python -m benchmarks.plots

A slope is that of the least-squares line through the logarithms: 1 where the cost grows as the size does, 0 where it
does not grow.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from dlrm_adahessian.report.page import COLOURS, STYLE

_ROOT = Path(__file__).resolve().parent.parent
_RESULTS, _IMAGES = _ROOT / "benchmarks" / "results", _ROOT / "docs" / "img"
_COLOURS = dict(zip(("adagrad", "hybrid", "prepare"), COLOURS, strict=False))
_PLAIN = FuncFormatter(lambda value, _: f"{value:,.10g}")
_SIZES = {"batch": "batch size", "table_rows": "rows of all tables", "dim": "embedding width D"}


def slope(size: Sequence[float], cost: Sequence[float]) -> float:
    """Return the least-squares slope of log cost against log size; at least two sizes."""
    return float(np.polyfit(np.log(size), np.log(cost), 1)[0])


def step_plot(points: Sequence[Mapping[str, float]], axis: str) -> Figure:
    """Plot milliseconds of a step of both optimizers, and their ratio beside."""
    figure = Figure((9, 3.4), layout="constrained")
    times, ratios = figure.subplots(1, 2)
    size = [point[axis] for point in points]
    for name in ("adagrad", "hybrid"):
        cost = [point[f"{name}_ms"] for point in points]
        label = f"{name}, slope {slope(size, cost):z.2f}"
        times.loglog(size, cost, "o-", color=_COLOURS[name], label=label)
    times.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    times.yaxis.set_major_formatter(_PLAIN)
    times.yaxis.set_minor_formatter(NullFormatter())
    ratio = [point["hybrid_over_adagrad"] for point in points]
    ratios.semilogx(size, ratio, "o-", color=_COLOURS["hybrid"])
    ratios.axhline(1, color="#000000", linewidth=0.8)
    _from_zero(ratios, ratio)
    times.set_ylabel("step, ms")
    ratios.set_ylabel("hybrid over Adagrad")
    for axes in (times, ratios):
        axes.set_xlabel(_SIZES[axis])
        axes.xaxis.set_major_formatter(_PLAIN)
    times.legend()
    return figure


def prepare_plot(points: Sequence[Mapping[str, float]]) -> Figure:
    """Plot microseconds of preparing a row, and the peak of memory beside."""
    figure = Figure((9, 3.4), layout="constrained")
    rows = [point["rows"] for point in points]
    for axes, key, unit in zip(
        figure.subplots(1, 2),
        ("microseconds_per_row", "peak_rss_mib"),
        ("microseconds a row", "peak memory, MiB"),
        strict=True,
    ):
        cost = [point[key] for point in points]
        axes.semilogx(rows, cost, "o-", color=_COLOURS["prepare"], label=f"slope {slope(rows, cost):z.2f}")
        axes.xaxis.set_major_formatter(_PLAIN)
        _from_zero(axes, cost)
        axes.set_xlabel("rows prepared")
        axes.set_ylabel(unit)
        axes.legend()
    return figure


def _from_zero(axes: Axes, values: Sequence[float]) -> None:
    axes.set_ylim(0, 1.2 * max(values))


def main() -> None:
    """Write the plots, and print their slopes."""
    steps = json.loads((_RESULTS / "scaling.json").read_text(encoding="utf-8"))
    by_axis = {axis: [point for point in steps if point["axis"] == axis] for axis in _SIZES}
    prepared = json.loads((_RESULTS / "prepare_scaling.json").read_text(encoding="utf-8"))
    with mpl.rc_context(STYLE):
        figures = {f"step-{axis.replace('_', '-')}": step_plot(by_axis[axis], axis) for axis in _SIZES}
        figures["prepare-rows"] = prepare_plot(prepared)
        for name, figure in figures.items():
            figure.savefig(_IMAGES / f"{name}.svg", metadata={"Date": None})
            print(
                name,
                *(text for axes in figure.axes for text in axes.get_legend_handles_labels()[1]),
                sep="  ",
            )


if __name__ == "__main__":
    main()
