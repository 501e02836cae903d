"""Compare the parser with the oracle for every kind of bad line, at every place, with any block size."""

import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from dlrm_adahessian.data.criteo.reader import read_rows
from dlrm_adahessian.data.rows import NO_LABEL
from dlrm_adahessian.data.text.bad_lines import BadLines, Reason
from dlrm_adahessian.errors import DataError
from tests.data.oracle import may_be_refused, parse, random_file, random_line, rows_of, source_in, source_of

BLOCKS = (64, 257, 4096, 16 << 20)
GOOD = random_line(random.Random(0))
FIELDS = GOOD.split(b"\t")


def with_field(column: int, value: bytes) -> bytes:
    return b"\t".join([*FIELDS[: column - 1], value, *FIELDS[column:]])


# For each kind the line, the 1-based column that the message names, and part of the reason.
BAD_LINES = {
    "too few columns": (b"\t".join(FIELDS[:39]), 39, "but the line ends in column 39"),
    "too many columns": (GOOD + b"\t", 41, "but the line has more"),
    "blank line": (b"", 1, "blank"),
    "label 2": (with_field(1, b"2"), 1, "must be 0 or 1, found '2'"),
    "label empty": (with_field(1, b""), 1, "must be 0 or 1"),
    "label a word": (with_field(1, b"yes"), 1, "must be 0 or 1"),
    "integer a word": (with_field(2, b"many"), 2, r"column 2 \(I1\) must be empty or a decimal integer"),
    "integer 1e400": (with_field(14, b"1e400"), 14, "decimal integer"),
    "integer 2^63": (with_field(5, b"9223372036854775808"), 5, "64-bit"),
    "integer below -2^63": (with_field(5, b"-9223372036854775809"), 5, "64-bit"),
    "integer of 20 digits": (with_field(5, b"18446744073709551617"), 5, "64-bit"),
    "integer 1.5": (with_field(3, b"1.5"), 3, "decimal integer"),
    "integer nan": (with_field(3, b"nan"), 3, "decimal integer"),
    "integer with a plus": (with_field(3, b"+1"), 3, "decimal integer"),
    "integer without digits": (with_field(3, b"-"), 3, "decimal integer"),
    "hex zzzz": (with_field(15, b"zzzz"), 15, r"column 15 \(C1\) must be empty or 8 hex"),
    "hex of 9 digits": (with_field(40, b"012345678"), 40, r"\(C26\)"),
    "hex of 7 digits": (with_field(40, b"0123456"), 40, r"\(C26\)"),
    "NUL byte": (with_field(20, b"0123456\x00"), 20, "NUL byte.*x00"),
    "not UTF-8": (with_field(21, b"\xff\xfe345678"), 21, "outside ASCII"),
    "unbalanced quote": (with_field(22, b'"1234567'), 22, "a quote"),
    "lone CR": (with_field(14, b"1\r"), 14, "carriage return"),
    "10 MB field": (with_field(2, b"7" * 10_000_000), 1, "longer than 65536 bytes"),
    "byte order mark inside": (with_field(3, b"\xef\xbb\xbf1"), 3, "byte order mark"),
    "only a lone CR": (b"\r\r", 1, "but the line ends in column 1"),
}
PLACES = ("first", "middle", "block boundary", "last")


def file_with(bad: bytes, place: str) -> tuple[bytes, int, int]:
    """Return a file of 5 lines, the number of its bad line, and a block size that may cut that line."""
    at = {"first": 0, "middle": 2, "block boundary": 2, "last": 4}[place]
    lines = [GOOD] * 5
    lines[at] = bad
    data = b"\n".join(lines) + (b"" if place == "last" and bad else b"\n")
    start = sum(len(line) + 1 for line in lines[:at])
    return data, at + 1, start + len(bad) // 2 - 3 if place == "block boundary" else 1 << 20


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", BAD_LINES)
def test_strict_names_line_column_and_reason(kind: str, place: str) -> None:
    bad, column, reason = BAD_LINES[kind]
    data, line, block_bytes = file_with(bad, place)
    message = rf"^rows\.tsv:{line}:{column}: .*{reason}.*--bad-rows quarantine"
    with pytest.raises(DataError, match=message) as caught:
        list(read_rows(source_of(data), BadLines(), block_bytes=block_bytes))
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", BAD_LINES)
def test_quarantine_keeps_the_bytes(kind: str, place: str, aside: BadLines, tmp_path: Path) -> None:
    data, _, block_bytes = file_with(BAD_LINES[kind][0], place)
    rows, bad = parse(data)
    assert rows_of(read_rows(source_of(data), aside, block_bytes=block_bytes)) == rows
    aside.close()
    assert len(rows) == 4
    assert aside.count == 1
    assert (tmp_path / "rejects.tsv").read_bytes() == b"".join(bad)


def check_random_file(seed: int, folder: Path) -> None:
    """Compare samples and rejected lines of a random file with those of the oracle."""
    rng = random.Random(seed)
    data = random_file(rng)
    labels, block_bytes = rng.choice(["required", "optional"]), rng.choice(BLOCKS)
    rejects = folder / f"rejects-{seed}.tsv"  # overwriting one file is slow
    aside = BadLines(rejects)
    must, may = may_be_refused(data, labels)
    try:
        rows = rows_of(read_rows(source_of(data), aside, labels=labels, block_bytes=block_bytes))
    except DataError:
        assert may, f"seed {seed}"
        return
    finally:
        aside.close()
    assert not must, f"seed {seed}"
    expected, bad = parse(data, labels)
    assert rows == expected, f"seed {seed}"
    assert rejects.read_bytes() == b"".join(bad), f"seed {seed}"
    rejects.unlink()
    assert aside.count == len(bad)


