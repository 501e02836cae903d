# pyright: basic
"""How all plots look."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Okabe and Ito's colours, told apart by readers with any colour vision (jfly.uni-koeln.de/color, 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable
    "svg.hashsalt": "report",  # the same data gives the same bytes
    "text.parse_math": False,  # a $ in a name is a $
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
CYCLE = COLOURS * 4


def new_figure(
    rows: int, columns: int, width: float, height: float, *, sharey: bool = False
) -> tuple[Figure, Any]:
    """Return a figure of so many inches, and its axes, (columns,) or of several rows (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    return figure, axes if rows > 1 else axes[0]


def legend(figure: Figure, names: Sequence[str], **place: Any) -> None:
    """Name the colours of `CYCLE` in order; names that begin with _ too, which matplotlib's own collection leaves out."""
    handles = [
        Line2D([], [], color=colour, marker="o", markersize=4)
        for colour, _ in zip(CYCLE, names, strict=False)
    ]
    figure.legend(handles, list(names), **place)


def svg_text(figure: Figure) -> str:
    """Return a figure as an SVG element, the same bytes for the same figure."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
