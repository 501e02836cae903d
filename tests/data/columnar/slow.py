"""A slow reference reader of schemas: whole files, in plain Python, value by value. Also random tables to read."""

import csv
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dlrm_adahessian.data.columnar.reader import ColumnReader
from dlrm_adahessian.data.rows import ColumnBlock
from dlrm_adahessian.data.schema import Schema, TokenColumn, from_dict
from dlrm_adahessian.data.text.bad_lines import BadLines, Reason
from dlrm_adahessian.data.text.sources import open_sources

MISSING = -1  # sorts before every token of the same count


def fnv(text: str) -> int:
    """Return the lowest 63 bits of the hash of RFC 9923."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value % 2**63


def plain_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def dense_of(rows: Sequence[dict[str, Any]], schema: Schema, train: int) -> pd.DataFrame:
    """Return the transformed dense columns, float64. Mean and deviation are those of the first `train` rows, by pandas."""
    found = {}
    for column in schema.dense:
        values = pd.Series([row[column.column] for row in rows], dtype=object).replace("", None).astype(float)
        if column.transform == "log1p":
            values = values.map(lambda x: math.log1p(max(x, 0.0)), na_action="ignore")
        elif column.transform == "standardize":
            values = (values - values[:train].mean()) / values[:train].std(ddof=0)
        found[column.feature] = values
    return pd.DataFrame(found).fillna(0.0)


def token_of(value: Any, column: TokenColumn) -> int:
    text = "" if value is None else str(value)
    if column.characters is not None:
        first, stop = column.characters
        text = text[first:stop]
    return fnv(text) if text else MISSING


def bag_of(value: Any, column: Any) -> list[int]:
    values = (value or "").split(column.separator) if isinstance(value, str) else value or []
    tokens = [token for each in values if (token := token_of(each, column)) != MISSING]
    return tokens[: column.max_length]


def ids_of(values: Sequence[list[int]], train: int, column: TokenColumn, min_count: int) -> list[list[int]]:
    """Return the table rows of the tokens of each sample, and at the end one more row with the height of the table."""
    if column.buckets is not None:
        found = [[0 if token == MISSING else 1 + token % column.buckets for token in row] for row in values]
        return [*found, [column.buckets + 1]]
    counts = Counter(token for row in values[:train] for token in row)
    least = column.min_count or min_count
    ranked = sorted((-count, token) for token, count in counts.items() if count >= least)
    places = {token: place for place, (_, token) in enumerate(ranked, 1)}
    return [*([places.get(token, 0) for token in row] for row in values), [len(ranked) + 1]]


def random_table(seed: int, rows: int = 260) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return random columns, None if missing, and their schema without a format. Times never decrease."""
    rng = random.Random(seed)

    def some(make: Any) -> list[Any]:
        rate = rng.choice([0, 0.2, 0.7])
        return [None if rng.random() < rate else make() for _ in range(rows)]

    words = ["".join(rng.choices('ab,"\t\r\n é漢🙂-', k=rng.randint(0, 5))) for _ in range(20)]
    columns: dict[str, list[Any]] = {
        "y": [rng.randint(0, 1) for _ in range(rows)],
        "w": [rng.choice([0, 1, 2.5]) for _ in range(rows)],
        "time": sorted(rng.randint(0, 90) for _ in range(rows)),
        "unread": [rng.random() if n < rows // 2 else "text" for n in range(rows)],
    }
    schema: dict[str, Any] = {
        "label": {"column": "y"}, "weight": {"column": "w"}, "time": {"column": "time"},
        "split": {"by": "time", "test_from": 60, "validation_from": 75}, "dense": [], "tokens": [], "bags": [],
    }  # fmt: skip
    for n in range(rng.choice([1, 3, 70])):
        columns[f"x{n}"] = some(lambda: rng.choice([rng.gauss(0, 9), -1.0, 0.0, 1e-30, 3e38, float(2**53)]))
        transform = rng.choice(["log1p", "none", "standardize"])
        schema["dense"].append({"column": f"x{n}", "transform": transform})
    for n in range(rng.choice([1, 4])):
        whole = rng.random() < 0.5
        columns[f"t{n}"] = some(
            (lambda: rng.randint(-5, 2**63 - 1) % rng.choice([7, 2**63]))
            if whole
            else lambda: rng.choice(words)
        )
        more = rng.choice([{}, {"min_count": 7}, {"buckets": 5}, {"characters": [1, 3]}])
        schema["tokens"].append({"column": f"t{n}", "name": f"token-{n}", **more})
    for n in range(rng.choice([0, 2])):
        columns[f"b{n}"] = some(lambda: rng.choices(words, k=rng.randint(0, 4)))
        more = rng.choice([{}, {"max_length": 2}, {"buckets": 3}, {"characters": [0, 2]}, {"min_count": 3}])
        schema["bags"].append({"column": f"b{n}", "separator": "|", **more})
    return columns, schema


def write_text(path: Path, columns: dict[str, list[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow("|".join(value) if isinstance(value, list) else value for value in row)
    return path


def write_parquet(path: Path, columns: dict[str, list[Any]], types: dict[str, Any] | None = None) -> Path:
    """Write columns with the given types, or those that pyarrow infers. Some row groups have one row."""
    columns = {
        name: list(map(str, values)) if name == "unread" else values for name, values in columns.items()
    }
    table = pa.table({name: pa.array(values, (types or {}).get(name)) for name, values in columns.items()})
    with pq.ParquetWriter(path, table.schema) as writer:
        for part in (table[:0], table[:1], table[1:100], table[100:]):
            writer.write_table(part, row_group_size=57)
    return path


def small(form: str = "csv", **more: Any) -> Schema:
    """Return a schema with a label, a number, and a token."""
    values: dict[str, Any] = {
        "format": form, "label": {"column": "y"}, "dense": [{"column": "x", "transform": "none"}],
        "tokens": [{"column": "t"}],
    }  # fmt: skip
    return from_dict(values | more)


def blocks_of(
    path: Path, schema: Schema, bad_rows: BadLines, *, limit: int | None = None, labels: Any = "required"
) -> Iterator[ColumnBlock]:
    """Yield the blocks of all files of an input, as the package reads them."""
    reader = ColumnReader(schema, bad_rows, labels)
    for source in open_sources(path, schema.format):
        for block in reader.read(source, limit=limit):
            yield block
            limit = None if limit is None else limit - len(block)
        if limit == 0:
            return


def read(path: Path, schema: Schema, *, rejects: Path | None = None, **options: Any) -> list[ColumnBlock]:
    """Return the blocks of an input. Bad rows raise, or go to `rejects`."""
    with closing(BadLines(rejects)) as bad_rows:
        return list(blocks_of(path, schema, bad_rows, **options))


class Explained(BadLines):
    """Records why each row is bad."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[str] = []

    def reject(self, raw: bytes, explain: Callable[[], Reason]) -> None:
        self.reasons.append(explain().told)


def numbers_of(blocks: Sequence[ColumnBlock]) -> list[float]:
    """Return the first dense column of all rows."""
    return [value for block in blocks for value in block.values[:, 0].tolist()]
