"""The raw files of a run, recognized by content in renamed files, copies, and pipes."""

import io
import os
import random
import sys
from types import SimpleNamespace

import pytest

from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.raw import prepare_raw
from dlrm_adahessian.data.split import split_rows
from dlrm_adahessian.data.text.sources import input_files, input_identity
from dlrm_adahessian.evaluation.origin import Origin
from tests.data.oracle import random_line

SPLIT = split_rows(20).asdict()
TEXT = b"\n".join(random_line(random.Random(seed)) for seed in range(20))


@pytest.fixture
def origin_of(tmp_path):
    return lambda told: Origin.of(told, "criteo", tmp_path / "digests")


@pytest.fixture
def identity_of(tmp_path):
    return lambda path: input_identity(input_files(path, "criteo"), tmp_path / "digests")


def test_copies_are_the_same_and_other_files_are_not(tmp_path, origin_of, identity_of):
    names = ("a", "b", "copy of a", "other")
    for name, data in zip(names, (b"a", b"b", b"a", b"c"), strict=True):
        (tmp_path / name).write_bytes(data)
    a, b, copy, other = (str(tmp_path / name) for name in names)
    origin = origin_of({"input": [*identity_of(a), *identity_of(b)], "split": SPLIT})
    assert [origin.shares(path) for path in (a, b, copy, other)] == [True, True, True, False]
    assert not any(map(origin.is_that_of, (a, b, copy, other)))
    alone = origin_of({"input": identity_of(a), "split": SPLIT})
    assert [alone.is_that_of(path) for path in (a, b, copy, other)] == [True, False, True, False]


def test_order_of_the_files_matters_for_all_of_them(tmp_path, origin_of, identity_of):
    folder = tmp_path / "days"
    folder.mkdir()
    for day in range(2):
        (folder / f"day_{day}").write_bytes(b"%d" % day)
    identity = identity_of(folder)
    assert origin_of({"input": identity, "split": SPLIT}).is_that_of(str(folder))
    assert not origin_of({"input": identity[::-1], "split": SPLIT}).is_that_of(str(folder))


def test_a_folder_of_another_format_has_none_of_the_files(tmp_path, origin_of, identity_of):
    (tmp_path / "rows.txt").write_bytes(TEXT)
    origin = origin_of({"input": identity_of(tmp_path / "rows.txt"), "split": SPLIT})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "rows.parquet").touch()
    assert not origin.shares(str(tmp_path / "folder"))
    assert not origin.is_that_of(str(tmp_path / "folder"))


def test_a_copy_of_a_large_file_has_another_time(tmp_path, origin_of, identity_of):
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(65 << 20)
    origin = origin_of({"input": identity_of(large), "split": SPLIT})
    os.utime(large, (1, 1))
    assert origin.is_that_of(str(large))
    with large.open("r+b") as file:
        file.write(b"x")
    assert not origin.is_that_of(str(large))


def test_what_came_through_a_pipe_is_known_in_a_file(tmp_path, monkeypatch, origin_of):
    (tmp_path / "rows").write_bytes(TEXT)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(TEXT)))
    data = prepare_raw(
        "criteo", CRITEO, "-", DataConfig(cache_dir=tmp_path / "cache"), rows=None, bad_rows="strict"
    )
    origin = origin_of({"input": data.manifest["key"]["input"], "split": SPLIT})
    assert origin.is_that_of(str(tmp_path / "rows"))
    assert not origin.shares("-")


@pytest.mark.parametrize(
    "told", [{}, {"input": None, "split": SPLIT}, {"input": [{}]}, {"input": 3, "split": SPLIT}]
)
def test_a_run_may_tell_no_origin(told, origin_of):
    assert origin_of(told) is None
