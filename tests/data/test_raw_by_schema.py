"""Prepared data of any schema: equal for all formats and for a slow reader; parts by files; limits."""

import gzip
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dlrm_adahessian.data import raw
from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.data.raw import prepare_raw
from dlrm_adahessian.data.schema import Schema, from_dict
from dlrm_adahessian.data.text import digests, sources
from dlrm_adahessian.errors import DataError
from tests.data.bags import lists_of
from tests.data.columnar.slow import (
    bag_of,
    dense_of,
    ids_of,
    plain_rows,
    random_table,
    small,
    token_of,
    write_parquet,
    write_text,
)


def prepare_as(schema: Schema, path: Path, cache: Path, **options: object) -> PreparedData:
    chosen = {"rows": None, "bad_rows": "strict"} | options
    return prepare_raw("own", schema, str(path), DataConfig(cache_dir=cache, min_count=2), **chosen)


@pytest.mark.parametrize("seed", range(12))
def test_random_tables_are_those_of_a_slow_reader_in_every_format(seed: int, tmp_path: Path) -> None:
    columns, described = random_table(seed)
    packed = write_text(tmp_path / "plain.csv", columns)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(packed.read_bytes()))
    kinds = {name: pa.dictionary(pa.int32(), pa.string()) for name in columns if name == f"t{seed % 4}"}
    texts = any(isinstance(value, str) for value in columns.get(f"t{seed % 4}", []))
    paths = {
        "csv": tmp_path / "x.csv.gz",
        "tsv": write_text(tmp_path / "x.tsv", columns),
        "parquet": write_parquet(tmp_path / "x.parquet", columns, kinds if texts else {}),
    }
    found = {
        form: prepare_as(from_dict(described | {"format": form}), path, tmp_path / "cache")
        for form, path in paths.items()
    }
    for name in sorted(
        path.name for path in found["csv"].folder.iterdir() if path.suffix in (".npy", ".arrow")
    ):
        arrays = [(data.folder / name).read_bytes() for data in found.values()]
        assert arrays[0] == arrays[1] == arrays[2], name

    data, schema = found["parquet"], found["parquet"].preprocessing.schema
    rows = plain_rows(paths["parquet"])
    times = [row["time"] for row in rows]
    train = sum(time < 60 for time in times)
    assert data.split.asdict() == {
        "train": [0, train],
        "test": [train, sum(time < 75 for time in times)],
        "val": [sum(time < 75 for time in times), len(rows)],
    }
    assert data.labels.tolist() == [row["y"] for row in rows]
    assert data.weights is not None
    assert data.weights.tolist() == [row["w"] for row in rows]
    np.testing.assert_allclose(data.features.dense, dense_of(rows, schema, train), rtol=2**-23, atol=2**-40)
    heights = []
    for place, column in enumerate(schema.tokens):
        tokens = [[token_of(row[column.column], column)] for row in rows]
        *ids, (height,) = ids_of(tokens, train, column, 2)
        assert data.features.ids[:, [place]].tolist() == ids
        heights.append(height)
    for bags, column in zip(data.features.bags, schema.bags, strict=True):
        *ids, (height,) = ids_of([bag_of(row[column.column], column) for row in rows], train, column, 2)
        assert lists_of(bags) == ids
        heights.append(height)
    assert data.preprocessing.num_rows == tuple(heights)
    assert data.manifest["missing"] == {
        column.feature: sum(row[column.column] is None for row in rows)
        if column in schema.dense
        else sum(token_of(row[column.column], column) < 0 for row in rows)
        for column in (*schema.dense, *schema.tokens)
    }


FILES = {f"day{n}.csv": [100 * n + row for row in range(20)] for n in (1, 2, 3, 10)}


def in_files(folder: Path) -> Path:
    folder.mkdir()
    for name, values in FILES.items():
        write_text(folder / name, {"y": [value % 2 for value in values], "x": values, "t": values})
    return folder


@pytest.mark.parametrize(
    ("rule", "order", "ends"),
    [
        ({"test_files": ["day10.csv"]}, [1, 2, 3, 10], (60, 70)),
        ({"test_files": ["day2*"]}, [1, 3, 10, 2], (60, 70)),
        ({"test_files": ["day3.csv"], "validation_files": ["day1?.csv"]}, [1, 2, 3, 10], (40, 60)),
        ({"test_files": ["day?.csv"], "validation_files": ["day2.csv"]}, [10, 1, 2, 3], None),
        ({"test_files": ["day[12].csv"], "validation_files": ["day3.csv"]}, [10, 1, 2, 3], (20, 60)),
        ({"train_files": ["day[12].csv"], "test_files": ["day3.csv"]}, [1, 2, 3], (40, 50)),
        ({"train_files": ["day2.csv", "day1.csv"], "test_files": ["day1.csv"]}, [2, 1], (20, 30)),
    ],
)
def test_files_say_their_parts(
    rule: dict[str, list[str]], order: list[int], ends: tuple[int, int] | None, tmp_path: Path
) -> None:
    """Files of a part keep their natural order. A file that matches both patterns is a test file."""
    schema = small(split={"by": "files", **rule})
    raw = in_files(tmp_path / "raw")
    if ends is None:
        with pytest.raises(DataError, match=r"none is left for val\. Change"):
            prepare_as(schema, raw, tmp_path / "cache")
        return
    data = prepare_as(schema, raw, tmp_path / "cache")
    assert data.features.dense[:, 0].tolist() == [value for day in order for value in FILES[f"day{day}.csv"]]
    assert (data.split.test.start, data.split.val.start, data.split.rows) == (*ends, 20 * len(order))


