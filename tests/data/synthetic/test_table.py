"""Files of generated data are read back with their schema."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dlrm_adahessian.data.config import DataConfig, SyntheticConfig
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.data.raw import prepare_raw
from dlrm_adahessian.data.schema import BagColumn, Schema, TokenColumn
from dlrm_adahessian.data.synthetic.table import write_table
from dlrm_adahessian.errors import StorageError
from tests.data.synthetic.schemas import EVERY_KIND, SCALE, generated, schema_of

ROWS = 3000
CONFIG = SyntheticConfig(cardinality_scale=SCALE)
HEADER = (
    "at",
    "unread",
    "click",
    "w",
    "score",
    "clicks_before",
    "age",
    "site",
    "device",
    "hour",
    "terms",
    "shops",
)
LISTS = replace(EVERY_KIND, bags=(BagColumn(column="terms"), BagColumn(column="shops", max_length=3)))
SCHEMAS = {
    "parquet": EVERY_KIND,
    "lists": LISTS,
    "csv": replace(EVERY_KIND, format="csv"),
    "tsv": replace(EVERY_KIND, format="tsv", header=HEADER),
}


def read(schema: Schema, tmp_path: Path) -> PreparedData:
    path = tmp_path / f"rows.{schema.format}"
    write_table(schema, CONFIG, ROWS, path)
    config = DataConfig(cache_dir=tmp_path / "cache", min_count=1)
    return prepare_raw("generated", schema, str(path), config, rows=None, bad_rows="strict")


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two lists of names are equal up to a renaming, so that equal values are at the same places."""
    pairs = len(np.unique(np.stack([one.astype(np.uint64), other.astype(np.uint64)]), axis=1).T)
    return pairs == len(np.unique(one)) == len(np.unique(other))


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_written_file_gives_the_generated_rows(name: str, tmp_path: Path) -> None:
    schema = SCHEMAS[name]
    data, rows = read(schema, tmp_path), generated(schema, ROWS)
    np.testing.assert_array_equal(data.labels, rows.labels)
    np.testing.assert_array_equal(data.weights, rows.weights)
    train = rows.values[: data.split.test_from, 2]
    standardized = (rows.values[:, 2] - np.nanmean(train)) / np.nanstd(train)
    expected = np.nan_to_num(
        np.stack([np.log1p(rows.values[:, 0]), rows.values[:, 1], standardized], axis=1)
    ).astype(np.float32)
    np.testing.assert_allclose(data.features.dense, expected, rtol=1e-6, atol=1e-6)
    # Tokens that do not occur in training have no row: the rarest of 100 hours, each with a share of 0.002.
    trained = slice(data.split.test_from)
    for place in (0, 2):
        assert same_partition(data.features.ids[trained, place], rows.tokens[trained, place])
    for read_bags, bags in zip(data.features.bags, rows.bags, strict=True):
        np.testing.assert_array_equal(read_bags.offsets, bags.offsets)
        last = bags.offsets[data.split.test_from]
        assert same_partition(read_bags.values[:last], bags.values[:last])


def test_tokens_of_buckets_share_rows_in_the_file_as_in_memory(tmp_path: Path) -> None:
    data, rows = read(EVERY_KIND, tmp_path), generated(EVERY_KIND, ROWS)
    expected = np.where(rows.tokens[:, 1] == 0, 0, 1 + rows.tokens[:, 1] % np.uint64(50))
    np.testing.assert_array_equal(data.features.ids[:, 1], expected)


def test_the_file_is_plain(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    write_table(SCHEMAS["tsv"], CONFIG, 200, path)
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    assert {len(line) for line in lines} == {len(HEADER)}
    assert [line[0] for line in lines] == [str(row) for row in range(200)]
    assert {line[1] for line in lines} == {""}
    assert "" in {line[4] for line in lines}
    assert "nan" not in {line[4] for line in lines}
    assert {line[7] for line in lines} <= {"", '"t0"', '"t1"', '"t2"'}
    write_table(LISTS, CONFIG, 200, tmp_path / "rows.parquet")
    bags = pq.read_table(tmp_path / "rows.parquet")["terms"].to_pylist()
    assert min(map(len, bags)) == 0
    assert all(token.startswith("t") and token[1:].isdecimal() for bag in bags for token in bag)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (schema_of(1, 1, 0, format="criteo"), "has the format criteo and reads 3 columns 3 times"),
        (
            replace(EVERY_KIND, tokens=(TokenColumn(column="at", name="hour"),)),
            "has the format parquet and reads 8 columns 9 times",
        ),
        (schema_of(1, 1, 1, format="csv"), "csv cannot store lists; set a separator"),
    ],
)
def test_what_no_file_holds_is_refused(schema: Schema, told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        write_table(schema, CONFIG, 10, tmp_path / "rows")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["parquet", "csv"])
def test_unwritable_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent/rows"):
        write_table(SCHEMAS[name], CONFIG, 1, tmp_path / "absent" / "rows")
