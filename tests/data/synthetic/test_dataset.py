"""Generated rows in the cache."""

from pathlib import Path

import pytest

from dlrm_adahessian.data.config import DataConfig, SyntheticConfig
from dlrm_adahessian.data.synthetic import dataset
from dlrm_adahessian.data.synthetic.dataset import prepare_synthetic


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
