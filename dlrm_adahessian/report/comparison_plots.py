# pyright: basic
"""Plots of a comparison as SVG text."""

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from dlrm_adahessian.compare.results import (
    CurvatureByBand,
    CurvePoint,
    EntrantResult,
    PairDifference,
    TokenBands,
)
from dlrm_adahessian.metrics.binary import METRICS
from dlrm_adahessian.report.page import COLOURS, CYCLE, STYLE, new_figure, svg_text

_MARKERS = ("o", "s", "^", "D")  # when colours are used up
_COLUMNS = 4  # entrants side by side


def quality(entrants: Mapping[str, EntrantResult], target: float | None) -> str:
    """Plot log loss on validation rows against samples and against seconds, a line per seed, thick the median."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 2, 9, 3.6)
        for axis, unit in zip(axes, ("samples", "seconds"), strict=True):
            for colour, (name, found) in zip(CYCLE, entrants.items(), strict=False):
                _curves(axis, found.curves, unit, colour, name)
            if target is not None:
                axis.axhline(target, color="#666666", linewidth=1.2, linestyle=":")
            axis.set_xlabel(f"{unit} of training")
            _clip_start(axis, entrants)
        axes[0].set_ylabel("log loss, validation rows")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
        return svg_text(figure)


def forest(pairs: Sequence[PairDifference]) -> str:
    """Plot differences with their intervals, a panel per metric, better to the right."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, len(METRICS), 3 * len(METRICS), 0.9 + 0.32 * len(pairs))
        for axis, (name, metric) in zip(axes, METRICS.items(), strict=True):
            sign = 1 if metric.higher_is_better else -1
            for place, pair in enumerate(reversed(pairs)):
                found = pair.difference[name]
                if found is None:
                    continue
                low, high = sorted(sign * end for end in found.ci95)
                colour = "#666666" if low <= 0 <= high else "#009e73" if low > 0 else "#d55e00"
                axis.plot([low, high], [place, place], color=colour, linewidth=2)
                axis.plot([sign * found.estimate], [place], "o", color=colour, markersize=5)
            axis.axvline(0, color="#000000", linewidth=0.8)
            axis.set_yticks(range(len(pairs)))
            axis.set_ylim(-0.6, len(pairs) - 0.4)
            axis.set_yticklabels([])
            axis.set_xlabel(f"{metric.title}, {'higher' if metric.higher_is_better else 'lower'} by")
            axis.ticklabel_format(axis="x", style="sci", scilimits=(-3, 3))
            axis.locator_params(axis="x", nbins=5)
        axes[0].set_yticklabels([f"{pair.optimizer}, {pair.part}" for pair in reversed(pairs)])
        return svg_text(figure)