def test_files_in_no_part_do_not_count(tmp_path: Path) -> None:
    """Files in no part affect neither the identity of the data nor errors about damage."""
    raw, cfg = in_files(tmp_path / "raw"), DataConfig(train_files=("day1.csv",), test_files=("day2.csv",))
    cfg = replace(cfg, cache_dir=tmp_path / "cache")
    schema = tmp_path / "small.toml"
    schema.write_text('label.column = "y"\ndense = [{column = "x", transform = "none"}]\n')
    first = open_dataset("criteo", str(raw), cfg, rows=None, bad_rows="strict", schema=schema)
    (raw / "day3.csv").write_text("no rows\n")
    second = open_dataset("criteo", str(raw), cfg, rows=None, bad_rows="strict", schema=schema)
    assert first.features.dense[:, 0].tolist() == [*FILES["day1.csv"], *FILES["day2.csv"]]
    assert (second.folder, second.split) == (first.folder, first.split)


def test_one_file_is_cut_by_order_where_the_rule_names_files(tmp_path: Path) -> None:
    raw = in_files(tmp_path / "raw")
    for other in ("day1.csv", "day2.csv", "day10.csv"):
        (raw / other).unlink()
    for path in (raw, raw / "day3.csv"):
        data = prepare_as(small(split={"by": "files", "test_files": ["day3.csv"]}), path, tmp_path / "cache")
        assert data.split.asdict() == {"train": [0, 18], "test": [18, 19], "val": [19, 20]}


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize("small_file", [1 << 20, 0], ids=["hashed each time", "remembered"])
def test_rows_are_known_by_their_content_whatever_the_times_of_the_file(
    form: str, small_file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_SMALL", small_file)
    monkeypatch.setattr(digests, "_SETTLED", -1)
    write, schema = write_parquet if form == "parquet" else write_text, small(form)
    clicks = [n % 3 % 2 for n in range(70)]
    columns: dict[str, list[Any]] = {"y": clicks, "x": list(range(70)), "t": ["a", "b"] * 35}
    path = write(tmp_path / f"rows.{form}", columns)
    before, times = path.read_bytes(), path.stat()
    first = prepare_as(schema, path, tmp_path / "cache")
    other = write(tmp_path / f"other.{form}", {**columns, "y": [1 - click for click in clicks]}).read_bytes()
    with path.open("r+b") as file:  # in place: keeps the inode
        file.write(other)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (len(other), path.stat().st_mtime_ns) == (len(before), times.st_mtime_ns)
    second = prepare_as(schema, path, tmp_path / "cache")
    assert first.labels.tolist() == clicks
    assert second.labels.tolist() == [1 - click for click in clicks]
    copy = tmp_path / f"copy.{form}"
    copy.write_bytes(before)
    os.utime(copy, (1, 1))
    monkeypatch.setattr(raw, "open_sources", lambda *path, **more: pytest.fail("the rows were read again"))
    assert prepare_as(schema, copy, tmp_path / "cache").folder == first.folder


def test_files_of_parts_are_identified_in_another_order_than_they_are_read_in(tmp_path: Path) -> None:
    rule = {"by": "files", "test_files": ["day1.csv"], "validation_files": ["day2.csv"]}
    data = prepare_as(small(split=rule), in_files(tmp_path / "raw"), tmp_path / "cache")
    assert [entry["bytes"] for entry in data.manifest["key"]["input"]] == [
        (tmp_path / "raw" / f"day{day}.csv").stat().st_size for day in (1, 2, 3, 10)
    ]


def test_limit_counts_good_rows_of_all_files(tmp_path: Path) -> None:
    raw = in_files(tmp_path / "raw")
    with (raw / "day1.csv").open("a") as file:
        file.write("0,x,1\n0,1\n")
    with (raw / "day2.csv").open("a") as file:
        file.write("0,x,1\n")
    data = prepare_as(small(), raw, tmp_path / "cache", rows=30, bad_rows="quarantine")
    assert data.features.dense[:, 0].tolist() == [*FILES["day1.csv"], *FILES["day2.csv"][:10]]
    assert data.rejected == 2
    assert (data.folder / "rejects.jsonl").read_text().splitlines() == [
        '{"y": "0", "x": "x", "t": "1"}',
        '"0,1"',
    ]


@pytest.mark.parametrize("good", [0, 13])
def test_too_few_good_rows_name_the_first_bad_one(good: int, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("y,x,t\n" + "0,1\n" * 20 + "2,1,a\n" * 20 + "0,1,a\n" * good)
    with pytest.raises(
        DataError,
        match=rf"Found {good} valid .* 40 of {40 + good} lines are bad\. First bad line: x\.csv, row 1: ",
    ):
        prepare_as(small(), path, tmp_path / "cache", bad_rows="quarantine")
    assert list((tmp_path / "cache").glob("own*/")) == []
    path.write_text("y,x,t\n" + "0,1,a\n" * good)
    with pytest.raises(
        DataError, match=rf"Found {good} valid samples; at least 14 are required\. Provide more data"
    ):
        prepare_as(small(), path, tmp_path / "cache")
