"""Recognize Criteo data that other programs wrote, and suggest the shell filter that converts it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlrm_adahessian.data.criteo.faults import names_columns

_SCHEMA = "its columns with --schema FILE.toml; see docs/own-data.md."


@dataclass(frozen=True)
class _Repair:
    """A difference from Criteo's format, the command that undoes it, and its effect on one line."""

    finding: str
    command: str
    undo: Callable[[bytes], bytes]


def _tabbed(separator: bytes) -> Callable[[bytes], bytes]:
    def undo(line: bytes) -> bytes:
        separated = line.count(separator) > max(1, line.count(b"\t"))
        return line.replace(separator, b"\t") if separated else line

    return undo


_SEPARATORS = (
    _Repair("columns separated by commas", r"tr ',' '\t'", _tabbed(b",")),
    _Repair("columns separated by semicolons", r"tr ';' '\t'", _tabbed(b";")),
)
_VALUES = (
    _Repair("quotes", "tr -d '\"'", lambda line: line.replace(b'"', b"")),
    _Repair(
        "integers that end in .0",
        r"sed -E 's/\.0+(\t|\r?$)/\1/g'",
        lambda line: re.sub(rb"\.0+(?=\t|\r?$)", b"", line),
    ),
)


def find_repairs(lines: Sequence[bytes], is_row: Callable[[bytes], bool]) -> str | None:
    """Describe how the first lines of a text differ from Criteo's format, and how to convert it.

    Args:
        lines: first lines without newlines, none of them valid.
        is_row: returns whether a line is valid.

    Returns:
        End of a message that begins with the name of the text; None if the format is unknown.
    """
    header = _Repair("a header", "tail -n +2", lambda line: line)
    first = _Repair("an extra first column", "cut -f2-", lambda line: _behind_first(line, is_row))
    body = list(lines)
    found: list[_Repair] = []
    if names_columns(body[0]):
        found, body = [header], body[1:]
    for repair in (*_SEPARATORS, *_VALUES, first):
        repaired = list(map(repair.undo, body))
        if repaired != body:
            found, body = [*found, repair], repaired
    has = " and ".join(", ".join(repair.finding for repair in found).rsplit(", ", 1))
    if sum(map(is_row, body)) > len(body) // 2:
        through = " | ".join(repair.command for repair in found)
        return f"has {has}. Pipe it through {through} into --data-path -, or describe {_SCHEMA}"
    if any(repair in (header, *_SEPARATORS) for repair in found):
        return f"has {has}, and its columns are not Criteo's. Describe {_SCHEMA}"
    return None


def _behind_first(line: bytes, is_row: Callable[[bytes], bool]) -> bytes:
    """Remove the first column if the others are a valid line."""
    rest = line.partition(b"\t")[2]
    return rest if is_row(rest) else line
