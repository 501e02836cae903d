# pyright: basic
"""How all pages look: templates are filled, numbers written and plots drawn alike."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dlrm_adahessian.runtime.terminal import printable_name
from dlrm_adahessian.statistics.components import Estimate
from dlrm_adahessian.statistics.intervals import PairedDifference

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
_TAG = re.compile(r"<(?=[A-Za-z/!?])")  # "p < 0.0001" is none


def render(template: str, values: Mapping[str, Any], drawn: Mapping[str, str | None]) -> str:
    """Fill a template.

    Args:
        template: its file.
        values: what it shows; text is escaped in HTML, and in Markdown where it would be a tag, a cell or a line.
        drawn: SVG text of plots by name, or None.

    Returns:
        The page.
    """
    of_html = template.endswith(".html.j2")
    environment = Environment(
        loader=PackageLoader("dlrm_adahessian.report"),
        autoescape=of_html,
        finalize=None if of_html else _in_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=_figure,
        difference=_difference,
        difference_interval=_difference_interval,
        plain_interval=_plain_interval,
        p_value=_p_value,
        setting=_setting,
    )
    # Our own SVG is markup; matplotlib escapes the names in it.
    charts = {name: Markup(svg) if svg else None for name, svg in drawn.items()}
    return environment.get_template(template).render(**values, plots=charts)


def _in_markdown(value: object) -> object:
    """Return text without what would end a cell or a line of a table, and without tags."""
    return _TAG.sub("&lt;", printable_name(value).replace("|", "\\|")) if isinstance(value, str) else value


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
    with warnings.catch_warnings():
        # A browser finds letters that matplotlib's font lacks in another one.
        warnings.filterwarnings("ignore", r"Glyph \d+")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _figure(value: float | None, digits: int = 5) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _difference(found: PairedDifference | Estimate | None) -> str:
    return "-" if found is None else f"{found.estimate:+.5f}"


def _difference_interval(found: PairedDifference | Estimate | None) -> str:
    return "" if found is None else f"[{found.ci95[0]:+.5f}, {found.ci95[1]:+.5f}]"


def _plain_interval(ends: tuple[float, float], digits: int = 5) -> str:
    return f"[{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def _p_value(value: float | None) -> str:
    return "-" if value is None else "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _setting(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
