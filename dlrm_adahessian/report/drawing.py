# pyright: basic
"""How all plots look."""

import io
from typing import Any

from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by readers with any colour vision (jfly.uni-koeln.de/color, 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable
    "svg.hashsalt": "report",  # the same data gives the same bytes
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


def svg_text(figure: Figure) -> str:
    """Return a figure as an SVG element, the same bytes for the same figure."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
