"""Pages from templates, with the figures written alike on all of them."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(template: str, values: Mapping[str, Any], drawn: Mapping[str, str | None]) -> str:
    """Fill a template.

    Args:
        template: its file.
        values: what it shows; text is escaped in HTML.
        drawn: SVG text of plots by name, or None.

    Returns:
        The page.
    """
    environment = Environment(
        loader=PackageLoader("dlrm_adahessian.report"),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=_figure,
        signed=_signed,
        interval=_interval,
        plain_interval=_plain_interval,
        p_value=_p_value,
        setting=_setting,
    )
    # Our own SVG is markup; matplotlib escapes the names in it.
    charts = {name: Markup(svg) if svg else None for name, svg in drawn.items()}
    return environment.get_template(template).render(**values, plots=charts)


def _figure(value: float | None, digits: int = 5) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.5f}"


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"[{ends[0]:+.5f}, {ends[1]:+.5f}]"


def _plain_interval(ends: tuple[float, float], digits: int = 5) -> str:
    return f"[{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def _p_value(value: float | None) -> str:
    return "-" if value is None else "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _setting(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
