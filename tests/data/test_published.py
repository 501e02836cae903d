"""Compare published datasets with pandas: small files in their exact layout, prepared by the command."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dlrm_adahessian.cli import main
from dlrm_adahessian.data.prepared.folder import PreparedData, open_prepared

MIN_COUNT = 2
INTEGERS = [f"I{i}" for i in range(1, 14)]
TOKENS = [f"C{i}" for i in range(1, 27)]
CRITEO = ["label", *INTEGERS, *TOKENS]
AVAZU = [
    "id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id",
    "app_domain", "app_category", "device_id", "device_ip", "device_model", "device_type",
    "device_conn_type", *(f"C{i}" for i in range(14, 22)),
]  # fmt: skip


def hexadecimal(rng: np.random.Generator, rows: int, distinct: int) -> list[str]:
    return [f"{value * 2654435761 % 2**32:08x}" for value in rng.integers(1, distinct, rows).tolist()]


def criteo_rows(rows: int, seed: int = 0) -> pd.DataFrame:
    """Return samples in the text format of Criteo, in which missing values are empty."""
    rng = np.random.default_rng(seed)
    columns = {"label": rng.integers(0, 2, rows).astype(str)}
    for name in INTEGERS:
        columns[name] = np.where(rng.random(rows) < 0.3, "", rng.integers(-2, 60, rows).astype(str))
    for name in TOKENS:
        columns[name] = np.where(rng.random(rows) < 0.2, "", hexadecimal(rng, rows, 9))
    return pd.DataFrame(columns)


def avazu_rows(rows: int) -> pd.DataFrame:
    """Return samples in the format of Avazu's train.csv: ten days in time order."""
    rng = np.random.default_rng(0)
    columns = {
        "id": [str(10**19 + value) for value in rng.choice(10**8, rows, replace=False).tolist()],
        "click": rng.integers(0, 2, rows),
        "hour": [
            f"1410{21 + hour // 24}{hour % 24:02d}" for hour in np.sort(rng.integers(0, 240, rows)).tolist()
        ],
    }
    for name in AVAZU[3:]:
        text = name.startswith(("site", "app", "device_id", "device_ip", "device_model"))
        columns[name] = hexadecimal(rng, rows, 12) if text else rng.integers(-1, 7, rows)
    return pd.DataFrame(columns)[AVAZU].astype(str)


