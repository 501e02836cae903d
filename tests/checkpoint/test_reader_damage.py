"""Damaged and hostile checkpoints, with and without a matching manifest."""

import json
import logging
import pickle
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dlrm_adahessian.checkpoint.reader import load, load_newest_good
from dlrm_adahessian.errors import CheckpointError
from dlrm_adahessian.runs.sealed import MANIFEST
from tests.checkpoints import (
    RUN,
    blank,
    blank_shard,
    dense_of,
    seed_of,
    tables_of,
)
from tests.hostile import Bomb, reseal

# Damage


def damages(folder: Path, other: Path, seed: int) -> Iterator[str]:
    """Damage one file of `folder` at a time, and restore it."""
    rng = random.Random(seed)
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        bit = bytearray(good)
        bit[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        page = rng.randrange(0, len(good), 512)
        # The last byte of a manifest is a line end, which does not matter: cut at least one byte more.
        damaged = {
            "bit": bytes(bit),
            "cut": good[: rng.randrange(len(good) - 1)],
            "zeroed": good[:page] + bytes(len(good[page : page + 512])) + good[page + 512 :],
            "foreign": (other / path.name).read_bytes(),
            "missing": None,
        }
        for kind, data in damaged.items():
            if data == good:
                continue
            path.unlink()
            if data is not None:
                path.write_bytes(data)
            yield f"{path.name} {kind}"
            path.write_bytes(good)


def test_damage_is_refused_and_the_checkpoint_before_is_used_with_a_warning(
    two: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newest, before = two / "step-00000200", two / "step-00000100"
    count = 0
    for seed in range(5):
        for what in damages(newest, before, seed):
            caplog.clear()
            with pytest.raises(CheckpointError, match=r"Remove \S*step-00000200 |belongs to|has format"):
                load(newest, RUN)
            with caplog.at_level(logging.WARNING):
                checkpoint = load_newest_good(two, RUN)
            assert checkpoint is not None
            assert checkpoint.path == before, what
            assert "Skipped a checkpoint" in caplog.text
            assert "step-00000200" in caplog.text
            count += 1
    assert seed_of(load(newest, RUN)) == 2, "the damage was put right each time"
    assert count > 100


def test_when_all_are_damaged_the_run_is_refused(two: Path) -> None:
    for path in two.glob("step-*/dense.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"None of 2 .*The newest: \S*step-00000200/dense.* changed"):
        load_newest_good(two, RUN)
    assert CheckpointError.exit_code == 3


def test_a_folder_under_the_name_of_another_step_is_refused(two: Path) -> None:
    shutil.copytree(two / "step-00000100", two / "step-00000300")
    with pytest.raises(CheckpointError, match="contains step 100, which differs from its name"):
        load(two / "step-00000300", RUN)
    assert seed_of(load_newest_good(two, RUN)) == 2


# Hostile content with a matching manifest


PLACES = ["dense.safetensors", "tables-00001.safetensors", "state.json", MANIFEST, "../latest"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("by_torch", [False, True])
def test_a_pickle_is_never_loaded_wherever_it_lies(
    two: Path, tmp_path: Path, place: str, by_torch: bool
) -> None:
    folder, canary = two / "step-00000200", tmp_path / "canary"
    if by_torch:
        torch.save(Bomb(canary), folder / place)
    else:
        (folder / place).write_bytes(pickle.dumps(Bomb(canary)))
    if place not in {MANIFEST, "../latest"}:
        reseal(folder)
    checkpoint = load_newest_good(two, RUN)
    if place.endswith("safetensors"):  # the digest matches, so only reading reveals the content
        with pytest.raises(CheckpointError, match="cannot be read"):
            seed_of(checkpoint)
    else:
        assert seed_of(checkpoint) == (2 if place == "../latest" else 1)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Bomb(canary)))
    assert canary.exists(), "the bomb is a real one"


ROWS = {"file": "dense.safetensors", "table": "C3", "first_row": 0, "rows": 1, "table_rows": 1}
HOSTILE_STATES = {
    "another type": ([1, 2], "not a valid checkpoint state"),
    "no state": ({"stored": []}, r"\nstate\n"),
    "state of another type": ({"state": 3, "stored": []}, r"\nstate\n"),
    "extra key": ({"state": {}, "stored": [], "code": "x"}, r"\ncode\n"),
    "file outside": ({"state": {}, "stored": [{**ROWS, "file": "../../x"}]}, "contains other files"),
    "row of another type": ({"state": {}, "stored": [{**ROWS, "first_row": "0"}]}, r"\.first_row\n"),
}


@pytest.mark.parametrize(("content", "reason"), HOSTILE_STATES.values(), ids=HOSTILE_STATES.keys())
def test_a_state_that_is_none_is_refused(two: Path, content: object, reason: str) -> None:
    folder = two / "step-00000200"
    (folder / "state.json").write_text(json.dumps(content))
    reseal(folder)
    with pytest.raises(CheckpointError, match=reason) as refused:
        load(folder, RUN)
    assert "state.json" in str(refused.value)


@pytest.mark.parametrize("lost", ["dense.safetensors", "tables-00001.safetensors", "state.json"])
def test_a_file_that_the_manifest_does_not_miss_is_missed_all_the_same(two: Path, lost: str) -> None:
    folder = two / "step-00000200"
    (folder / lost).unlink()
    reseal(folder)
    with pytest.raises(CheckpointError, match=r"state\.json"):
        load(folder, RUN)


@pytest.mark.parametrize("name", ["../step-00000100/dense.safetensors", "/etc/passwd", "..", "a\0b"])
def test_a_hostile_name_in_the_manifest_is_refused(two: Path, name: str) -> None:
    folder = two / "step-00000200"
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = manifest["files"].pop("dense.safetensors")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="its manifest lists"):
        load(folder, RUN)


def test_another_format_is_refused(two: Path) -> None:
    reseal(two / "step-00000200", format=2)
    with pytest.raises(
        CheckpointError, match="has format 2, but this version reads 1. Resume with the version"
    ):
        load(two / "step-00000200", RUN)


def test_a_forged_file_with_fewer_rows_is_refused(two: Path) -> None:
    folder = two / "step-00000200"
    one_row = {"weight": torch.zeros(1, 4), "state/sum": torch.zeros(1), "state/count": torch.zeros(1).long()}
    save_file(one_row, folder / "tables-00000.safetensors")
    reseal(folder)
    with pytest.raises(CheckpointError, match=r"'weight' was F32 \[1, 4\]"):
        load(folder, RUN).restore_(blank(dense_of(2)), [blank_shard(table) for table in tables_of(2)])
