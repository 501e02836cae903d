# pyright: basic
"""Plots of a study of days, each a list of panels as SVG text."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from dlrm_adahessian.daily.summary import DailySummary, RunFigures
from dlrm_adahessian.report.panels import Look, panel

_LONGEST = 14  # characters of the name of a day
_Looks = Mapping[str, Look]


def days(found: DailySummary, looks: _Looks) -> list[str]:
    """Plot the log loss on the next day of each kind of run, with intervals."""
    panels: list[str] = []
    with panel(panels, *_size(found)) as axes:
        for shift, (name, look) in zip((-0.06, 0.06), looks.items(), strict=False):
            places, runs = _runs(found, name)
            losses = np.array([run.test.metrics.logloss for run in runs])
            ends = np.array([run.test.interval("logloss") or (np.nan, np.nan) for run in runs])
            reach = np.abs(ends.T - losses)
            axes.errorbar(
                places + shift,
                losses,
                reach,
                color=look.color,
                fmt=f"{look.marker}-",
                markersize=4,
                capsize=3,
                linewidth=1.2,
            )
        axes.set_ylabel("log loss on the next day")
        _name_days(axes, [day.tested_on for day in found.days])
    return panels


def cost(found: DailySummary, looks: _Looks) -> list[str]:
    """Plot seconds in steps, and samples trained on, day by day."""
    panels: list[str] = []
    for field, label in (("seconds", "seconds in steps"), ("samples", "training samples")):
        with panel(panels, *_size(found)) as axes:
            for shift, (name, look) in zip((-0.2, 0.2), looks.items(), strict=False):
                places, runs = _runs(found, name)
                axes.bar(places + shift, [getattr(run, field) for run in runs], width=0.38, color=look.color)
            axes.set_ylabel(label)
            _name_days(axes, [day.day for day in found.days])
    return panels


def _size(found: DailySummary) -> tuple[float, float]:
    """Return width and height in inches."""
    return min(9.5, max(4.4, 1 + 0.45 * len(found.days))), 3.2


def _runs(found: DailySummary, name: str) -> tuple[np.ndarray, list[RunFigures]]:
    """Return the places of the days that have such a run, and these runs."""
    places = [place for place, day in enumerate(found.days) if name in day.runs]
    return np.array(places), [found.days[place].runs[name] for place in places]


def _name_days(axes: Axes, names: list[str]) -> None:
    axes.set_xticks(range(len(names)), [name[:_LONGEST] for name in names], rotation=30, ha="right")
    axes.grid(axis="x", visible=False)
