"""Print lines, figures, log messages, and progress bars, safely for any file names in them."""

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

_COLOURS = {"better": 32, "worse": 31, "no significant difference": 33}  # ANSI codes: green, red, yellow
_JUDGED = re.compile(rf"(?:{'|'.join(_COLOURS)})$", re.MULTILINE)


def printable(text: str) -> str:
    """Return text with control characters escaped, so that a terminal does not interpret them. Keeps line breaks."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def printable_name(name: str) -> str:
    """Return a name with control characters and line breaks escaped; see `printable`."""
    return printable(name).replace("\n", "\\n")


def say_figures(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Print figures, one per line, or as JSON."""
    if as_json:
        say(json.dumps(found, allow_nan=False))
        return
    for name, value in found.items():
        shown = (
            f"{value:.6f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
        )
        say(f"{name.replace('_', ' '):<28}{shown}")


def say(text: str) -> None:
    """Print lines to the standard output."""
    sys.stdout.write(f"{printable(text)}\n")


def say_judged(text: str) -> None:
    """Print lines to the standard output. On a color terminal, verdicts at line ends are colored."""
    shown = printable(text)
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        shown = _JUDGED.sub(lambda found: f"\x1b[{_COLOURS[found[0]]}m{found[0]}\x1b[0m", shown)
    sys.stdout.write(f"{shown}\n")


class PrintableFormatter(logging.Formatter):
    """Format log records for a terminal, with a prefix for warnings and with control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message of a record and its traceback, both through `printable`."""
        said = "warning: " if record.levelno == logging.WARNING else ""
        return said + printable(super().format(record))


def progress_bar(title: str | None, *, unit: str, total: int | None = None, done: int = 0) -> Any:
    """Return a tqdm progress bar. It is hidden if the standard error is not a terminal.

    Args:
        title: title of the bar; None hides it.
        unit: unit of the count.
        total: total count, or None if unknown.
        done: count at the start.
    """
    from tqdm import tqdm  # imported here because help and invalid flags must respond at once

    hidden = title is None or not sys.stderr.isatty()
    return tqdm(
        desc=title, total=total, initial=done, unit=unit, unit_scale=True, dynamic_ncols=True, disable=hidden
    )
