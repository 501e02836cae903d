"""The first bytes of a file determine its format, whatever its name."""

import gzip

import pandas as pd
import pytest

from dlrm_adahessian.data.columnar.own_file import profile_file
from dlrm_adahessian.errors import DataError, NoInputError, UsageError
from tests.data.test_published import criteo_rows

FRAME = pd.DataFrame({"click": [0, 1, 1], "site": ["a", "b", "a"]})


def columns(path):
    found = profile_file(path, rows=10)
    return found.format, found.header, [(column.name, column.type) for column in found.columns]


def test_parquet_and_text_are_told_apart(tmp_path):
    path = tmp_path / "clicks.txt"
    FRAME.to_parquet(path)
    form, header, ((click, _), (site, _)) = columns(path)
    assert (form, header, click, site) == ("parquet", (), "click", "site")
    told = [("click", "text, whole numbers"), ("site", "text")]
    FRAME.to_csv(path, index=False)
    assert columns(path) == ("csv", (), told)
    path.write_bytes(gzip.compress(FRAME.to_csv(index=False, sep="\t").encode()))
    assert columns(path) == ("tsv", (), told)


def test_columns_without_names_get_some(tmp_path):
    path = tmp_path / "clicks.csv"
    FRAME.to_csv(path, index=False, header=False)
    assert columns(path)[1] == ("column_1", "column_2")
    assert profile_file(path, rows=10).columns[0].rows == 3, "the first line is a row"


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    path = tmp_path / "clicks.csv"
    FRAME.to_csv(path, index=False, encoding="utf-8-sig")
    assert columns(path) == ("csv", (), [("click", "text, whole numbers"), ("site", "text")])
    FRAME.to_csv(path, index=False, header=False, encoding="utf-8-sig")
    assert columns(path)[1] == ("column_1", "column_2"), (
        "a byte order mark does not turn a number into a name"
    )
    (click, _) = profile_file(path, rows=10).columns
    assert (click.rows, click.type) == (3, "text, whole numbers")


def test_what_has_no_schema_is_refused(tmp_path):
    path = tmp_path / "clicks.csv"
    with pytest.raises(NoInputError, match="File not found: .*clicks.csv"):
        profile_file(path, rows=10)
    with pytest.raises(UsageError, match="Pass one file"):
        profile_file(tmp_path, rows=10)
    for text, told in (
        ("a;b\n1;2\n", "separated by commas or tabs, but its first line has neither: b'a;b'"),
        ("a,b\n", "has no rows"),
        ("a,a\n1,2\n", "has more than one column named 'a'"),
        (
            criteo_rows(2).to_csv(sep="\t", index=False, header=False),
            "Criteo's format, which needs no schema",
        ),
        ("PAR1 and no more", "is not a complete parquet file"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=told):
            profile_file(path, rows=10)
