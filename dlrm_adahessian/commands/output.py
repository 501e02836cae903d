"""What commands print: text for people, or one JSON document."""

import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

from dlrm_adahessian.runtime.printable import printable


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


class PrintableFormatter(logging.Formatter):
    """Formats what the program logs, which names files too, for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message of a record, its traceback too, as `printable` has it."""
        return printable(super().format(record))
