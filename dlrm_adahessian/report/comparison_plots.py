# pyright: basic
"""Plots of a comparison, each a list of panels as SVG text. Every entrant has one look in all of them."""

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from dlrm_adahessian.compare.results import CurvatureByBand, CurvePoint, EntrantResult, TokenBands
from dlrm_adahessian.report.panels import GUIDE, INK, JUDGED, Look, log_ticks, panel, signed

_Looks = Mapping[str, Look]


def quality(entrants: Mapping[str, EntrantResult], target: float | None, looks: _Looks) -> list[str]:
    """Plot validation log loss against samples and against seconds: a thin line per seed, a thick one for the median."""
    values = [p.logloss for found in entrants.values() for p in chain.from_iterable(found.curves)]
    panels: list[str] = []
    for unit in ("samples", "seconds"):
        with panel(panels, 4.4, 3.2) as axes:
            for name, found in entrants.items():
                _curves(axes, found.curves, unit, looks[name].color)
            if target is not None:
                axes.axhline(target, **GUIDE)
            if values:  # the steep start of training would flatten everything after it
                low, high = min(values), float(np.quantile(values, 0.8))
                axes.set_ylim(low - 0.05 * (high - low), high + 0.3 * (high - low))
            axes.set(xlabel=f"{unit} of training", ylabel="log loss (validation)")
    return panels


def _curves(axes: Axes, curves: Sequence[Sequence[CurvePoint]], unit: str, color: str) -> None:
    """Draw the curve of each seed, and the median if all have the same number of points."""
    for curve in curves:
        axes.plot(
            [getattr(p, unit) for p in curve],
            [p.logloss for p in curve],
            color=color,
            alpha=0.3,
            linewidth=0.8,
        )
    if len({len(curve) for curve in curves}) == 1:
        median = [
            [float(np.median([getattr(point, key) for point in points])) for key in (unit, "logloss")]
            for points in zip(*curves, strict=True)
        ]
        axes.plot(*zip(*median, strict=True), color=color, linewidth=1.8)


def sensitivity(runs: pd.DataFrame, near_best: float, looks: _Looks) -> list[str]:
    """Plot the log loss of each trial against each learning rate, with one scale of log loss for all panels.

    Args:
        runs: the table of runs.
        near_best: height of the green band above the best trial, in nats.
        looks: of each entrant.

    Returns:
        Two panels per entrant; none without a trial that finished.
    """
    trials: pd.DataFrame = runs.loc[runs["kind"] == "trial"]
    logloss = trials["judged_logloss"].to_numpy(dtype=float)
    if np.isnan(logloss).all():
        return []
    best = float(np.nanmin(logloss))
    ceiling = max(float(np.nanquantile(logloss, 0.9)), best + 10 * near_best)
    panels: list[str] = []
    for name in dict.fromkeys(trials["optimizer"]):
        own: pd.DataFrame = trials.loc[trials["optimizer"] == name]
        logloss = own["judged_logloss"].to_numpy(dtype=float)
        diverged = np.isnan(logloss)
        shown = np.fmin(logloss, ceiling)  # the ceiling for NaN
        for part in ("dense", "rows"):
            rates = own[f"{part}.lr"].to_numpy(dtype=float)
            with panel(panels, 4.4, 2.2) as axes:
                axes.axhspan(best, best + near_best, color=JUDGED["better"], alpha=0.2, linewidth=0)
                look = looks[name]
                axes.plot(
                    rates[~diverged],
                    shown[~diverged],
                    look.marker,
                    color=look.color,
                    markersize=4,
                    clip_on=False,
                )
                axes.plot(
                    rates[diverged], shown[diverged], "x", color=JUDGED["worse"], markersize=6, clip_on=False
                )
                log_ticks(axes, rates.tolist())
                margin = 0.05 * (ceiling - best)
                axes.set_ylim(best - margin, ceiling + margin)
                axes.set_title(name)
                axes.set_xlabel("learning rate of the " + ("MLPs" if part == "dense" else "embedding rows"))
                axes.set_ylabel("log loss (selection set)")
    return panels


def bands(found: TokenBands, looks: _Looks) -> list[str]:
    """Plot differences in log loss to the reference by band of token frequency."""
    shown = [place for place, tokens in enumerate(found.tokens) if tokens]
    panels: list[str] = []
    with panel(panels, 5.5, 3.2) as axes:
        for number, (name, estimates) in enumerate(found.logloss.items()):
            shift = 0.7 * (number - (len(found.logloss) - 1) / 2) / len(found.logloss)
            cells = [(place + shift, cell) for place, band in enumerate(shown) if (cell := estimates[band])]
            middle = np.array([cell.estimate for _, cell in cells])
            reach = np.abs(np.array([cell.ci95 for _, cell in cells]).T - middle)
            look = looks[name]
            axes.errorbar(
                [place for place, _ in cells], middle, reach, fmt=look.marker, color=look.color, capsize=2
            )
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xticks(range(len(shown)), [found.names[band] for band in shown])
        axes.set(xlabel="training samples with the token", ylabel="log loss difference")
        signed(axes)
    return panels


def curvature(found: CurvatureByBand, names: Sequence[str], entrant: str) -> list[str]:
    """Plot the curvature at the embeddings of an entrant by table and band, and its ratio to the squared gradient."""
    h, g2 = (np.array(values, dtype=float) for values in (found.curvature, found.squared_gradient))
    shown = np.any(np.isfinite(h), axis=0, keepdims=True)[0]
    labels = [label for label, there in zip(names, shown.tolist(), strict=True) if there]
    with np.errstate(divide="ignore", invalid="ignore"):
        heatmaps = (
            (np.log10(h[:, shown]), "viridis", f"{entrant}: curvature, log10", None),
            (np.log2(h / g2)[:, shown], "PuOr", "curvature / squared gradient, log2", 2.0),
        )
    panels: list[str] = []
    for values, colors, title, limit in heatmaps:
        with panel(panels, 4.4, 1.2 + 0.16 * len(values)) as axes:
            image = axes.imshow(np.ma.masked_invalid(values), aspect="auto", cmap=colors)
            if limit is not None:
                image.set_clim(-limit, limit)
            axes.set_yticks(range(len(values)), found.tables, fontsize=7)
            axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", fontsize=8)
            axes.set_title(title)
            axes.grid(visible=False)
            axes.figure.colorbar(image, ax=axes, shrink=0.8)
    return panels


def cost(step_ms: Mapping[str, float], looks: _Looks) -> list[str]:
    """Plot the time of a step of each entrant, in milliseconds."""
    panels: list[str] = []
    with panel(panels, 5.5, 0.7 + 0.3 * len(step_ms)) as axes:
        axes.barh(
            range(len(step_ms)),
            list(step_ms.values()),
            color=[looks[name].color for name in step_ms],
            height=0.6,
        )
        axes.set_yticks(range(len(step_ms)), list(step_ms))
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds per step (median)")
        axes.grid(axis="y", visible=False)
    return panels
