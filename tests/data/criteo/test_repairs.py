"""Data written by other programs: each message names a shell filter, and the tests run it to check that it works."""

import random
import re
import subprocess

import pandas as pd
import pytest

from dlrm_adahessian.data.criteo.columns import COLUMN_NAMES
from dlrm_adahessian.data.criteo.reader import read_rows
from dlrm_adahessian.data.text.bad_lines import BadLines
from dlrm_adahessian.errors import DataError
from tests.data.oracle import parse, random_line, rows_of, source_of

LINES = [random_line(random.Random(seed)) for seed in range(150)]
TEXT = b"\n".join(LINES) + b"\n"
SCHEMA = r"escribe its columns with --schema FILE\.toml; see docs/own-data\.md\.$"


def frame(labels: bool = True) -> pd.DataFrame:
    rows = [line.decode().split("\t") for line in LINES]
    return pd.DataFrame(rows, columns=COLUMN_NAMES).iloc[:, 0 if labels else 1 :]


def written(**options: object) -> bytes:
    return frame().to_csv(**{"index": False} | options).encode()


def with_fractions() -> bytes:
    data = frame()
    for name in COLUMN_NAMES[1:14]:
        data[name] = [f"{field}.0" if field else field for field in data[name]]
    return data.to_csv(sep="\t", index=False, header=False).encode()


HEADER = "\t".join(COLUMN_NAMES)
TABLES = {
    "commas": (written(header=False), r"has columns separated by commas\. "),
    "commas and a header": (written(), r"has a header and columns separated by commas\. "),
    "commas and CRLF": (written(lineterminator="\r\n"), r"has a header and columns separated by commas\. "),
    "semicolons": (written(sep=";", header=False), r"has columns separated by semicolons\. "),
    "index": (
        written(index=True),
        r"has a header, columns separated by commas and an extra first column\. ",
    ),
    "index, no header": (
        written(index=True, header=False, sep="\t"),
        r"has an extra first column\. ",
    ),
    "quotes": (written(quoting=1), r"has a header, columns separated by commas and quotes\. "),
    "fractions": (with_fractions(), r"has integers that end in \.0\. "),
}


@pytest.mark.parametrize("mode", ["strict", "quarantine"])
@pytest.mark.parametrize("kind", TABLES)
def test_the_filter_that_a_message_names_makes_rows(kind: str, mode: str, aside: BadLines) -> None:
    data, told = TABLES[kind]
    with pytest.raises(DataError, match=rf"^rows\.tsv {told}Pipe it through .*{SCHEMA}") as caught:
        list(read_rows(source_of(data), BadLines() if mode == "strict" else aside))
    assert aside.count == 0
    command = re.search("Pipe it through (.*) into --data-path -", str(caught.value))
    assert command
    made = subprocess.run(["sh", "-c", command[1]], input=data, check=True, stdout=subprocess.PIPE).stdout
    assert rows_of(read_rows(source_of(made), BadLines())) == parse(TEXT)[0]


def test_rows_without_a_label_are_recognized_where_none_is_needed() -> None:
    data = frame(labels=False).to_csv(index=False, header=False).encode()
    with pytest.raises(DataError, match=r"separated by commas\. Pipe it through"):
        list(read_rows(source_of(data), BadLines(), labels="optional"))
    with pytest.raises(
        DataError, match=rf"separated by commas, and its columns are not Criteo's\. D{SCHEMA}"
    ):
        list(read_rows(source_of(data), BadLines()))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_a_table_of_other_columns_needs_a_schema(separator: str, end: str) -> None:
    rows = [
        ["id", "click", "hour", "site_id"],
        *([f"1000{n}", "0", "14102100", "85f751fd"] for n in range(5)),
    ]
    data = end.join(map(separator.join, rows)).encode()
    with pytest.raises(DataError, match=rf"has a header.*, and its columns are not Criteo's\. D{SCHEMA}"):
        list(read_rows(source_of(data), BadLines()))


def test_a_header_over_good_rows_is_one_bad_line(aside: BadLines) -> None:
    data = f"{HEADER}\n".encode() + TEXT
    with pytest.raises(DataError, match=r"^rows\.tsv:1:1: the line is a header, not a sample, found 'label"):
        list(read_rows(source_of(data), BadLines()))
    assert rows_of(read_rows(source_of(data), aside)) == parse(TEXT)[0]
    assert aside.count == 1


def test_bad_lines_that_nothing_explains_are_bad_lines(aside: BadLines) -> None:
    for data in (b"bad\n", b"", b"\n" * 500, b"bad, worse and worst\n", b"\x00\xff,\n" * 5, b"label\n"):
        before = aside.count
        assert not list(read_rows(source_of(data), aside))
        assert aside.count - before == data.count(b"\n")
