"""The first lines of a text show its layout: with a label, without one, or with trailing tabs removed."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dlrm_adahessian.data.criteo.layout import find_layout
from dlrm_adahessian.data.criteo.reader import read_rows
from dlrm_adahessian.data.rows import NO_LABEL
from dlrm_adahessian.data.text.bad_lines import BadLines
from dlrm_adahessian.errors import DataError
from tests.data.oracle import parse, random_line, rows_of, source_in, source_of

INTEGERS = [b"%d" % n for n in range(13)]
TOKENS = [b"%08x" % (0xA0000000 + n) for n in range(26)]
TRIMMED = b"\t".join([b"1", *INTEGERS, *TOKENS[:25]])  # the tab before an empty C26 is gone
WHOLE = TRIMMED + b"\t"
BARE = b"\t".join([*INTEGERS, *TOKENS])  # I1 is 0, which could be a label


def test_a_line_that_lost_a_tab_has_a_label_all_the_same() -> None:
    assert find_layout([TRIMMED] * 5, "rows", "optional")
    assert not find_layout([BARE] * 5, "rows", "optional")
    data = b"\n".join([TRIMMED, WHOLE, WHOLE])
    with pytest.raises(
        DataError, match=r"^rows\.tsv:1:39: expected 40 .* \(were trailing tabs removed\?\), found"
    ):
        list(read_rows(source_of(data), BadLines(), labels="optional"))


def test_a_trimmed_line_that_looks_bare_does_not_decide_for_others(aside: BadLines) -> None:
    looks_bare = TRIMMED.replace(b"\t12\t", b"\t\t")  # without I13
    rows = rows_of(read_rows(source_of(b"\n".join([looks_bare, WHOLE, WHOLE])), aside, labels="optional"))
    assert [row.label for row in rows] == [1, 1]
    assert aside.count == 1


@pytest.mark.parametrize("value", [b"", b"12345678"])
def test_what_fits_both_is_refused_unless_another_line_tells(value: bytes) -> None:
    either = b"\t".join([b"1", *INTEGERS[:12], value, *TOKENS[1:]])
    for label in (b"1", b"0"):
        line = label + either[1:]
        assert len(line.split(b"\t")) == 39
        with pytest.raises(
            DataError, match=r"^rows has 39 columns.* a line without a label begins with a tab\.$"
        ):
            find_layout([line] * 100, "rows", "optional")
        assert not find_layout([line, BARE], "rows", "optional")
        assert find_layout([line, WHOLE], "rows", "optional")
    other = b"2" + either[1:]  # 2 is not a label
    assert not find_layout([other], "rows", "optional")


def test_the_majority_of_the_first_lines_decides() -> None:
    assert find_layout([BARE, WHOLE, b"bad", WHOLE], "rows", "optional")
    assert not find_layout([WHOLE, BARE, b"bad", BARE], "rows", "optional")
    assert not find_layout([BARE + b"\r"], "rows", "optional")


def test_rows_without_a_label_are_not_trained_on() -> None:
    told = r"^rows has 39 columns and no label\. Unlabeled samples .* not used for training\. Pass data with"
    with pytest.raises(DataError, match=told):
        find_layout([BARE] * 3, "rows", "required")
    assert find_layout([BARE, WHOLE], "rows", "required")
    assert find_layout([b"bad"], "rows", "required")


@pytest.mark.parametrize("block_bytes", [1, 64, 1 << 20])
def test_blocks_change_nothing(block_bytes: int) -> None:
    lines = [random_line(random.Random(seed), 39) for seed in range(400)]
    data = b"\n".join(lines)
    rows = rows_of(read_rows(source_of(data), BadLines(), labels="optional", block_bytes=block_bytes))
    assert rows == parse(data, "optional")[0]
    assert [row.label for row in rows] == [NO_LABEL] * 400


def test_a_line_that_somebody_waits_for_is_not_kept_waiting() -> None:
    taken = []

    def pieces() -> Iterator[bytes]:
        for line in (WHOLE, WHOLE, WHOLE):
            taken.append(line)
            yield line + b"\n"

    rows = read_rows(replace(source_in(pieces()), live=True), BadLines(), labels="optional")
    assert (len(next(rows)), len(taken)) == (1, 1)
    assert (len(next(rows)), len(taken)) == (1, 2)
