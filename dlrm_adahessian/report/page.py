# pyright: basic
"""Fill the templates of the reports: text is escaped, numbers look alike on all pages."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dlrm_adahessian.evaluation.results import Figures
from dlrm_adahessian.report.panels import JUDGED, Look
from dlrm_adahessian.runtime.terminal import printable_name
from dlrm_adahessian.statistics.components import Estimate
from dlrm_adahessian.statistics.intervals import PairedDifference

_TAG = re.compile(r"<(?=[A-Za-z/!?])")  # "p < 0.0001" is not one
_JUDGED = {judged: Look(color, "o") for judged, color in JUDGED.items()}


def render(template: str, values: Mapping[str, Any], plots: Mapping[str, Sequence[str]]) -> str:
    """Fill a template.

    Args:
        template: its file.
        values: what it shows. Text is escaped in HTML. In Markdown, text cannot add a tag, a cell, or a line.
        plots: SVG text of the panels of each plot, by name.

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
    filters: dict[str, Any] = {
        "figure": _figure,
        "measured": _measured,
        "difference": _difference,
        "stacked": _stacked,
        "p_value": _p_value,
        "setting": _setting,
    }
    environment.filters.update(filters)
    # The SVG is our own markup. Matplotlib escapes the names in it.
    svg = {name: [Markup(panel) for panel in panels] for name, panels in plots.items()}
    return environment.get_template(template).render(**values, plots=svg, judged=_JUDGED)


def _in_markdown(value: object) -> object:
    """Return text without what would end a cell or a line of a table, and without tags."""
    return _TAG.sub("&lt;", printable_name(value).replace("|", "\\|")) if isinstance(value, str) else value


def _figure(value: float | None, digits: int = 5) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _measured(found: Figures | None, metric: str, digits: int = 5) -> str:
    """Return a metric, with its interval if it has one."""
    if found is None:
        return "-"
    ends = found.interval(metric)
    interval = f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]" if ends else ""
    return _figure(found.value(metric), digits) + interval


def _difference(found: PairedDifference | Estimate | None) -> str:
    return "-" if found is None else f"{found.estimate:+.5f} [{found.ci95[0]:+.5f}, {found.ci95[1]:+.5f}]"


def _stacked(text: str) -> Markup:
    """Return a number with its interval below it."""
    number, _, interval = text.partition(" ")
    return Markup('{}<br><span class="soft">{}</span>' if interval else "{}").format(number, interval)


def _p_value(value: float | None) -> str:
    return "-" if value is None else "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _setting(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