def check_random_files(files: int, folder: Path) -> None:
    for seed in range(files):
        check_random_file(seed, folder)


def test_random_files_match_the_oracle(tmp_path: Path) -> None:
    check_random_files(500, tmp_path)


@pytest.mark.campaign
def test_thousands_more_random_files_match_the_oracle(tmp_path: Path) -> None:
    for seed in range(500, 10_000):
        check_random_file(seed, tmp_path)


@pytest.mark.slow
def test_no_index_leaves_its_array(tmp_path: Path) -> None:
    program = f"from tests.data.criteo.test_reader import *; check_random_files(100, Path({str(tmp_path)!r}))"
    checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    subprocess.run([sys.executable, "-c", program], env=os.environ | checked, check=True)


def test_line_ends_and_byte_order_mark_change_nothing() -> None:
    lines = [random_line(random.Random(seed)) for seed in range(9)]
    expected = parse(b"\n".join(lines))[0]
    assert len(expected) == 9
    for mark in (b"", b"\xef\xbb\xbf"):
        for end in (b"\n", b"\r\n"):
            for last in (b"", end):
                data = mark + end.join(lines) + last
                for block_bytes in (1, 2, 3, 64, 1 << 20):
                    read = read_rows(source_of(data), BadLines(), block_bytes=block_bytes)
                    assert rows_of(read) == expected


@pytest.mark.parametrize("block_bytes", BLOCKS)
@pytest.mark.parametrize(("extra", "kept"), [(0, 2), (1, 1)])
def test_longest_line_is_kept_and_a_longer_one_is_not(
    extra: int, kept: int, block_bytes: int, aside: BadLines
) -> None:
    line = with_field(2, b"0" * (65536 - len(with_field(2, b"")) + extra))
    data = line + b"\n" + GOOD
    assert len(parse(data)[0]) == kept
    assert rows_of(read_rows(source_of(data), aside, block_bytes=block_bytes)) == parse(data)[0]
    assert aside.count == 2 - kept


def test_endless_line_takes_no_memory(aside: BadLines) -> None:
    text = bytes(1 << 20)
    list(read_rows(source_of(b"\n"), aside))  # compiles
    source = source_in([GOOD + b"\n", *[text] * 64, b"\n" + GOOD])
    tracemalloc.start()
    rows = rows_of(read_rows(source, aside))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(rows), aside.count) == (2, 1 + 1)
    assert peak < 8 << 20


def test_bad_lines_only_take_little_memory(aside: BadLines) -> None:
    list(read_rows(source_of(b"\n"), aside))  # compiles
    tracemalloc.start()
    assert not list(read_rows(source_of(b"\n" * 50_000), aside))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert aside.count == 50_001
    assert peak < 2 << 20


class Places(BadLines):
    """Records the locations of bad lines."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def reject(self, raw: bytes, explain: Callable[[], Reason]) -> None:
        self.found.append(":".join(explain().told.split(":")[:3]))


@pytest.mark.parametrize("block_bytes", BLOCKS)
def test_each_bad_line_has_its_own_place(block_bytes: int) -> None:
    lines = [GOOD, b"", GOOD, b"x" * 70_000, b"", GOOD, with_field(1, b"2"), GOOD, with_field(9, b"x")]
    places = Places()
    list(read_rows(source_of(b"\n".join(lines)), places, block_bytes=block_bytes))
    assert places.found == [f"rows.tsv:{place}" for place in ("2:1", "4:1", "5:1", "7:1", "9:9")]


def test_lines_are_counted_across_blocks() -> None:
    data = b"\n".join([GOOD] * 1000 + [b"x"])
    with pytest.raises(DataError, match=r"^rows\.tsv:1001:1: "):
        list(read_rows(source_of(data), BadLines(), block_bytes=999))


def test_file_without_label_column() -> None:
    lines = [random_line(random.Random(seed), 39) for seed in range(5)]
    rows = rows_of(read_rows(source_of(b"\n".join(lines)), BadLines(), labels="optional", block_bytes=64))
    assert rows == parse(b"\n".join(lines), "optional")[0]
    assert [row.label for row in rows] == [NO_LABEL] * 5
    with pytest.raises(
        DataError, match=r"rows\.tsv:6:40: expected 39 tab-separated columns, but the line has more"
    ):
        list(read_rows(source_of(b"\n".join([*lines, GOOD])), BadLines(), labels="optional"))
    spoilt = b"\t".join([b"x", *lines[0].split(b"\t")[1:]])
    with pytest.raises(DataError, match=r"rows\.tsv:6:1: column 1 \(I1\)"):
        list(read_rows(source_of(b"\n".join([*lines, spoilt])), BadLines(), labels="optional"))


def test_empty_label_is_one_row_without() -> None:
    data = b"\n".join([GOOD, with_field(1, b""), GOOD])
    rows = rows_of(read_rows(source_of(data), BadLines(), labels="optional"))
    assert [row.label for row in rows] == [int(FIELDS[0]), NO_LABEL, int(FIELDS[0])]


@pytest.mark.parametrize("limit", [0, 1, 7, 8, 9, 10, 11])
def test_limit_counts_good_rows_and_reads_no_further(limit: int, aside: BadLines) -> None:
    lines = [random_line(random.Random(seed)) for seed in range(10)]
    rows = rows_of(read_rows(source_of(b"\n".join([b"bad", *lines, b"bad"])), aside, limit=limit))
    assert rows == parse(b"\n".join(lines))[0][:limit]
    assert aside.count == (0 if limit == 0 else 1 if limit <= 10 else 2)
