"""The file of bad lines: lines stay whole and separate, and input that is not text is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dlrm_adahessian.data.criteo.faults import find_fault
from dlrm_adahessian.data.criteo.reader import read_rows
from dlrm_adahessian.data.text.bad_lines import BadLines, Reason
from dlrm_adahessian.errors import DataError, StorageError
from tests.data.oracle import source_in, source_of


@pytest.fixture
def aside(tmp_path: Path) -> Iterator[BadLines]:
    """Return bad lines that are written to a file."""
    lines = BadLines(tmp_path / "rejects.tsv")
    yield lines
    lines.close()


def test_line_longer_than_any_text_is_refused_in_quarantine_too(aside: BadLines) -> None:
    with pytest.raises(DataError, match="A line is longer"):
        list(read_rows(source_in([bytes(1 << 24)] * 17), aside))


def test_rejects_of_two_files_stay_apart(aside: BadLines, tmp_path: Path) -> None:
    for data in (b"cut short", b"bad\n", b"again"):
        list(read_rows(source_of(data), aside))
    aside.close()
    assert (tmp_path / "rejects.tsv").read_bytes() == b"cut short\nbad\nagain"
    assert aside.count == 3


def test_a_bad_line_is_refused_with_its_reason_where_none_are_put_aside() -> None:
    fault = find_fault(b"\n", labelled=True, empty_label=False)
    with pytest.raises(
        DataError,
        match=r"^1: the line is blank, found ''\. Fix the line, or move bad lines to a separate file",
    ):
        BadLines().reject(b"\n", lambda: Reason(fault.rule, f"{fault.column}: {fault}"))


def test_the_most_frequent_reason_is_of_the_first_thousand_lines(aside: BadLines) -> None:
    assert aside.most_frequent is None
    for number in range(3000):
        rule = "rare" if number < 400 or number >= 1000 else "frequent"
        aside.reject(b"x\n", lambda rule=rule, number=number: Reason(rule, f"{number}: {rule}"))
    assert (aside.count, aside.first, aside.most_frequent) == (3000, "0: rare", "frequent")


def test_a_file_that_cannot_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent"):
        BadLines(tmp_path / "absent" / "rejects.tsv")
