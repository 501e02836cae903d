"""Cache folders are reused, verified when opened, and prepared again if damaged."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.prepared.folder import (
    PreparedData,
    find_or_make,
    map_prepared,
    open_prepared,
)
from dlrm_adahessian.data.prepared.writer import write_prepared
from dlrm_adahessian.runs.sealed import DamagedFolderError, fingerprint
from tests.data.bags import bags_of
from tests.data.oracle import random_block
from tests.hostile import reseal
from tests.processes import plain_user


def prepare(cache: Path, seed: int = 0) -> PreparedData:
    """Return 140 random samples of a seed, prepared or from the cache."""

    def fill(folder: Path) -> dict[str, object]:
        block = random_block(np.random.default_rng(seed), 140, distinct=9, probability=True)
        return {**write_prepared(iter([block]), folder, CRITEO, min_count=2), "rejected": 0}

    return find_or_make(cache, "random", {"seed": seed}, fill)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit_manifest(path: Path) -> None:
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps({**manifest, "rows": 70}))


DAMAGE = {
    **{f"{act.__name__} {name}": (act, name) for act in (flip, cut, Path.unlink) for name in (
        "labels.npy", "dense.npy", "ids.npy", "vocabulary_tokens.npy", "vocabulary_offsets.npy",
        "vocabulary_missing.npy", "manifest.json",
    )},
    "edit manifest": (edit_manifest, "manifest.json"),
    "foreign file": (Path.touch, "more.npy"),
}  # fmt: skip


def test_values_per_bag_are_means_over_the_training_rows(tmp_path: Path) -> None:
    data = prepare(tmp_path)
    assert data.split.train == range(120)
    assert data.values_per_bag == (1.0,) * 26
    # Of the 120 training samples, every third has 3 values in the first bag column, and none has any in the second.
    lists = [[1, 1, 2] if row < 120 and row % 3 == 0 else [] for row in range(120)] + [[7] * 9] * 20
    bags = (bags_of(lists), bags_of([[]] * 120 + [[1]] * 20))
    features = dataclasses.replace(data.features, ids=data.features.ids[:, :2], bags=bags)
    assert dataclasses.replace(data, features=features).values_per_bag == (1.0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_cache_is_remade(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = prepare(tmp_path)
    ids = first.features.ids.tolist()
    act, name = DAMAGE[kind]
    act(first.folder / name)
    with pytest.raises(DamagedFolderError):
        open_prepared(first.folder)
    second = prepare(tmp_path)
    assert "damaged and will be prepared again" in caplog.text
    assert second.features.ids.tolist() == ids
    assert open_prepared(second.folder).fingerprint == first.fingerprint


def test_a_folder_of_other_rows_under_a_name_of_the_cache_is_remade(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = prepare(tmp_path / "cache")
    ids = first.features.ids.tolist()
    other = prepare(tmp_path / "other", seed=1)
    shutil.rmtree(first.folder)
    shutil.copytree(other.folder, first.folder)
    second = prepare(tmp_path / "cache")
    assert f"contains data {other.fingerprint}, which is not its name" in caplog.text
    assert second.features.ids.tolist() == ids


def test_rows_of_another_format_are_refused_even_under_a_manifest_that_agrees(tmp_path: Path) -> None:
    folder = prepare(tmp_path).folder
    reseal(folder, format=1)
    for opened in (open_prepared, map_prepared):
        with pytest.raises(DamagedFolderError, match="must have format 2, found 1"):
            opened(folder)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(DamagedFolderError, match="must contain a JSON object"):
        map_prepared(folder)


def test_rows_that_another_process_verified_are_mapped_alike(tmp_path: Path) -> None:
    made = prepare(tmp_path)
    for found in (map_prepared(made.folder), open_prepared(made.folder)):
        assert (found.fingerprint, found.split, found.manifest) == (
            made.fingerprint,
            made.split,
            made.manifest,
        )
        for name in ("labels", "truth"):
            assert (getattr(found, name) == getattr(made, name)).all(), name
        for name in ("dense", "ids"):
            assert (getattr(found.features, name) == getattr(made.features, name)).all(), name


@plain_user.needed
def test_rows_that_another_user_keeps_from_reading_are_refused_before_they_are_made_again(
    tmp_path: Path,
) -> None:
    program = (
        "import pathlib, sys; from dlrm_adahessian.data.prepared.folder import find_or_make\n"
        "find_or_make(pathlib.Path(sys.argv[1]), 'x', {}, lambda folder: print('made'))"
    )
    (tmp_path / f"x-{fingerprint({})}").mkdir(mode=0)
    ended = plain_user.python(program, tmp_path, environment={})
    assert "StorageError: Cannot read the prepared data in" in ended.stderr
    assert "made" not in ended.stdout
