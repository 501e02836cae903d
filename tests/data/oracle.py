"""A reference parser of Criteo's format, as one regular expression: slow, short, and unlike the package's parser."""

import io
import random
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from dlrm_adahessian.data.criteo.columns import CriteoBlock
from dlrm_adahessian.data.rows import NO_LABEL
from dlrm_adahessian.data.text.sources import Source

_FIELDS = rb"(?:\t(?:-?[0-9]+)?){13}(?:\t(?:[0-9a-fA-F]{8})?){26}"
_ROW = {
    ("required", 40): re.compile(rb"[01]" + _FIELDS),
    ("optional", 40): re.compile(rb"[01]?" + _FIELDS),
    ("optional", 39): re.compile(_FIELDS),
}


class Row(NamedTuple):
    """One sample; None is a missing value."""

    label: int
    integers: tuple[int | None, ...]
    tokens: tuple[int | None, ...]


def parse(data: bytes, labels: str = "required") -> tuple[list[Row], list[bytes]]:
    """Return the samples of a file, and its bad lines with their line ends."""
    lines = _lines(data)
    ended = [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    label, no_label, either = _shown(data)
    unlabelled = labels == "optional" and (
        no_label > label if label + no_label + either else lines[0].count(b"\t") == 38
    )
    row = _ROW[labels, 39 if unlabelled else 40]
    rows, bad = [], []
    for raw in ended:
        line = raw.removesuffix(b"\n")
        content = b"\t" * unlabelled + line.removesuffix(b"\r")
        # An unlabeled line lacks the first field: a tab in front makes it an empty label.
        if len(line) <= 65536 and row.fullmatch(content):
            fields = content.split(b"\t")
            integers = tuple(_integer(field) if field else None for field in fields[1:14])
            if all(x is None or -(2**63) <= x < 2**63 for x in integers):
                tokens = tuple(int(field, 16) if field else None for field in fields[14:])
                rows.append(Row(int(fields[0]) if fields[0] else NO_LABEL, integers, tokens))
                continue
        bad.append(raw)
    return rows, bad


def may_be_refused(data: bytes, labels: str) -> tuple[bool, bool]:
    """Return whether a file must be refused for its columns, and whether it may be."""
    label, no_label, either = _shown(data)
    must = no_label > label if labels == "required" else label + no_label == 0 < either
    return must, must or label + no_label + either == 0


def _shown(data: bytes) -> tuple[int, int, int]:
    """Count the first lines that have a label, have none, or fit both.

    A line of 39 columns that becomes a labeled sample with a trailing tab counts as labeled.
    """
    found = []
    for line in _lines(data)[:100]:
        content = line.removesuffix(b"\r")
        with_label = bool(_read(content, "optional", 40) or _read(content + b"\t", "required", 40))
        found.append((with_label, bool(_read(b"\t" + content, "optional", 39))))
    return found.count((True, False)), found.count((False, True)), found.count((True, True))


def _read(content: bytes, labels: str, columns: int) -> bool:
    if len(content) > 65536 or not _ROW[labels, columns].fullmatch(content):
        return False
    return all(-(2**63) <= _integer(field) < 2**63 for field in content.split(b"\t")[1:14] if field)


def _lines(data: bytes) -> list[bytes]:
    return data.removeprefix(b"\xef\xbb\xbf").split(b"\n")


def _integer(field: bytes) -> int:
    """Remove leading zeros first: Python refuses to convert thousands of digits."""
    return int(re.sub(rb"^(-?)0+(?=[0-9])", rb"\1", field))


def rows_of(blocks: Iterable[CriteoBlock]) -> list[Row]:
    """Return the samples of blocks, and check that missing values are stored as 0."""
    rows = []
    for block in blocks:
        for n in range(len(block)):
            missing = int(block.missing[n])
            absent = [bool(missing >> bit & 1) for bit in range(64)]
            values = [*block.integers[n].tolist(), *block.tokens[n].tolist()]
            assert not any(absent[39:])
            assert all(value == 0 for value, gone in zip(values, absent, strict=False) if gone)
            fields = [None if gone else value for value, gone in zip(values, absent, strict=False)]
            rows.append(Row(int(block.labels[n]), tuple(fields[:13]), tuple(fields[13:])))
    return rows


def source_of(data: bytes, name: str = "rows.tsv") -> Source:
    """Return a source that reads `data`."""
    file = io.BytesIO(data)
    return Source(name=name, read=file.read, total=len(data), consumed=file.tell, identity=lambda: None)


def source_in(pieces: Iterable[bytes]) -> Source:
    """Return a source that returns these pieces, whatever size is requested."""
    left = iter(pieces)
    return replace(source_of(b""), read=lambda size: next(left, b""))


def random_line(rng: random.Random, columns: int = 40) -> bytes:
    """Return a good line without its line end."""
    some = [0, 1, -1, rng.randrange(-9, 10**6), 2**63 - 1, -(2**63)]
    integers = [b"" if rng.random() < 0.3 else b"%d" % rng.choice(some) for _ in range(13)]
    hexadecimal = rng.choice([b"%08x", b"%08X"])
    tokens = [b"" if rng.random() < 0.2 else hexadecimal % rng.randrange(2**32) for _ in range(26)]
    return b"\t".join([rng.choice([b"0", b"1"]), *integers, *tokens][40 - columns :])


def random_file(rng: random.Random) -> bytes:
    """Return lines, some with a damaged byte, field, or more."""
    columns = rng.choice([40, 40, 40, 39])
    odd = b'\t\r\n\x00\xff"-+ .e0019afgAFG'
    data = bytearray(b"\xef\xbb\xbf" if rng.random() < 0.1 else b"")
    for _ in range(rng.randrange(1, 12)):
        line = bytearray(random_line(rng, columns))
        for _ in range(rng.choice([0, 0, 0, 0, 1, 1, 2])):
            at = rng.randrange(len(line) + 1)
            damage = rng.randrange(4)
            if damage == 0:
                line[at:at] = bytes([rng.choice(odd)])
            elif damage == 1:
                line[at : at + rng.randrange(1, 9)] = b""
            elif damage == 2:
                line[at : at + 1] = bytes([rng.choice(odd)])
            else:
                line[at:at] = bytes([rng.choice(odd)]) * rng.choice([2, 19, 20])
        data += line + rng.choice([b"\n", b"\n", b"\n", b"\r\n"])
    return bytes(data[: len(data) - rng.choice([0, 0, 1, 2, 30])])


def random_block(
    rng: np.random.Generator, rows: int, *, distinct: int, probability: bool = False
) -> CriteoBlock:
    """Return samples whose tokens have few values, including 0, with some fields missing."""
    gone = rng.random((rows, 39)) < rng.random(39) * 0.3
    skewed = (distinct * rng.random((rows, 26)) ** 3).astype(np.uint32)
    return CriteoBlock(
        labels=rng.integers(2, size=rows, dtype=np.int8),
        integers=np.where(gone[:, :13], 0, rng.integers(-3, 10_000, size=(rows, 13))),
        tokens=np.where(gone[:, 13:], 0, skewed * np.uint32(0x9E3779B1)).astype(np.uint32),
        missing=gone @ (np.uint64(1) << np.arange(39, dtype=np.uint64)),
        probability=rng.random(rows, dtype=np.float32) if probability else None,
    )
