"""Open datasets by name, and folders of prepared data."""

import random
from pathlib import Path
from typing import get_args

import pytest

from dlrm_adahessian.data.config import GENERATED, DataConfig, DatasetName
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.data.published import schema_of
from dlrm_adahessian.errors import DataError, UsageError
from tests.data.oracle import random_line

LINES = [random_line(random.Random(seed)) for seed in range(140)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Return a file of 140 good lines."""
    path = tmp_path / "train.txt"
    path.write_bytes(b"\n".join(LINES))
    return path


def test_each_name_is_generated_or_has_a_schema() -> None:
    for name in get_args(DatasetName):
        assert name in GENERATED or schema_of(name, None).features


@pytest.mark.parametrize("label", [b"0", b"1"])
def test_rows_of_one_class_are_refused(label: bytes, text: Path, tmp_path: Path) -> None:
    text.write_bytes(b"\n".join(label + line[1:] for line in LINES))
    with pytest.raises(DataError, match="must contain both labels"):
        open_dataset("criteo", str(text), DataConfig(cache_dir=tmp_path / "c"), rows=None, bad_rows="strict")


def test_prepared_rows_are_taken_as_they_are_or_refused(text: Path, tmp_path: Path) -> None:
    cfg = DataConfig(cache_dir=tmp_path / "cache", min_count=2)
    made = open_dataset("criteo", str(text), cfg, rows=None, bad_rows="strict")
    elsewhere = DataConfig(cache_dir=tmp_path / "none", min_count=5)
    for rows in (None, 140):
        found = open_dataset("criteo", str(made.folder), elsewhere, rows=rows, bad_rows="strict")
        assert (found.folder, found.fingerprint) == (made.folder, made.fingerprint)
    with pytest.raises(
        UsageError, match="--rows 70 applies to raw data only, but .* contains 140 prepared samples"
    ):
        open_dataset("criteo", str(made.folder), elsewhere, rows=70, bad_rows="strict")
    (made.folder / "ids.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"ids\.npy changed since it was written\. Prepare the data again"):
        open_dataset("criteo", str(made.folder), elsewhere, rows=None, bad_rows="strict")
    assert not (tmp_path / "none").exists()


def test_generated_rows_have_the_columns_of_a_schema(tmp_path: Path) -> None:
    schema = tmp_path / "schema.toml"
    schema.write_text('label = { column = "y" }\ntokens = [{ column = "site" }]')
    cfg = DataConfig(cache_dir=tmp_path / "cache")
    found = open_dataset("synthetic", None, cfg, rows=70, bad_rows="strict", schema=schema)
    assert found.preprocessing.schema.features == ("site",)
    assert found.features.dense.shape == (70, 0)