def prepared(dataset: str, path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> PreparedData:
    """Return the data that the command `prepare` writes."""
    flags = ["--data.cache-dir", str(cache), "--data.min-count", str(MIN_COUNT), "--json"]
    assert main(["prepare", "--dataset", dataset, "--data-path", str(path), *flags]) == 0
    return open_prepared(Path(json.loads(capsys.readouterr().out)["folder"]))


def assert_parts(data: PreparedData, labels: list[list[str]]) -> None:
    """Check the labels of the parts train, test, and val, in order."""
    found = [
        data.labels[part.start : part.stop].tolist()
        for part in (data.split.train, data.split.test, data.split.val)
    ]
    assert found == [[int(label) for label in part] for part in labels]


def assert_ids(data: PreparedData, tokens: pd.DataFrame) -> None:
    """Check that each frequent token has one embedding row, by descending training frequency, and rare tokens have row 0."""
    train = data.split.train.stop
    for place, name in enumerate(tokens):
        ids = np.asarray(data.features.ids[:, place])
        counts = tokens[name][:train].value_counts()
        frequent = tokens[name].isin(counts.index[counts >= MIN_COUNT])
        assert ((ids > 0) == frequent).all(), name
        pairs = pd.DataFrame({"token": tokens[name], "id": ids})[frequent].drop_duplicates()
        assert pairs.token.is_unique
        assert sorted(pairs.id) == list(range(1, (counts >= MIN_COUNT).sum() + 1))
        assert counts[pairs.sort_values("id").token].is_monotonic_decreasing


def test_avazu_is_cut_by_order_and_reads_the_hour_of_the_day(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = avazu_rows(700)
    rows.to_csv(tmp_path / "train.csv", index=False)
    data = prepared("avazu", tmp_path / "train.csv", tmp_path / "cache", capsys)
    click = rows.click.tolist()
    assert_parts(data, [click[:600], click[600:650], click[650:]])
    tokens = pd.concat([rows.hour.str[6:8].rename("hour_of_day"), rows[AVAZU[3:]]], axis=1)
    assert data.preprocessing.schema.features == tuple(tokens)
    assert data.features.dense.shape == (700, 0)
    assert_ids(data, tokens)


@pytest.mark.parametrize("dataset", ["criteo_x1", "criteo_x4"])
def test_the_files_of_the_criteo_benchmarks_are_the_parts(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = criteo_rows(160)
    if dataset == "criteo_x1":  # scaled numbers, integer tokens, nothing missing
        rng = np.random.default_rng(1)
        rows[INTEGERS] = np.char.mod("%.6f", rng.random((160, 13)))
        rows[TOKENS] = rng.integers(0, 20, (160, 26)).astype(str)
    parts = {"train": rows[:100], "test": rows[100:130], "valid": rows[130:]}
    (tmp_path / "raw").mkdir()
    for name, part in parts.items():
        part.to_csv(tmp_path / "raw" / f"{name}.csv", index=False)
    data = prepared(dataset, tmp_path / "raw", tmp_path / "cache", capsys)
    assert_parts(data, [part.label.tolist() for part in parts.values()])
    numbers = rows[INTEGERS].replace("", "0").astype(float).to_numpy()
    expected = numbers if dataset == "criteo_x1" else np.log1p(np.maximum(numbers, 0))
    np.testing.assert_allclose(data.features.dense, expected, rtol=2**-23)
    assert_ids(data, rows[TOKENS])


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_of_the_terabyte_the_last_day_tests_and_validates(
    compression: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    days = [criteo_rows(11, seed=day) for day in range(24)]
    (tmp_path / "raw").mkdir()
    for day, rows in enumerate(days):
        path = tmp_path / "raw" / f"day_{day}{'.gz' if compression else ''}"
        rows.to_csv(path, sep="\t", index=False, header=False, compression=compression)
    data = prepared("criteo_1tb", tmp_path / "raw", tmp_path / "cache", capsys)
    rows = pd.concat(days, ignore_index=True)
    last = days[-1].label.tolist()
    assert_parts(data, [rows.label[: 23 * 11].tolist(), last[:6], last[6:]])
    numbers = rows[INTEGERS].replace("", "0").astype(float).to_numpy()
    np.testing.assert_allclose(data.features.dense, np.log1p(np.maximum(numbers, 0)), rtol=2**-23)
    assert_ids(data, rows[TOKENS])


def write_avazu(place: Path) -> tuple[Path, int]:
    rows = avazu_rows(1400)
    rows["click"] = rows.site_id.isin(sorted(rows.site_id.unique())[::2]).astype(int)
    rows.to_csv(place / "train.csv", index=False)
    return place / "train.csv", 1200


def with_told_label(rows: pd.DataFrame) -> pd.DataFrame:
    rows["label"] = rows.C1.isin(sorted(rows.C1.unique())[::2]).astype(int)
    return rows


def write_benchmark(place: Path) -> tuple[Path, int]:
    rows = with_told_label(criteo_rows(1400))
    for name, part in {"train": rows[:1200], "test": rows[1200:1300], "valid": rows[1300:]}.items():
        part.to_csv(place / f"{name}.csv", index=False)
    return place, 1200


def write_terabyte(place: Path) -> tuple[Path, int]:
    rows = with_told_label(criteo_rows(24 * 60))
    for day in range(24):
        part = rows[day * 60 : day * 60 + 60]
        part.to_csv(place / f"day_{day}.gz", sep="\t", index=False, header=False, compression="gzip")
    return place, 23 * 60


@pytest.mark.parametrize(
    ("dataset", "write"),
    [
        ("avazu", write_avazu),
        ("criteo_x1", write_benchmark),
        ("criteo_x4", write_benchmark),
        ("criteo_1tb", write_terabyte),
    ],
)
def test_one_line_trains(
    dataset: str,
    write: Callable[[Path], tuple[Path, int]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One column alone determines the label."""
    (tmp_path / "raw").mkdir()
    path, train_rows = write(tmp_path / "raw")
    line = ["train", "--dataset", dataset, "--data-path", str(path)]
    small = ["--model.bottom", "8", "--model.top", "8", "--batch-size", "50", "--data.min-count", "2"]
    quick = ["--epochs", "4", "--baseline", "none"]
    folders = ["--data.cache-dir", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]
    assert main([*line, *small, *quick, *folders]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["train"]["samples"] == 4 * train_rows
    assert summary["test"]["auc"] > 0.9
