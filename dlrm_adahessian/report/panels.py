# pyright: basic
"""One style for all plots of a report: a panel is one pair of axes, drawn as SVG text.

Panels are small and separate, so a page can put them side by side on a screen and below each other on a phone.
"""

import io
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from dlrm_adahessian.metrics.binary import METRICS
from dlrm_adahessian.statistics.comparison import Difference, judgment
from dlrm_adahessian.statistics.crossed import CrossedDifference

# Most are Okabe and Ito's, distinct for readers with any color vision (jfly.uni-koeln.de/color, 2008). Green and red are
# left out: they mean better and worse.
COLORS = ("#0072b2", "#e69f00", "#cc79a7", "#56b4e9", "#8c6d31", "#7b61c9")
JUDGED = {"better": "#2e9e4f", "worse": "#d64545", "no significant difference": "#808080"}
"""Colors of the verdicts."""
NEUTRAL = JUDGED["no significant difference"]
INK = "#1a1a1a"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable
    "svg.hashsalt": "report",  # the same data gives the same bytes
    "text.parse_math": False,  # a $ in a name is a $
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.4,
    "legend.frameon": False,
}
GUIDE: dict[str, Any] = {"color": NEUTRAL, "linewidth": 1, "linestyle": ":"}
"""How a line of reference is drawn."""
_NUMBER = FuncFormatter(lambda value, _: f"{value:z,.10f}".rstrip("0").rstrip("."))
_SIGNED = FuncFormatter(lambda value, _: f"{value:+z,.10f}".rstrip("0").rstrip(".") if value else "0")
_SYMBOLS = {"o": "●", "s": "■", "^": "▲", "D": "◆"}  # by marker of matplotlib
_LONGEST = 40  # characters of a label inside a panel


class Look(NamedTuple):
    """The color and the marker of an entrant or a model, the same in all plots of a report."""

    color: str
    marker: str

    @property
    def symbol(self) -> str:
        """The marker as a letter, for legends in HTML."""
        return _SYMBOLS[self.marker]


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Return a look for each name. Names beyond the last color repeat the colors with another marker."""
    markers = list(_SYMBOLS)
    return {
        name: Look(COLORS[place % len(COLORS)], markers[place // len(COLORS) % len(markers)])
        for place, name in enumerate(names)
    }


@contextmanager
def panel(panels: list[str], width: float = 3.3, height: float = 2.6) -> Iterator[Axes]:
    """Yield axes to draw on, then append them to `panels` as an SVG element.

    The same drawing gives the same bytes. Text takes the color of the page.

    Args:
        panels: SVG texts so far.
        width: inches.
        height: inches.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(_NUMBER)
        axes.locator_params(axis="x", nbins=4)
        yield axes
        buffer = io.StringIO()
        with warnings.catch_warnings():
            # The browser has another font for letters that matplotlib's font lacks.
            warnings.filterwarnings("ignore", r"Glyph \d+")
            figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    panels.append(text[text.index("<svg") :].replace(INK, "currentColor"))


def signed(axes: Axes) -> None:
    """Write the ticks of a y axis of differences with their sign."""
    axes.yaxis.set_major_formatter(_SIGNED)


def log_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Make the x axis logarithmic around positive values, with two to six ticks that are plain numbers."""
    low, high = min(values) / 2.5, max(values) * 2.5
    decades = math.log10(high / low)
    factors = (1, 2, 5) if decades <= 1.3 else (1, 3) if decades <= 2.3 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)), math.ceil(decades / 5))
    ticks = [tick for power in powers for factor in factors if low <= (tick := factor * 10.0**power) <= high]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def rows_of_intervals(axes: Axes, labels: Sequence[str], *, of_differences: bool) -> None:
    """Prepare axes for intervals in rows 0, 1, ... from the top, each below its label; mark zero if they are differences."""
    axes.set_ylim(len(labels) - 0.5, -0.8)
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines["left"].set_visible(False)
    for place, label in enumerate(labels):
        shown = label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"
        axes.text(0, place - 0.22, shown, transform=axes.get_yaxis_transform(), va="bottom", fontsize="small")
        if of_differences:
            axes.plot([0, 0], [place - 0.2, place + 0.45], color=INK, linewidth=0.8)
    if of_differences:
        axes.xaxis.set_major_formatter(_SIGNED)


def interval(axes: Axes, place: float, look: Look, value: float | None, ends: Sequence[float] | None) -> None:
    """Draw an estimate with its interval in a row; nothing without both."""
    if value is not None and ends is not None:
        axes.plot(ends, [place, place], color=look.color, linewidth=2)
        axes.plot([value], [place], look.marker, color=look.color, markersize=5)


def forest(rows: Mapping[str, tuple[Difference | CrossedDifference, float | None]]) -> list[str]:
    """Plot differences with their intervals, a panel per metric, log loss first.

    Args:
        rows: difference and adjusted p value of its log loss, by label. Without a p value, the interval decides the color.

    Returns:
        SVG text of each panel.
    """
    panels: list[str] = []
    for name in sorted(METRICS, key=lambda name: name != "logloss"):
        metric = METRICS[name]
        with panel(panels, height=0.7 + 0.42 * len(rows)) as axes:
            rows_of_intervals(axes, list(rows), of_differences=True)
            for place, (difference, p_adjusted) in enumerate(rows.values()):
                if (found := difference[name]) is not None:
                    judged = judgment(
                        -found.estimate if metric.higher_is_better else found.estimate,
                        p_adjusted if name == "logloss" and p_adjusted is not None else found.p_value,
                    )
                    interval(axes, place, Look(JUDGED[judged], "o"), found.estimate, found.ci95)
            better = "{} difference (better →)" if metric.higher_is_better else "(← better) {} difference"
            axes.set_xlabel(better.format(metric.title))
    return panels
