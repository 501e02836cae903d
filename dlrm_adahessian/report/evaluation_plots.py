# pyright: basic
"""Plots of an evaluation as SVG text; a colour for each model, in the order of the report."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np

from dlrm_adahessian.evaluation.results import SliceFigures
from dlrm_adahessian.metrics.curves import CalibrationBin, Curve
from dlrm_adahessian.report.page import CYCLE, STYLE, legend, new_figure, svg_text
from dlrm_adahessian.statistics.single import proportion_interval

_LONGEST = 40  # characters of the name of a slice


def curves(found: Mapping[str, Curve]) -> str:
    """Plot ROC, precision against recall, and clicks found against rows chosen."""
    panels = (
        ("false positive rate", "true positive rate", "ROC", "false_positive_rate", "recall"),
        ("recall", "precision", "precision and recall", "recall", "precision"),
        ("share of rows chosen, best first", "share of clicks among them", "gain", "share_called", "recall"),
    )
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 3, 10, 3.9)
        for axis, (across, up, title, x, y) in zip(axes, panels, strict=True):
            for colour, curve in zip(CYCLE, found.values(), strict=False):
                axis.plot(getattr(curve, x), getattr(curve, y), color=colour, linewidth=1.5)
            axis.set(xlabel=across, ylabel=up, xlim=(0, 1), ylim=(0, 1.01))
            axis.set_title(title, fontsize=10)
        base_rate = next(iter(found.values())).precision[-1]
        chance = {"color": "#666666", "linewidth": 1, "linestyle": ":"}
        for axis in (axes[0], axes[2]):
            axis.plot([0, 1], [0, 1], **chance)
        axes[1].axhline(base_rate, **chance)
        legend(figure, list(found), loc="outside lower center", ncols=4)
        return svg_text(figure)


def reliability(bins: Mapping[str, Sequence[CalibrationBin]]) -> str:
    """Plot what happened against what was predicted, bins of equally many rows, and the gap between both."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 2, 9, 3.9)
        limit = 0.0
        for colour, entries in zip(CYCLE, bins.values(), strict=False):
            predicted = np.array([entry.mean_probability for entry in entries])
            happened = np.array([entry.click_rate for entry in entries])
            ends = np.array([_wilson(entry) for entry in entries])
            reach = np.abs(ends - happened[:, None]).T
            style: dict[str, Any] = {
                "color": colour,
                "fmt": "o-",
                "markersize": 3.5,
                "capsize": 2,
                "linewidth": 1,
            }
            axes[0].errorbar(predicted, happened, reach, **style)
            axes[1].errorbar(predicted, happened - predicted, reach, **style)
            limit = max(limit, *predicted, *ends[:, 1])
        axes[0].plot([0, limit], [0, limit], color="#666666", linewidth=1, linestyle=":")
        axes[1].axhline(0, color="#666666", linewidth=1, linestyle=":")
        axes[0].set(xlabel="mean prediction", ylabel="click rate")
        axes[1].set(xlabel="mean prediction", ylabel="click rate minus mean prediction")
        legend(figure, list(bins), loc="outside lower center", ncols=4)
        return svg_text(figure)


def slices(entries: Sequence[SliceFigures]) -> str:
    """Plot normalized entropy of each slice with its interval, and of later models the difference of the log loss."""
    compared = any(entry.differences for entry in entries)
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 2 if compared else 1, 9 if compared else 7, 1.2 + 0.3 * len(entries))
        models = list(entries[0].models)
        for number, (colour, name) in enumerate(zip(CYCLE, models, strict=False)):
            shift = 0.5 * (number - (len(models) - 1) / 2) / len(models)
            for place, entry in enumerate(reversed(entries)):
                found, metric = entry.models[name], "normalized_entropy"
                _interval(axes[0], place - shift, colour, found.value(metric), found.interval(metric))
                for difference in entry.differences:
                    if difference.model == name and difference.logloss is not None:
                        logloss = difference.logloss
                        _interval(axes[1], place - shift, colour, logloss.estimate, logloss.ci95)
        for axis in axes:
            axis.set_yticks(range(len(entries)), [])
            axis.set_ylim(-0.6, len(entries) - 0.4)
        axes[0].set_yticklabels([_shortened(entry.label) for entry in reversed(entries)])
        axes[0].set_xlabel("normalized entropy, lower is better")
        if compared:
            axes[1].axvline(0, color="#000000", linewidth=0.8)
            axes[1].set_xlabel(f"log loss minus that of {models[0]}")
            axes[1].ticklabel_format(axis="x", style="sci", scilimits=(-3, 3))
            legend(figure, models, loc="outside lower center", ncols=4)
        return svg_text(figure)


def _interval(
    axis: Any, place: float, colour: str, value: float | None, ends: Sequence[float] | None
) -> None:
    if value is not None and ends is not None:
        axis.plot(ends, [place, place], color=colour, linewidth=1.5)
        axis.plot([value], [place], "o", color=colour, markersize=4)


def _shortened(label: str) -> str:
    """Return a label with room for the plot beside it; the table has it whole."""
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"


def _wilson(entry: CalibrationBin) -> tuple[float, float]:
    if entry.effective_rows is not None:
        return proportion_interval(entry.click_rate * entry.effective_rows, entry.effective_rows)
    return proportion_interval(round(entry.click_rate * entry.rows), entry.rows)
