# pyright: basic
"""Plots of a study of days as SVG text: the first colour is the warm start, the second training from scratch."""

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import StrMethodFormatter

from dlrm_adahessian.daily.job import SCRATCH
from dlrm_adahessian.daily.summary import DailySummary
from dlrm_adahessian.report.page import COLOURS, STYLE, legend, new_figure, svg_text
from dlrm_adahessian.runs.kinds import WARM

_LONGEST = 14  # characters of the name of a day
_STYLE = {"fmt": "o-", "markersize": 4, "capsize": 3, "linewidth": 1.2}
_COLOUR: dict[str, str] = dict(zip((WARM, SCRATCH), COLOURS, strict=False))


def days(found: DailySummary) -> str:
    """Plot the log loss on the next day of both kinds of runs, and their difference, with intervals."""
    names = [day.tested_on[:_LONGEST] for day in found.days]
    both = bool(found.compared)
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 2 if both else 1, 10 if both else 6, 3.9)
        for shift, name in ((-0.06, WARM), (0.06, SCRATCH)):
            entries = [
                (place, day.runs[name].test) for place, day in enumerate(found.days) if name in day.runs
            ]
            if entries:
                places = np.array([place for place, _ in entries]) + shift
                losses = np.array([test.metrics.logloss for _, test in entries])
                ends = np.array([test.interval("logloss") or (np.nan, np.nan) for _, test in entries])
                axes[0].errorbar(
                    places, losses, np.abs(ends - losses[:, None]).T, color=_COLOUR[name], **_STYLE
                )
        axes[0].set(ylabel="log loss on the day", title="The day after, before it is learned")
        if both:
            differences = [
                (place, logloss)
                for place, day in enumerate(found.days)
                if day.difference is not None and (logloss := day.difference["logloss"]) is not None
            ]
            values = np.array([each.estimate for _, each in differences])
            ends = np.array([each.ci95 for _, each in differences])
            axes[1].errorbar(
                [place for place, _ in differences],
                values,
                np.abs(ends - values[:, None]).T,
                color="#1a1a1a",
                **{**_STYLE, "fmt": "o"},
            )
            axes[1].axhline(0, color="#666666", linewidth=1, linestyle=":")
            axes[1].set(
                ylabel="log loss, warm minus scratch", title="Below the line the warm start is better"
            )
            axes[1].set_xlim(axes[0].get_xlim())
        for axis in axes:
            axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
            axis.title.set_fontsize(10)
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:.4f}"))
        legend(figure, ["warm start", "from scratch"][: 1 + both], loc="outside lower center", ncols=2)
        return svg_text(figure)


def cost(found: DailySummary) -> str | None:
    """Plot seconds in steps, and samples learned, day by day; None where nothing was trained from scratch."""
    if not found.compared:
        return None
    names = [day.day[:_LONGEST] for day in found.days]
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 2, 10, 3.3)
        for axis, field, label in ((axes[0], "seconds", "seconds in steps"), (axes[1], "samples", "samples")):
            for shift, name in ((-0.2, WARM), (0.2, SCRATCH)):
                entries = [
                    (place + shift, getattr(day.runs[name], field))
                    for place, day in enumerate(found.days)
                    if name in day.runs
                ]
                axis.bar(*zip(*entries, strict=True), width=0.38, color=_COLOUR[name])
            axis.set(ylabel=label)
            axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        legend(figure, ["warm start", "from scratch"], loc="outside lower center", ncols=2)
        return svg_text(figure)
