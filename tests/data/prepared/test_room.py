"""Data that does not fit on the disk is refused before it is read."""

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.data.prepared.room import require_room_for_rows, rows_of_files
from dlrm_adahessian.errors import StorageError


def test_a_row_takes_as_many_bytes_as_its_files_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset("synthetic", None, DataConfig(cache_dir=tmp_path), rows=1000, bad_rows="strict")
    arrays = [np.load(data.folder / f"{name}.npy", mmap_mode="r") for name in ("dense", "ids", "labels")]
    written = sum(array.nbytes for array in arrays)
    free = written
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": free}))
    require_room_for_rows(1000, CRITEO, tmp_path)
    free -= 1
    with pytest.raises(StorageError, match=f"GB are needed in {tmp_path}, but only .* GB are free"):
        require_room_for_rows(1000, CRITEO, tmp_path)


def test_more_rows_than_any_disk_holds_are_refused_before_the_first_one(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="About 157,000,000.00 GB are needed"):
        open_dataset("synthetic", None, DataConfig(cache_dir=tmp_path), rows=10**15, bad_rows="strict")


def test_a_file_too_large_for_the_disk_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.txt").write_text("no row\n" * 100)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 157 * 100 - 1}))
    cfg = DataConfig(cache_dir=tmp_path / "cache")
    with pytest.raises(StorageError, match="are needed"):
        open_dataset("criteo", str(tmp_path / "train.txt"), cfg, rows=None, bad_rows="strict")


def test_lines_are_counted_by_the_beginning_of_a_file(tmp_path: Path) -> None:
    text, empty, archive = (tmp_path / name for name in ("a.txt", "b.txt", "c.tar.gz"))
    text.write_bytes(b"0123456\n" * 2_500_000)  # 20 MB
    empty.write_bytes(b"")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(text)
    assert rows_of_files([text]) == 2_500_000
    assert rows_of_files([text, text, empty, archive]) == 5_000_000


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, partial(lzma.compress, preset=0)])
def test_lines_of_a_compressed_file_are_about_as_many_as_they_are(
    compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    digits = np.random.default_rng(0).integers(0, 10, (600_000, 15), np.uint8) + ord("0")
    digits[:, -1] = ord("\n")
    (tmp_path / "packed").write_bytes(compress(digits.tobytes()))
    assert rows_of_files([tmp_path / "packed"]) == pytest.approx(
        600_000, rel=0.15
    )  # compressors work in blocks


def test_rows_of_parquet_are_what_its_footer_says_and_none_where_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"x": range(12_345)}).to_parquet(path)
    assert rows_of_files([path, path]) == 24_690
    path.write_bytes(path.read_bytes()[:-5])
    assert rows_of_files([path]) == 0
