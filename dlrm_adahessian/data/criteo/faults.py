"""Explain why a line is not a valid Criteo sample.

The parser (text.py) only separates good lines from bad ones. This module finds the reason in plain Python, for the one
line that a message shows.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dlrm_adahessian.data.criteo.columns import COLUMN_NAMES, INTEGER_NAMES
from dlrm_adahessian.data.text.sources import BYTE_ORDER_MARK

MAX_LINE = 1 << 16
"""Longest line in bytes, without its newline. A Criteo line has about 230."""

_SHOWN = 40  # bytes of a value that a message shows
_NAME = re.compile(rb'("?[A-Za-z_][\w .-]*"?)?')
_ODD_BYTES = {
    b"\x00": "a NUL byte",
    BYTE_ORDER_MARK: "a byte order mark",
    b"\r": "a carriage return",
    b'"': "a quote",
}


@dataclass(frozen=True)
class Fault:
    """The first fault in a line: the 1-based column, the rule, and the bytes that break it."""

    column: int
    rule: str
    value: bytes

    def __str__(self) -> str:
        shown = repr(self.value[:_SHOWN])[1:]
        return f"{self.rule}, found {shown}{'...' if len(self.value) > _SHOWN else ''}"


def is_row(line: bytes, *, labelled: bool, empty_label: bool) -> bool:
    """Return whether a line is a valid sample; the arguments are those of `find_fault`."""
    return _fault_of(line, labelled=labelled, empty_label=empty_label) is None


def names_columns(line: bytes) -> bool:
    """Return whether a line is a header with any separator. Only the first name, that of an index, may be empty."""
    fields = re.split(rb"[\t,;]", line.rstrip(b"\r\n"))
    return len(fields) > 1 and all(fields[1:]) and all(map(_NAME.fullmatch, fields))


def find_fault(line: bytes, *, labelled: bool, empty_label: bool) -> Fault:
    """Find what is wrong with a bad line.

    Args:
        line: the bytes of a line that the parser refused, with or without its line end.
        labelled: the first column is the label.
        empty_label: the label may be empty.

    Returns:
        The fault: a wrong number of columns if there is one, else the first bad field.

    Raises:
        ValueError: the line is valid.
    """
    fault = _fault_of(line, labelled=labelled, empty_label=empty_label)
    if fault is None:
        raise ValueError(f"the line {line!r:.100} is valid; call find_fault only if is_row is false")
    return fault


def _fault_of(line: bytes, *, labelled: bool, empty_label: bool) -> Fault | None:
    line = line.removesuffix(b"\n")
    if len(line) > MAX_LINE:
        return Fault(1, f"the line is longer than {MAX_LINE} bytes", line)
    line = line.removesuffix(b"\r")
    if not line:
        return Fault(1, "the line is blank", line)
    if names_columns(line):
        return Fault(1, "the line is a header, not a sample", line)
    names = COLUMN_NAMES if labelled else COLUMN_NAMES[1:]
    fields = line.split(b"\t")
    if len(fields) < len(names):
        rule = f"expected {len(names)} tab-separated columns, but the line ends in column {len(fields)}"
        return Fault(len(fields), f"{rule}{_cut_tabs(fields, names)}", fields[-1])
    if len(fields) > len(names):
        rule = f"expected {len(names)} tab-separated columns, but the line has more"
        return Fault(len(names) + 1, rule, fields[len(names)])
    return _bad_field(fields, names, empty_label=empty_label)


def _bad_field(fields: Sequence[bytes], names: Sequence[str], *, empty_label: bool) -> Fault | None:
    return next(
        (
            Fault(column, f"column {column} ({name}) {rule}{_odd_bytes(field)}", field)
            for column, (name, field) in enumerate(zip(names, fields, strict=True), 1)
            if (rule := _broken_rule(name, field, empty_label=empty_label))
        ),
        None,
    )


def _cut_tabs(fields: Sequence[bytes], names: Sequence[str]) -> str:
    """Return a hint if trailing tabs would make the line valid; else nothing."""
    whole = [*fields, *(b"" for _ in names[len(fields) :])]
    return "" if _bad_field(whole, names, empty_label=False) else " (were trailing tabs removed?)"


def _broken_rule(name: str, field: bytes, *, empty_label: bool) -> str | None:
    """Return the rule that `field` breaks; None if it is valid."""
    if name == "label":
        return None if field in (b"0", b"1") or (empty_label and not field) else "must be 0 or 1"
    if not field:
        return None
    if name in INTEGER_NAMES:
        digits = field.removeprefix(b"-")
        if not digits.isdigit():
            return "must be empty or a decimal integer"
        # Never convert a long run of digits: that takes quadratic time.
        fits = len(digits.lstrip(b"0")) <= 19 and int(digits[-19:]) < 2**63 + field.startswith(b"-")
        return None if fits else "must fit in a signed 64-bit integer"
    good = len(field) == 8 and not field.lower().strip(b"0123456789abcdef")
    return None if good else "must be empty or 8 hexadecimal digits"


def _odd_bytes(field: bytes) -> str:
    """Name the bytes of a field that are easy to overlook."""
    found = [name for odd, name in _ODD_BYTES.items() if odd in field]
    if not found and not field.isascii():
        found = ["a byte outside ASCII"]
    return f" but contains {' and '.join(found)}" if found else ""
