"""Generated data in the cache."""

from pathlib import Path

import numpy as np
import pytest

from dlrm_adahessian.data.config import DataConfig, SyntheticConfig
from dlrm_adahessian.data.published import schema_of
from dlrm_adahessian.data.synthetic import any_schema, dataset
from dlrm_adahessian.data.synthetic.dataset import prepare_synthetic
from dlrm_adahessian.errors import UsageError
from tests.data.synthetic.schemas import generated

SCHEMA = """
format = "csv"
label = { column = "click" }
dense = [{ column = "x", transform = "none" }]
tokens = [{ column = "c" }]
bags = [{ column = "b" }]
"""


def test_synthetic_rows_are_cached_with_their_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = DataConfig(cache_dir=tmp_path, synthetic=SyntheticConfig(seed=1))
    first = prepare_synthetic(cfg, rows=3000)
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "row_blocks", lambda *_: pytest.fail("the rows were generated again"))
        second = prepare_synthetic(cfg, rows=3000)
    assert second.folder == first.folder
    assert second.truth is not None
    assert second.truth.shape == (3000,)
    assert 0 < second.truth.min() < second.truth.max() < 1
    assert abs(second.truth.mean() - second.labels.mean()) < 5 * 0.5 / 3000**0.5
    assert prepare_synthetic(cfg, rows=3001).folder != first.folder


def test_whatever_changes_the_rows_changes_the_folder(tmp_path: Path) -> None:
    configs = [
        DataConfig(cache_dir=tmp_path),
        DataConfig(cache_dir=tmp_path, min_count=3),
        DataConfig(cache_dir=tmp_path, synthetic=SyntheticConfig(cardinality_scale=0.001)),
    ]
    assert len({prepare_synthetic(cfg, rows=70).folder for cfg in configs}) == 3


def test_rows_of_a_schema_are_cached_under_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = DataConfig(
        cache_dir=tmp_path, min_count=1, synthetic=SyntheticConfig(seed=1, cardinality_scale=0.001)
    )
    file, same, other = (tmp_path / f"{name}.toml" for name in ("schema", "same", "other"))
    file.write_text(SCHEMA)
    same.write_text(f"# the same columns\n{SCHEMA}")
    other.write_text(SCHEMA.replace('"none"', '"log1p"'))
    found = prepare_synthetic(cfg, rows=700, schema=file)
    rows = generated(schema_of("criteo", file), 700, seed=1)
    np.testing.assert_array_equal(found.labels, rows.labels)
    np.testing.assert_array_equal(found.truth, rows.probability)
    np.testing.assert_array_equal(found.features.dense, np.nan_to_num(rows.values).astype(np.float32))
    np.testing.assert_array_equal(found.features.bags[0].offsets, rows.bags[0].offsets)
    assert found.features.ids.shape == (700, 1)
    assert found.split.test_from == 600
    with monkeypatch.context() as patch:
        patch.setattr(any_schema, "row_blocks", lambda *_: pytest.fail("the rows were generated again"))
        assert prepare_synthetic(cfg, rows=700, schema=same).folder == found.folder
    folders = {prepare_synthetic(cfg, rows=700, schema=schema).folder for schema in (None, file, other)}
    assert len(folders) == 3


@pytest.mark.parametrize(
    ("split", "lacked"),
    [
        ('time = { column = "at" }\nsplit = { by = "time", test_from = 5, validation_from = 6 }', "time"),
        ('split = { by = "files", test_files = ["day_6"] }', "files"),
    ],
)
def test_splits_by_what_generated_rows_lack_are_refused(split: str, lacked: str, tmp_path: Path) -> None:
    file = tmp_path / "schema.toml"
    file.write_text(SCHEMA + split)
    with pytest.raises(UsageError, match=rf"schema\.toml: generated data cannot be split by {lacked}"):
        prepare_synthetic(DataConfig(cache_dir=tmp_path), rows=70, schema=file)


def test_a_schema_may_say_the_shares_of_the_parts(tmp_path: Path) -> None:
    file = tmp_path / "schema.toml"
    file.write_text(f"{SCHEMA}split = {{ train = 0.5, test = 0.2 }}")
    split = prepare_synthetic(DataConfig(cache_dir=tmp_path), rows=100, schema=file).split
    assert (split.train, split.test, split.val) == (range(50), range(50, 70), range(70, 100))
