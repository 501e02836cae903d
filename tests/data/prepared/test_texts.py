"""Compare the texts of a vocabulary, and their order, with pandas."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.data.prepared import texts
from dlrm_adahessian.data.prepared.folder import PreparedData, open_prepared
from dlrm_adahessian.data.prepared.preprocessing import Preprocessing
from dlrm_adahessian.data.raw import prepare_raw
from dlrm_adahessian.data.rows import ColumnBlock, TokenTexts
from dlrm_adahessian.data.schema import from_dict
from dlrm_adahessian.errors import CheckpointError
from tests.data.columnar.slow import fnv, write_parquet, write_text
from tests.hostile import reseal

ROWS, TRAIN, MIN_COUNT = 700, 600, 4
SCHEMA: dict[str, Any] = {
    "label": {"column": "y"},
    "tokens": [
        {"column": "site"},
        {"column": "ad"},
        {"column": "hour", "characters": [6, 8]},
        {"column": "site", "name": "few", "min_count": 40},
        {"column": "site", "name": "shared", "buckets": 5},
        {"column": "nothing"},
    ],
    "bags": [{"column": "genres", "separator": "|", "max_length": 2}],
}


def columns() -> dict[str, list[Any]]:
    """Return the columns of a table, None if missing. Some tokens occur only in test or validation samples."""
    rng = np.random.default_rng(0)
    sites = ["news.example", "é", "漢字🙂", "a b", "-", *(f"site-{n}.example" for n in range(200))]
    picked = [sites[(n - 1) % len(sites)] for n in rng.zipf(1.4, ROWS)]
    picked[TRAIN:] = ["later.example" if n % 3 else site for n, site in enumerate(picked[TRAIN:])]
    return {
        "y": rng.integers(0, 2, ROWS).tolist(),
        "site": [None if n % 9 == 0 else site for n, site in enumerate(picked)],
        "ad": [int(n) for n in rng.zipf(1.5, ROWS) % 2**40 - 3],
        "hour": [f"141021{n:02d}" for n in rng.integers(0, 24, ROWS)],
        "nothing": [None] * ROWS,
        "genres": [
            rng.choice(["pop", "rock", "漢", "rare-" + str(n)], rng.integers(0, 4)).tolist()
            for n in range(ROWS)
        ],
    }


def expected(values: list[Any], least: int) -> list[str | None]:
    """Return the frequent tokens of training samples by pandas, by descending count, then by hash."""
    counts = pd.Series(values, dtype=object).value_counts(dropna=False)
    kept = [
        (-count, -1 if text is None else fnv(text), text) for text, count in counts.items() if count >= least
    ]
    return [text for _, _, text in sorted(kept, key=lambda entry: entry[:2])]


def in_training(table: dict[str, list[Any]]) -> dict[str, list[str | None]]:
    """Return the expected vocabulary of each feature."""
    first = {name: values[:TRAIN] for name, values in table.items()}
    return {
        "site": expected(first["site"], MIN_COUNT),
        "ad": expected([str(n) for n in first["ad"]], MIN_COUNT),
        "hour": expected([hour[6:8] for hour in first["hour"]], MIN_COUNT),
        "few": expected(first["site"], 40),
        "shared": [],
        "nothing": [None],
        "genres": expected([name for names in first["genres"] for name in names[:2]], MIN_COUNT),
    }


def found(preprocessing: Preprocessing) -> dict[str, list[str | None]]:
    assert preprocessing.texts is not None
    features = preprocessing.schema.features
    return {name: preprocessing.texts.column(place).to_pylist() for place, name in enumerate(features)}


def prepared(path: Path, cache: Path, **options: Any) -> PreparedData:
    chosen = {"rows": None, "bad_rows": "strict"} | options
    schema = from_dict(SCHEMA | {"format": path.suffix[1:]})
    return prepare_raw("own", schema, str(path), DataConfig(cache_dir=cache, min_count=MIN_COUNT), **chosen)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("texts")
    table = columns()
    kinds = {"nothing": pa.string(), "ad": pa.int64()}
    return prepared(write_parquet(folder / "x.parquet", table, kinds), folder / "cache")


def test_texts_are_those_that_pandas_counts(data: PreparedData) -> None:
    wanted = in_training(columns())
    assert found(data.preprocessing) == wanted
    assert {"news.example", "漢字🙂", None} <= set(wanted["site"])
    assert "later.example" not in wanted["site"]
    assert 1 <= len(wanted["few"]) < len(wanted["site"]), "the columns have different minimum counts"


def test_texts_have_the_hashes_of_the_vocabulary(data: PreparedData) -> None:
    for place, known in enumerate(found(data.preprocessing).values()):
        hashes = [0 if text is None else fnv(text) for text in known]
        assert hashes == data.preprocessing.vocabulary.tokens_of(place).tolist()


@pytest.mark.parametrize("slots", [1, 4, 1 << 15])
@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.parquet"])
def test_texts_depend_neither_on_the_format_nor_on_the_filter(
    name: str, slots: int, data: PreparedData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(texts, "_SLOTS", slots)
    write = write_parquet if name == "x.parquet" else write_text
    other = prepared(write(tmp_path / name, columns()), tmp_path / "cache")
    assert (other.folder / texts.FILE).read_bytes() == (data.folder / texts.FILE).read_bytes()


def test_repetitions_are_spilled_once_while_the_filter_has_room(tmp_path: Path) -> None:
    schema = from_dict(
        {
            "label": {"column": "y"},
            "tokens": [{"column": "site"}, {"column": "site", "name": "b", "buckets": 3}],
        }
    )
    words = ["a", None, "b", "a", "漢字"]
    found = TokenTexts(np.array([fnv(word) if word else 0 for word in words], np.uint64), pa.array(words))
    block = ColumnBlock(
        schema=schema,
        labels=np.zeros(1, np.int8),
        values=np.empty((1, 0)),
        tokens=np.zeros((1, 2), np.uint64),
        missing=np.zeros(1, np.uint64),
        texts=[found, found],
    )
    spilled = texts.SpilledTexts(tmp_path, schema)
    assert not spilled
    spilled.append(block)
    spilled.append(block)
    spilled.close()
    pieces = [(piece.tokens.tolist(), piece.texts.to_pylist()) for piece in spilled.column(0)]
    assert pieces == [([fnv("a"), fnv("b"), fnv("漢字")], ["a", "b", "漢字"])]
    assert not list(spilled.column(1))


def test_bad_rows_do_not_count(tmp_path: Path) -> None:
    """One token would be frequent if bad rows counted, and another one occurs only in bad rows."""
    table = columns()
    for n in range(50, 50 + MIN_COUNT):
        table["site"][n] = "almost.example"
    for n in range(100, 110):
        table["site"][n] = "bad.example"
    bad = [50, *range(100, 110)]
    for n in bad:
        table["y"][n] = 2
    data = prepared(write_text(tmp_path / "x.csv", table), tmp_path / "cache", bad_rows="quarantine")
    assert data.rejected == len(bad)
    good = [n for n in range(ROWS) if n not in bad]
    sites = expected([table["site"][n] for n in good[: len(data.split.train)]], MIN_COUNT)
    assert found(data.preprocessing)["site"] == sites
    assert not {"almost.example", "bad.example"} & set(sites)


def test_a_vocabulary_is_saved_with_its_texts(data: PreparedData, tmp_path: Path) -> None:
    kept = data.preprocessing.save(tmp_path)
    copy = Preprocessing.load(tmp_path, kept)
    assert found(copy) == found(data.preprocessing)
    assert copy.texts is not None
    assert copy.texts.path.parent == tmp_path


def test_rows_of_an_earlier_version_have_no_texts(tmp_path: Path) -> None:
    data = prepared(write_text(tmp_path / "x.csv", columns()), tmp_path / "cache")
    (data.folder / texts.FILE).unlink()
    reseal(data.folder)
    opened = open_prepared(data.folder)
    assert opened.preprocessing.texts is None
    (tmp_path / "copy").mkdir()
    assert Preprocessing.load(tmp_path / "copy", opened.preprocessing.save(tmp_path / "copy")).texts is None


def arrow_file(*columns: pa.Array) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema([("text", columns[0].type)])) as file:
        for column in columns:
            file.write_batch(pa.record_batch([column], names=["text"]))
    return sink.getvalue().to_pybytes()


UNREADABLE = pa.LargeStringArray.from_buffers(2, pa.py_buffer(np.array([0, 2**40, 2])), pa.py_buffer(b"ab"))
OTHERS = [pa.array(["a"], pa.large_string())]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ARROW1" + bytes(200),
        arrow_file(UNREADABLE),
        arrow_file(*OTHERS),
        arrow_file(pa.array([1, 2])),
        arrow_file(pa.array(["a", "b"])),
    ],
    ids=["empty", "zeros", "offsets", "too few", "numbers", "type"],
)
def test_anything_else_is_refused(content: bytes, tmp_path: Path) -> None:
    data = prepared(write_text(tmp_path / "x.csv", small()), tmp_path / "cache")
    (data.folder / texts.FILE).write_bytes(content)
    reseal(data.folder)
    opened = open_prepared(data.folder)
    assert opened.preprocessing.texts is not None
    with pytest.raises(
        CheckpointError, match="must contain the texts of 2 tokens of categorical column 1.*train"
    ):
        opened.preprocessing.texts.column(0)
    with pytest.raises(CheckpointError, match="categorical column 2"):
        opened.preprocessing.texts.column(1)


def small() -> dict[str, list[Any]]:
    """Return columns with two sites."""
    n = 20
    values = {name: ["1", "2"] * (n // 2) for name in columns()}
    return values | {"y": [0, 1] * (n // 2)}


def test_the_manifest_has_the_file(data: PreparedData) -> None:
    manifest = json.loads((data.folder / "manifest.json").read_text())
    assert texts.FILE in manifest["files"]
    assert not (data.folder / "spill").exists()
