"""A file is hashed again if it may have changed, and only then."""

import os
import shutil
from pathlib import Path

import pytest
import xxhash

from dlrm_adahessian.data.text import digests
from dlrm_adahessian.data.text.digests import REMEMBERED, remembered_digest

FIRST, SECOND = b"0\trows", b"1\trows"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list of files that were read, in order. Every change counts as old."""
    found: list[Path] = []

    def counted(path: Path) -> str:
        found.append(path)
        return xxhash.xxh3_128_hexdigest(path.read_bytes())

    monkeypatch.setattr(digests, "file_digest", counted)
    monkeypatch.setattr(digests, "_SETTLED", -1)
    return found


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "train.txt"
    path.write_bytes(FIRST)
    return path


def test_an_unchanged_file_is_read_once(reads: list[Path], rows: Path, tmp_path: Path) -> None:
    for _ in range(3):
        assert remembered_digest(rows, tmp_path / "cache") == xxhash.xxh3_128_hexdigest(FIRST)
    assert reads == [rows]
    shutil.copy(rows, tmp_path / "copy.txt")
    assert remembered_digest(tmp_path / "copy.txt", tmp_path / "cache") == xxhash.xxh3_128_hexdigest(FIRST)
    assert remembered_digest(rows, tmp_path / "cache") == xxhash.xxh3_128_hexdigest(FIRST)
    assert reads == [rows, tmp_path / "copy.txt"]


def test_a_touched_file_is_read_again_and_is_the_same(reads: list[Path], rows: Path, tmp_path: Path) -> None:
    before = remembered_digest(rows, tmp_path)
    os.utime(rows, (1, 1))
    assert remembered_digest(rows, tmp_path) == remembered_digest(rows, tmp_path) == before
    assert reads == [rows, rows]


def test_an_edit_is_seen_even_if_size_and_time_of_modification_stay(
    reads: list[Path], rows: Path, tmp_path: Path
) -> None:
    os.utime(rows, (1, 1))
    remembered_digest(rows, tmp_path)
    rows.write_bytes(SECOND)
    os.utime(rows, (1, 1))
    assert remembered_digest(rows, tmp_path) == xxhash.xxh3_128_hexdigest(SECOND)


def test_a_file_that_changed_just_now_is_not_remembered(rows: Path, tmp_path: Path) -> None:
    """The next change might have the same time."""
    remembered_digest(rows, tmp_path)
    assert not (tmp_path / REMEMBERED).exists()


@pytest.mark.parametrize("spoilt", [b"{", b"[]", b'{"NAME": 1}', b'{"NAME": {"seen": []}}'])
def test_spoilt_digests_are_made_anew(spoilt: bytes, reads: list[Path], rows: Path, tmp_path: Path) -> None:
    (tmp_path / REMEMBERED).write_bytes(spoilt.replace(b"NAME", str(rows).encode()))
    for _ in range(2):
        assert remembered_digest(rows, tmp_path) == xxhash.xxh3_128_hexdigest(FIRST)
    assert reads == [rows]
