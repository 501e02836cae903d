"""Compare parquet and text with a slow reader: types, bad rows, time order, limits, damage."""

import json
import tracemalloc
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlrm_adahessian.data.columnar import reader
from dlrm_adahessian.data.rows import NO_LABEL
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.data.text.bad_lines import BadLines
from dlrm_adahessian.errors import DataError, UsageError
from tests.data.columnar.slow import (
    Explained,
    blocks_of,
    fnv,
    numbers_of,
    plain_rows,
    read,
    small,
    write_parquet,
    write_text,
)

COLUMNS: dict[str, list[Any]] = {"y": [0, 1, 1], "x": [1, 2, 3], "t": ["a", "b", None]}
TIMED = {"time": {"column": "k"}}


def parquet(folder: Path, types: dict[str, Any] | None = None, **columns: list[Any]) -> Path:
    return write_parquet(folder / "x.parquet", COLUMNS | columns, types)


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.int32(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(),
     pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.int64())],
    ids=str,
)  # fmt: skip
def test_a_number_is_the_same_of_every_type(kind: pa.DataType, tmp_path: Path) -> None:
    values = [7, 0, None, 11]
    encoded = pa.types.is_dictionary(kind)

    def typed(numbers: list[int | None]) -> pa.Array:
        plain = pa.array(numbers, pa.int64()).cast(kind.value_type if encoded else kind)
        return plain.dictionary_encode() if encoded else plain

    columns = {"y": typed([0, 1, 0, 1]), "x": typed(values), "t": typed(values)}
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns), path)
    (block,) = read(path, small("parquet"))
    assert block.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(block.values[:, 0], [7, 0, np.nan, 11])
    assert block.tokens[:, 0].tolist() == [fnv("7"), fnv("0"), 0, fnv("11")]
    assert block.missing[:, 0].tolist() == [0, 0, 0b11, 0], "the bits of the number and of the token"


def test_row_groups_without_rows_and_files_without_rows(tmp_path: Path) -> None:
    rows = 150
    columns = {"y": [0] * rows, "x": list(range(rows)), "t": ["a"] * rows}
    write_parquet(tmp_path / "part-10.parquet", columns)
    empty = pa.table(
        {name: pa.array(values, pa.int64()) for name, values in (("y", []), ("x", []), ("t", []))}
    )
    pq.write_table(empty, tmp_path / "part-9.parquet")
    write_parquet(tmp_path / "part-2.parquet", columns | {"x": list(range(-rows, 0))})
    (tmp_path / "_SUCCESS").touch()
    assert numbers_of(read(tmp_path, small("parquet"))) == list(range(-rows, rows))


def test_an_empty_file_of_parquet_is_to_be_written_again(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").touch()
    with pytest.raises(DataError, match=r"x.parquet is not a complete parquet file: .*\. Write it again"):
        read(tmp_path / "x.parquet", small("parquet"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"t": [1.5, 2.0, None]}, "column 't' must contain text or integers: Float value 1.5"),
        ({"t": [["a"], None, []]}, "column 't' must contain text or integers, but has type list<"),
        ({"t": [{"a": 1}] * 3}, "column 't' must contain text or integers, but has type struct<"),
        ({"x": [datetime(2024, 1, 1)] * 3}, "column 'x' must contain numbers, but has type timestamp"),
        ({"y": [b"0"] * 3}, "column 'y' must contain numbers, but has type binary"),
    ],
)
def test_columns_of_a_wrong_type_are_refused_whatever_becomes_of_bad_rows(
    columns: dict[str, list[Any]], message: str, tmp_path: Path
) -> None:
    for rejects in (None, tmp_path / "rejects"):
        with pytest.raises(DataError, match=rf"^x\.parquet: {message}.*\. Change the schema or the file\.$"):
            read(parquet(tmp_path, **columns), small("parquet"), rejects=rejects)


def test_absent_and_repeated_columns_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path)
    with pytest.raises(
        DataError, match=r"^x\.parquet has no column 'xs', which the schema reads\. Did you mean 'x'\?"
    ):
        read(path, small("parquet", dense=[{"column": "xs"}]))
    pq.write_table(pa.table([pa.array([1])] * 4, names=["y", "x", "t", "t"]), path)
    with pytest.raises(DataError, match=r"^x\.parquet has 2 columns named 't'"):
        read(path, small("parquet"))


@pytest.mark.parametrize("cut", [slice(0, 0), slice(0, 40), slice(0, -9)], ids=str)
def test_a_cut_parquet_file_is_refused(cut: slice, tmp_path: Path) -> None:
    path = parquet(tmp_path)
    path.write_bytes(path.read_bytes()[cut])
    with pytest.raises(
        DataError, match=r"^x\.parquet is not a complete parquet file: .*\. Write it again\.$"
    ):
        read(path, small("parquet"))


