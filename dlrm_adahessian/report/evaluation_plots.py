# pyright: basic
"""Plots of an evaluation, each a list of panels as SVG text. Every model has one look in all of them."""

from collections.abc import Mapping, Sequence

import numpy as np

from dlrm_adahessian.evaluation.results import SliceFigures
from dlrm_adahessian.metrics.curves import CalibrationBin, Curve
from dlrm_adahessian.report.panels import (
    GUIDE,
    Look,
    interval,
    panel,
    rows_of_intervals,
    signed,
)
from dlrm_adahessian.statistics.single import proportion_interval

_Looks = Mapping[str, Look]
_CURVES = (
    ("ROC", "false_positive_rate", "recall", "false positive rate", "true positive rate"),
    ("Precision and recall", "recall", "precision", "recall", "precision"),
    ("Gain", "share_called", "recall", "share of samples, best first", "share of clicks among them"),
)
"""Title, fields of `Curve` across and up, and their labels."""


def curves(found: Mapping[str, Curve], looks: _Looks) -> list[str]:
    """Plot ROC, precision against recall, and the share of clicks against the share of samples."""
    click_rate = next(iter(found.values())).precision[-1]
    panels: list[str] = []
    for title, x, y, across, up in _CURVES:
        with panel(panels, 3.3, 3.1) as axes:
            for name, curve in found.items():
                axes.plot(getattr(curve, x), getattr(curve, y), color=looks[name].color, linewidth=1.5)
            axes.plot([0, 1], [click_rate] * 2 if y == "precision" else [0, 1], **GUIDE)
            axes.set(title=title, xlabel=across, ylabel=up, xlim=(0, 1), ylim=(0, 1.01))
    return panels


def reliability(bins: Mapping[str, Sequence[CalibrationBin]], looks: _Looks) -> list[str]:
    """Plot the click rate against the mean prediction in bins of equally many samples, and the gap between them."""
    limit = max(_wilson(entry)[1] for entries in bins.values() for entry in entries)
    limit = max(limit, *(entry.mean_probability for entries in bins.values() for entry in entries))
    panels: list[str] = []
    for gap in (False, True):
        with panel(panels, 4.4, 3.2) as axes:
            axes.plot([0, limit], [0, 0 if gap else limit], **GUIDE)
            for name, entries in bins.items():
                predicted = np.array([entry.mean_probability for entry in entries])
                clicked = np.array([entry.click_rate for entry in entries])
                reach = np.abs(np.array([_wilson(entry) for entry in entries]).T - clicked)
                look = looks[name]
                axes.errorbar(
                    predicted,
                    clicked - predicted if gap else clicked,
                    reach,
                    color=look.color,
                    fmt=f"{look.marker}-",
                    markersize=3.5,
                    capsize=2,
                    linewidth=1,
                )
            axes.set(xlabel="mean prediction", ylabel="click rate - mean prediction" if gap else "click rate")
            if gap:
                signed(axes)
    return panels


def slices(entries: Sequence[SliceFigures], looks: _Looks) -> list[str]:
    """Plot normalized entropy of each slice with its interval, and the difference in log loss of later models."""
    labels = [entry.label for entry in entries]
    shifts = dict(zip(looks, np.linspace(0, 0.3, len(looks)) if len(looks) > 1 else [0.1], strict=True))
    height = 0.7 + (0.42 + 0.05 * len(looks)) * len(entries)
    panels: list[str] = []
    with panel(panels, 4.4, height) as axes:
        rows_of_intervals(axes, labels, of_differences=False)
        for place, entry in enumerate(entries):
            for name, found in entry.models.items():
                ends = found.interval("normalized_entropy")
                interval(axes, place + shifts[name], looks[name], found.value("normalized_entropy"), ends)
        axes.set_xlabel("(← better) normalized entropy")
    if any(entry.differences for entry in entries):
        with panel(panels, 4.4, height) as axes:
            rows_of_intervals(axes, labels, of_differences=True)
            for place, entry in enumerate(entries):
                for each in entry.differences:
                    if each.logloss is not None:
                        where = place + shifts[each.model]
                        interval(axes, where, looks[each.model], each.logloss.estimate, each.logloss.ci95)
            axes.set_xlabel(f"(← better) log loss minus {next(iter(looks))}")
    return panels


def _wilson(entry: CalibrationBin) -> tuple[float, float]:
    if entry.effective_rows is not None:
        return proportion_interval(entry.click_rate * entry.effective_rows, entry.effective_rows)
    return proportion_interval(round(entry.click_rate * entry.rows), entry.rows)