def sensitivity(runs: pd.DataFrame, near_best: float) -> str | None:
    """Plot log loss of each trial against each learning rate; diverged ones as crosses at the top; None when all are."""
    trials: pd.DataFrame = runs.loc[runs["kind"] == "trial"]
    names = list(dict.fromkeys(trials["optimizer"]))
    logloss = trials["judged_logloss"].to_numpy(dtype=float)
    if np.isnan(logloss).all():
        return None
    best = float(np.nanmin(logloss))
    ceiling = max(float(np.nanquantile(logloss, 0.9)), best + 10 * near_best)
    columns = min(_COLUMNS, len(names))
    with mpl.rc_context(STYLE):
        blocks = math.ceil(len(names) / columns)
        figure, axes = new_figure(2 * blocks, columns, max(4.0, 2.3 * columns), 4.4 * blocks, sharey=True)
        for place, (colour, name) in enumerate(zip(CYCLE, names, strict=False)):
            own: pd.DataFrame = trials.loc[trials["optimizer"] == name]
            for row, rate in enumerate(("dense.lr", "rows.lr")):
                axis = axes[2 * (place // columns) + row, place % columns]
                logloss = own["judged_logloss"].to_numpy(dtype=float)
                lost = np.isnan(logloss)
                shown = np.minimum(np.where(lost, ceiling, logloss), ceiling)
                axis.axhspan(best, best + near_best, color="#009e73", alpha=0.15, linewidth=0)
                axis.plot(own[rate][~lost], shown[~lost], "o", color=colour, markersize=3.5)
                axis.plot(own[rate][lost], shown[lost], "x", color="#d55e00", markersize=6)
                axis.set_xscale("log")
                axis.xaxis.set_major_locator(LogLocator(numticks=4))
                # Matplotlib's own labels are formulas, which the style shows as text.
                axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.xaxis.set_minor_formatter(NullFormatter())
                axis.set_xlabel(f"{rate.removesuffix('.lr')} learning rate")
                if row == 0:
                    axis.set_title(name, fontsize=10)
        for axis in axes[:, 0]:
            axis.set_ylabel("log loss, rows that choose")
        for place in range(len(names), blocks * columns):
            for row in (0, 1):
                axes[2 * (place // columns) + row, place % columns].set_axis_off()
        return svg_text(figure)


def bands(found: TokenBands) -> str:
    """Plot differences of log loss to the first entrant by band of token frequency."""
    shown = [place for place, tokens in enumerate(found.tokens) if tokens]
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 1, 7.5, 3.4)
        width = 0.7 / max(1, len(found.logloss))
        for number, (colour, (name, estimates)) in enumerate(
            zip(COLOURS[1:] * 4, found.logloss.items(), strict=False)
        ):
            cells = [(place, cell) for place, band in enumerate(shown) if (cell := estimates[band])]
            at = [place + (number - (len(found.logloss) - 1) / 2) * width for place, _ in cells]
            middle = [cell.estimate for _, cell in cells]
            ends = np.array([cell.ci95 for _, cell in cells]).T
            marker = _MARKERS[number // (len(COLOURS) - 1)]
            axes[0].errorbar(
                at, middle, np.abs(ends - middle), fmt=marker, color=colour, label=name, capsize=2
            )
        axes[0].axhline(0, color="#000000", linewidth=0.8)
        axes[0].set_xticks(range(len(shown)), [found.names[band] for band in shown])
        axes[0].set_xlabel("rows of training that hold the token")
        axes[0].set_ylabel("log loss, difference")
        axes[0].ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
        return svg_text(figure)


def curvature(found: CurvatureByBand, names: Sequence[str], name: str) -> str:
    """Plot the curvature at the embeddings by table and band, and its ratio to the squared gradient."""
    h, g2 = (np.array(values, dtype=float) for values in (found.curvature, found.squared_gradient))
    shown = np.any(np.isfinite(h), axis=0, keepdims=True)[0]
    labels = [label for label, there in zip(names, shown.tolist(), strict=True) if there]
    with mpl.rc_context({**STYLE, "axes.grid": False}), np.errstate(divide="ignore", invalid="ignore"):
        figure, axes = new_figure(1, 2, 9, 5.6)
        panels = (
            (np.log10(h[:, shown]), "viridis", f"{name}: log10 of the curvature", None),
            (np.log2(h / g2)[:, shown], "PuOr", "log2 of curvature over squared gradient", 2.0),
        )
        for axis, (values, colours, title, limit) in zip(axes, panels, strict=True):
            bounds = {"vmin": -limit, "vmax": limit} if limit else {}
            image = axis.imshow(np.ma.masked_invalid(values), aspect="auto", cmap=colours, **bounds)
            axis.set_yticks(range(len(values)), found.tables, fontsize=7)
            axis.set_xticks(range(len(labels)), labels, rotation=30, ha="right", fontsize=8)
            axis.set_title(title, fontsize=10)
            figure.colorbar(image, ax=axis, shrink=0.8)
        return svg_text(figure)


def cost(names: Sequence[str], step_ms: Mapping[str, float]) -> str:
    """Plot the median time of a step of each entrant, none of one without."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 1, 6, 0.8 + 0.3 * len(names))
        shown = names[::-1]
        axes[0].barh(shown, [step_ms.get(name, 0.0) for name in shown], color=COLOURS[0], height=0.6)
        axes[0].set_xlabel("milliseconds a step, median")
        axes[0].grid(axis="y", visible=False)
        return svg_text(figure)


def _curves(axis: Axes, curves: Sequence[Sequence[CurvePoint]], unit: str, colour: str, name: str) -> None:
    for curve in curves:
        axis.plot(
            [getattr(p, unit) for p in curve],
            [p.logloss for p in curve],
            color=colour,
            alpha=0.25,
            linewidth=0.8,
        )
    if curves and len({len(curve) for curve in curves}) == 1:
        middle = [
            [float(np.median([getattr(point, key) for point in points])) for key in (unit, "logloss")]
            for points in zip(*curves, strict=True)
        ]
        axis.plot(*zip(*middle, strict=True), color=colour, linewidth=1.8, label=name)


def _clip_start(axis: Axes, entrants: Mapping[str, EntrantResult]) -> None:
    """Leave the first, steep part of training above the plot, where it would flatten all that follows."""
    values = [p.logloss for found in entrants.values() for curve in found.curves for p in curve]
    if values:
        low, high = min(values), float(np.quantile(values, 0.8))
        axis.set_ylim(low - 0.05 * (high - low), high + 0.3 * (high - low))
