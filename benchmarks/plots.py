"""Draw docs/img from benchmarks/results: costs against sizes on logarithmic axes, with slopes in the legend.

    python -m benchmarks.plots

A slope comes from a least-squares line through the logarithms. It is 1 if the cost grows in proportion to the size, and 0
if it does not grow.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from dlrm_adahessian.report.panels import COLORS, STYLE

_ROOT = Path(__file__).resolve().parent.parent
_RESULTS, _IMAGES = _ROOT / "benchmarks" / "results", _ROOT / "docs" / "img"
_COLORS = dict(zip(("adagrad", "hybrid", "prepare"), COLORS, strict=False))
_PLAIN = FuncFormatter(lambda value, _: f"{value:,.10g}")
_SIZES = {"batch": "batch size", "table_rows": "rows of all tables", "dim": "embedding width D"}


def slope(size: Sequence[float], cost: Sequence[float]) -> float:
    """Return the least-squares slope of log cost against log size, for at least two sizes."""
    return float(np.polyfit(np.log(size), np.log(cost), 1)[0])


def step_plot(points: Sequence[Mapping[str, float]], axis: str) -> Figure:
    """Plot the step times of both optimizers in milliseconds, next to their ratio."""
    figure = Figure((9, 3.4), layout="constrained")
    times, ratios = figure.subplots(1, 2)
    size = [point[axis] for point in points]
    for name in ("adagrad", "hybrid"):
        cost = [point[f"{name}_ms"] for point in points]
        label = f"{name}, slope {slope(size, cost):z.2f}"
        times.loglog(size, cost, "o-", color=_COLORS[name], label=label)
    times.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    times.yaxis.set_major_formatter(_PLAIN)
    times.yaxis.set_minor_formatter(NullFormatter())
    ratio = [point["hybrid_over_adagrad"] for point in points]
    ratios.semilogx(size, ratio, "o-", color=_COLORS["hybrid"])
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
    """Plot the microseconds per prepared sample, next to the peak memory."""
    figure = Figure((9, 3.4), layout="constrained")
    rows = [point["rows"] for point in points]
    for axes, key, unit in zip(
        figure.subplots(1, 2),
        ("microseconds_per_row", "peak_rss_mib"),
        ("microseconds a row", "peak memory, MiB"),
        strict=True,
    ):
        cost = [point[key] for point in points]
        axes.semilogx(rows, cost, "o-", color=_COLORS["prepare"], label=f"slope {slope(rows, cost):z.2f}")
        axes.xaxis.set_major_formatter(_PLAIN)
        _from_zero(axes, cost)
        axes.set_xlabel("rows prepared")
        axes.set_ylabel(unit)
        axes.legend()
    return figure


def columns_plot(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot the peak memory against the number of prepared samples of a schema, one line per format."""
    figure = Figure((6, 3.4), layout="constrained")
    axes = figure.subplots()
    for color, written in zip(
        cycle(COLORS), dict.fromkeys(point["format"] for point in points), strict=False
    ):
        own = [point for point in points if point["format"] == written]
        rows, peak = [point["rows"] for point in own], [point["peak_rss_mib"] for point in own]
        axes.semilogx(rows, peak, "o-", color=color, label=f"{written}, slope {slope(rows, peak):z.2f}")
    _from_zero(axes, [point["peak_rss_mib"] for point in points])
    axes.set_xticks(sorted({point["rows"] for point in points}))
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("rows prepared")
    axes.set_ylabel("peak memory, MiB")
    axes.legend(loc="lower right")
    return figure


def large_batches_plot(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot the samples to a log loss against the batch size, one line per optimizer. Hollow marks never reached it."""
    figure = Figure((6, 3.6), layout="constrained")
    axes = figure.subplots()
    most = max(point["samples_to_target"] or 0 for point in points)
    names = list(dict.fromkeys(point["optimizer"] for point in points))
    for place, (color, name) in enumerate(zip(cycle(COLORS), names, strict=False)):
        own = [point for point in points if point["optimizer"] == name]
        there = [point for point in own if point["samples_to_target"]]
        size, samples = [p["batch"] for p in there], [p["samples_to_target"] for p in there]
        axes.loglog(size, samples, "o-", color=color, label=name)
        lost = [point["batch"] for point in own if not point["samples_to_target"]]
        above = most * 1.15 ** (place + 1)  # so that marks do not overlap
        axes.loglog(lost, [above] * len(lost), "o", color=color, markerfacecolor="none")
    axes.set_xticks(sorted({point["batch"] for point in points}))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_PLAIN)
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("batch size")
    axes.set_ylabel(f"samples to log loss {points[0]['target']}")
    axes.legend()
    return figure


def headline_plot(study: Mapping[str, Any]) -> Figure:
    """Plot how much lower the log loss of a study's optimizer is than that of each other one, with 95% intervals."""
    figure = Figure((7.2, 2.3), layout="constrained")
    axes = figure.subplots()
    differences = study["differences"]
    others = list(dict.fromkeys(pair["against"] for pair in differences))
    for part, color, shift in (("progressive", COLORS[0], 0.14), ("test", COLORS[1], -0.14)):
        own = [pair for pair in differences if pair["part"] == part]
        gain = [-1000 * pair["logloss"]["estimate"] for pair in own]
        low, high = zip(
            *(sorted(-1000 * end for end in pair["logloss"]["ci95"]) for pair in own), strict=True
        )
        place = [len(others) - 1 - others.index(pair["against"]) + shift for pair in own]
        axes.hlines(place, low, high, color=color, linewidth=2.5)
        axes.plot(
            gain, place, "o", color=color, label=f"{part} validation" if part == "progressive" else part
        )
    axes.axvline(0, color="#000000", linewidth=0.8)
    axes.set_yticks(range(len(others)), [f"{study['optimizer']} vs. {name}" for name in reversed(others)])
    axes.set_ylim(-0.5, len(others) - 0.5)
    axes.set_xlabel("log loss lower by, in 0.001 (95% interval)")
    figure.legend(loc="outside upper center", ncols=2)
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
        columns = json.loads((_RESULTS / "read_columns.json").read_text(encoding="utf-8"))
        figures["columns-memory"] = columns_plot(columns)
        tuned = json.loads((_RESULTS / "tuned.json").read_text(encoding="utf-8"))
        figures["headline"] = headline_plot(tuned)
        if (large := _RESULTS / "large_batches.json").exists():  # this benchmark takes hours
            figures["large-batches"] = large_batches_plot(json.loads(large.read_text(encoding="utf-8")))
        for name, figure in figures.items():
            figure.savefig(_IMAGES / f"{name}.svg", metadata={"Date": None})
            print(
                name,
                *(text for axes in figure.axes for text in axes.get_legend_handles_labels()[1]),
                sep="  ",
            )


if __name__ == "__main__":
    main()