def test_damaged_pages_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {"y": [0] * 4000, "x": rng.random(4000).tolist(), "t": list(range(4000))}
    path = write_parquet(tmp_path / "x.parquet", columns)
    data = bytearray(path.read_bytes())
    data[1000:20_000] = bytes(19_000)
    path.write_bytes(data)
    with pytest.raises(
        DataError, match=r"(?s)^x\.parquet is not a complete parquet file: .*\. Write it again\.$"
    ):
        read(path, small("parquet"))


BAD: dict[str, list[Any]] = {
    "y": [0, 2, 1, 0, None, 1], "x": [1.0, 2.0, float("inf"), 4.0, 5.0, 6.0], "w": [1.0, 1.0, -1.0, None, 1.0, 0.0],
    "t": ["a"] * 6, "unread": list(range(6)),
}  # fmt: skip
WEIGHTED = {"weight": {"column": "w"}}


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_bad_rows_name_their_file_row_column_and_value(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    (write_parquet if suffix == "parquet" else write_text)(path, BAD)
    schema, bad_rows = small(suffix, **WEIGHTED), Explained()
    assert numbers_of(list(blocks_of(path, schema, bad_rows))) == [1, 6]
    texts = ["2", "inf", "", ""] if suffix == "csv" else [2, float("inf"), None, None]
    assert bad_rows.reasons == [
        f"x.{suffix}, row 2: column 'y' must be 0 or 1, found {texts[0]!r}",
        f"x.{suffix}, row 3: column 'x' must be empty or a finite float32 number, found {texts[1]!r}",
        f"x.{suffix}, row 4: column 'w' must be a finite float32 number of at least 0, found {texts[2]!r}",
        f"x.{suffix}, row 5: column 'y' must be 0 or 1, found {texts[3]!r}",
    ]
    with pytest.raises(DataError) as refused:
        read(path, schema)
    assert str(refused.value).startswith(
        f"{bad_rows.reasons[0]}. Fix the line, or move bad lines to a separate file"
    )


@pytest.mark.parametrize("limit", [None, 1, 2])
def test_rows_put_aside_are_whole_and_lie_before_the_limit(limit: int | None, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", {name: BAD[name] for name in ("y", "x", "w", "t")})
    rejects = tmp_path / "rejects"
    blocks = read(path, small("parquet", **WEIGHTED), rejects=rejects, limit=limit)
    assert numbers_of(blocks) == [1, 6][:limit]
    found = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert found == ([] if limit == 1 else plain_rows(path)[1:5])


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_labels_that_are_optional(suffix: str, tmp_path: Path) -> None:
    def labels_of(path: Path) -> list[int]:
        blocks = read(path, small(suffix), labels="optional")
        return np.concatenate([block.labels for block in blocks]).tolist()

    write = write_parquet if suffix == "parquet" else write_text
    path = write(tmp_path / f"x.{suffix}", COLUMNS | {"y": [None, 1, 0]})
    assert labels_of(path) == [NO_LABEL, 1, 0]
    path = write(tmp_path / f"x.{suffix}", {name: COLUMNS[name] for name in ("x", "t")})
    assert labels_of(path) == [NO_LABEL] * 3
    with pytest.raises(DataError, match="has no column 'y'"):
        read(path, small(suffix))


@pytest.mark.parametrize("columns", [63, 64, 65, 130])
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_bits_of_any_number_of_columns(suffix: str, columns: int, tmp_path: Path) -> None:
    absent = np.random.default_rng(columns).random((40, columns)) < 0.3
    values = {f"x{n}": [None if gone else 1 for gone in absent[:, n]] for n in range(columns)}
    write = write_parquet if suffix == "parquet" else write_text
    path = write(tmp_path / f"x.{suffix}", {"y": [0] * 40, **values})
    names = [{"column": name} for name in values]
    blocks = read(path, small(suffix, dense=names[:30], tokens=names[30:]))
    words = np.concatenate([block.missing for block in blocks])
    assert words.shape == (40, -(-columns // 64))
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, :columns]
    assert (bits == absent).all()


DAYS = [datetime(2024, 1, 1) + timedelta(days=n) for n in range(6)]


def timed(split: dict[str, Any] | None = None, form: str = "csv") -> Schema:
    return small(form, **TIMED, **({"split": {"by": "time", **split}} if split else {}))


@pytest.mark.parametrize("second", [False, True])
def test_rows_out_of_the_order_of_time_are_refused(second: bool, tmp_path: Path) -> None:
    """Time order is required within a file and across files. Equal times are allowed."""
    first = [1, 5, 5] if second else [1, 5, 4]
    write_text(tmp_path / "day1.csv", COLUMNS | {"k": first})
    write_text(tmp_path / "day2.csv", COLUMNS | {"k": [4, 5, 6]})
    place = "day2.csv, row 1" if second else "day1.csv, row 3"
    with pytest.raises(DataError, match=rf"^{place}: rows must be in time order, .* Sort the rows"):
        read(tmp_path, timed())


def test_bad_rows_are_out_of_the_order_of_time(tmp_path: Path) -> None:
    columns = {"y": [0, "?", 1, 0], "x": [1, 2, 3, 4], "t": ["a"] * 4, "k": [1, 99, 2, "?"]}
    path = write_text(tmp_path / "x.csv", columns)
    assert numbers_of(read(path, timed(), rejects=tmp_path / "rejects")) == [1, 3]
    with pytest.raises(
        DataError, match=r"^x\.csv, row 4: column 'k' must be a number or an ISO 8601 time, found '\?'"
    ):
        read(write_text(path, columns | {"y": [0, 0, 0, 0], "k": [1, 2, 3, "?"]}), timed())


def test_times_of_two_kinds_are_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "day1.csv", COLUMNS | {"k": [1, 2, 3]})
    write_text(tmp_path / "day2.csv", COLUMNS | {"k": ["2024-01-01"] * 3})
    with pytest.raises(
        DataError,
        match=r"^day2\.csv, row 1: the type of the times changes\. Use numbers in all rows and in \[split\], or ISO",
    ):
        read(tmp_path, timed())
    with pytest.raises(DataError, match=r"^day1\.csv, row 1: the type of the times changes"):
        read(tmp_path, timed({"test_from": "2024-01-01", "validation_from": "2024-02-01"}))


@pytest.mark.parametrize(
    ("first", "second"),
    [(5, "2024-01-01"), ("2024-01-02", "2024-01-01"), (5, 5), ("soon", "later"), (7, 6.5)],
)
def test_a_split_at_times_that_do_not_rise_is_refused(first: Any, second: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"split\.test_from must come before split\.validation_from"):
        read(tmp_path / "x.csv", timed({"test_from": first, "validation_from": second}))


@pytest.mark.parametrize(
    ("kind", "test_from", "validation_from"),
    [
        (pa.timestamp("s"), DAYS[2], "2024-01-05"),
        (pa.timestamp("ns", "Asia/Tokyo"), "2024-01-03T09:00+09:00", "2024-01-05T00:00Z"),
        (pa.date32(), DAYS[2].date(), DAYS[4].date()),
        (pa.string(), "2024-01-03", "2024-01-05 00:00:00"),
        (pa.int64(), int(DAYS[2].timestamp() * 1e6), DAYS[4].timestamp() * 1e6),
    ],
    ids=str,
)
def test_parts_begin_at_the_times_of_the_split(
    kind: pa.DataType, test_from: Any, validation_from: Any, tmp_path: Path
) -> None:
    times: Any = pa.array(DAYS, pa.timestamp("us"))
    times = pa.array([str(day) for day in DAYS]) if kind == pa.string() else times.cast(kind)
    if kind == pa.int64():
        times = pa.array([int(day.timestamp() * 1e6) for day in DAYS])
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"y": [0] * 6, "x": range(6), "t": ["a"] * 6, "k": times}), path)
    schema = timed({"test_from": test_from, "validation_from": validation_from}, "parquet")
    (block,) = read(path, schema)
    assert block.part is not None
    assert block.part.tolist() == [0, 0, 1, 1, 2, 2]


def test_memory_is_that_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """300,000 rows of 12 numbers take 29 MB as float64; only a few are in memory at a time."""
    monkeypatch.setattr(reader, "_ROWS", 1 << 13)
    path = tmp_path / "x.parquet"
    values = {f"x{n}": np.arange(300_000.0) for n in range(12)}
    pq.write_table(pa.table({"y": np.zeros(300_000, int), **values}), path, row_group_size=50_000)
    schema = small("parquet", dense=[{"column": name} for name in values], tokens=[])
    before, rows = pa.total_allocated_bytes(), 0
    tracemalloc.start()
    for block in blocks_of(path, schema, BadLines()):
        assert block.values[0, 0] == rows
        rows += len(block)
        assert pa.total_allocated_bytes() - before < 16 << 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 300_000
    assert peak < 12 << 20
