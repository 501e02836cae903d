"""What a terminal shows: lines, figures, log messages and progress bars, whatever the names of files in them."""

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

_COLOURS = {"better": 32, "worse": 31, "no significant difference": 33}  # of ANSI: green, red, yellow
_JUDGED = re.compile(rf"(?:{'|'.join(_COLOURS)})$", re.MULTILINE)


def printable(text: str) -> str:
    """Return text in which what no terminal should act on, as escapes in the name of a file, is written out; lines stay."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def printable_name(name: str) -> str:
    """Return a name on one line; see `printable`."""
    return printable(name).replace("\n", "\\n")


def say_figures(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what was found, a line each, or as JSON."""
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
    """Print lines to the standard output, a judgement at the end of a line in its colour where the terminal has colours."""
    shown = printable(text)
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        shown = _JUDGED.sub(lambda found: f"\x1b[{_COLOURS[found[0]]}m{found[0]}\x1b[0m", shown)
    sys.stdout.write(f"{shown}\n")


class PrintableFormatter(logging.Formatter):
    """Formats what the program logs, which names files too, for a terminal; says what is a warning."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message of a record, its traceback too, as `printable` has it."""
        said = "warning: " if record.levelno == logging.WARNING else ""
        return said + printable(super().format(record))


def progress_bar(title: str | None, *, unit: str, total: int | None = None, done: int = 0) -> Any:
    """Return a bar of tqdm's, which shows nothing where the standard error is no terminal.

    Args:
        title: None shows nothing either.
        unit: of what is counted.
        total: how much there is, None where that is not known.
        done: how much of it is done at the start.
    """
    from tqdm import tqdm  # not needed by help and a wrong flag, which answer at once

    hidden = title is None or not sys.stderr.isatty()
    return tqdm(
        desc=title, total=total, initial=done, unit=unit, unit_scale=True, dynamic_ncols=True, disable=hidden
    )
