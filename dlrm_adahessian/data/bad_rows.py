"""What happens to a line that breaks the format: it stops the reading, or it is put aside unchanged.

The parser only tells good lines from bad ones. Why a line is bad is found here, in plain Python, once for
the one line that a message names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from dlrm_adahessian.data.schema import COLUMN_NAMES, NUM_INTEGERS
from dlrm_adahessian.errors import DataError

MAX_LINE = 1 << 16
"""Bytes of the longest line without its newline; a Criteo line has about 230."""

_SHOWN = 40  # bytes of a value that a message shows
_MAX_REJECT = 1 << 28  # bytes of one line put aside; a longer one is no text, or an unpacked bomb
_ODD_BYTES = {
    b"\x00": "a NUL byte",
    b"\xef\xbb\xbf": "a byte order mark",
    b"\r": "a carriage return",
    b'"': "a quote",
}


@dataclass(frozen=True)
class Fault:
    """The first thing wrong in a line: 1-based column, the rule, and the bytes that break it."""

    column: int
    rule: str
    value: bytes

    def __str__(self) -> str:
        shown = repr(self.value[:_SHOWN])[1:]
        return f"{self.rule}, not {shown}{'...' if len(self.value) > _SHOWN else ''}"


class BadRows(Protocol):
    """Takes the bad lines of an input, in order."""

    rejected: int
    """Lines taken so far."""

    def reject(self, raw: bytes, explain: Callable[[], str]) -> None:
        """Take a bad line with its newline; `explain` says file:line:column and the reason."""
        ...

    def extend(self, raw: bytes) -> None:
        """Take more bytes of the line taken last, which is too long to hold in memory."""
        ...


class StrictRows:
    """Ends the reading at the first bad line."""

    rejected = 0

    def reject(self, raw: bytes, explain: Callable[[], str]) -> None:
        """Refuse the input.

        Args:
            raw: unused, the explanation shows the part that matters.
            explain: gives file:line:column and the reason.

        Raises:
            DataError: always.
        """
        raise DataError(f"{explain()}; repair the line, or put bad lines aside with --bad-rows quarantine")

    def extend(self, raw: bytes) -> None:
        """Do nothing: `reject` never returns."""


class QuarantinedRows:
    """Writes the bytes of bad lines to a file, unchanged."""

    def __init__(self, file: BinaryIO) -> None:
        self.rejected = 0
        self.first: str | None = None
        """Place and reason of the first bad line."""
        self._file = file
        self._line_open = False
        self._line_bytes = 0

    def reject(self, raw: bytes, explain: Callable[[], str]) -> None:
        """Write a bad line; a newline goes before it where the last line of another file had none."""
        if self._line_open:
            self._file.write(b"\n")
        self.first = self.first or explain()
        self.rejected += 1
        self._line_bytes = 0
        self.extend(raw)

    def extend(self, raw: bytes) -> None:
        """Write more of the same line.

        Args:
            raw: the bytes that follow.

        Raises:
            DataError: the line is so long that the input is no text.
        """
        self._line_bytes += len(raw)
        if self._line_bytes > _MAX_REJECT:
            raise DataError(
                f"a line of the input is longer than {_MAX_REJECT} bytes, {self.first or 'no place known'}; "
                "give a tab-separated text file"
            )
        self._file.write(raw)
        self._line_open = not raw.endswith(b"\n")


def find_fault(line: bytes, *, labelled: bool, empty_label: bool) -> Fault:
    """Find what is wrong with a bad line.

    Args:
        line: the bytes of a line that the parser refused, with or without its line end.
        labelled: the first of its columns is the label.
        empty_label: the label may be empty.

    Returns:
        A wrong number of columns if there is one, else the first bad field.
    """
    line = line.removesuffix(b"\n")
    if len(line) > MAX_LINE:
        return Fault(1, f"a line has at most {MAX_LINE} bytes", line)
    line = line.removesuffix(b"\r")
    names = COLUMN_NAMES if labelled else COLUMN_NAMES[1:]
    fields = line.split(b"\t")
    if not line:
        return Fault(1, f"a line has {len(names)} columns", line)
    if len(fields) < len(names):
        rule = f"a line has {len(names)} columns and this one ends in column {len(fields)}"
        return Fault(len(fields), rule, fields[-1])
    if len(fields) > len(names):
        return Fault(len(names) + 1, f"a line has no more than {len(names)} columns", fields[len(names)])
    return next(
        Fault(column, f"column {column} ({name}) {rule}{_odd_bytes(field)}", field)
        for column, (name, field) in enumerate(zip(names, fields, strict=True), 1)
        if (rule := _broken_rule(name, field, empty_label=empty_label))
    )


def _broken_rule(name: str, field: bytes, *, empty_label: bool) -> str | None:
    """Return the rule that `field` breaks, None when it is good."""
    if name == "label":
        return None if field in (b"0", b"1") or (empty_label and not field) else "must be 0 or 1"
    if not field:
        return None
    if COLUMN_NAMES.index(name) <= NUM_INTEGERS:
        if not field.removeprefix(b"-").isdigit():
            return "must be empty or a whole number in decimal digits"
        digits = field.removeprefix(b"-").lstrip(b"0")
        fits = len(digits) <= 19 and -(2**63) <= int(field[:1].strip(b"0123456789") + (digits or b"0")) < 2**63
        return None if fits else "must fit 64 bits"
    good = len(field) == 8 and not field.lower().strip(b"0123456789abcdef")
    return None if good else "must be empty or 8 hexadecimal digits"


def _odd_bytes(field: bytes) -> str:
    """Name the bytes of a field that a reader would not see in it."""
    found = [name for odd, name in _ODD_BYTES.items() if odd in field]
    if not found and not field.isascii():
        found = ["a byte outside ASCII"]
    return f"; it holds {' and '.join(found)}," if found else ""
