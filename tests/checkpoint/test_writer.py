"""Contents of checkpoints, refusals, and recovery after kills and failures during a save."""

import resource
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from dlrm_adahessian.checkpoint.reader import load_newest_good
from dlrm_adahessian.embeddings.table_shard import TableShard
from dlrm_adahessian.errors import DivergedError, StorageError
from tests.checkpoint import attacked
from tests.checkpoints import RUN, full_disks_survived, names, save_only, save_seed, seed_of


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_is_not_finite_is_never_saved(two: Path, value: float, dtype: torch.dtype) -> None:
    bad = torch.zeros(3, 40, dtype=dtype)
    bad[1, 17] = value
    shard = TableShard(table="C3", first_row=0, table_rows=3, tensors={"weight": bad})
    before = sorted(two.rglob("*"))
    with pytest.raises(DivergedError, match="moment of step 300"):
        save_only(two, 300, dense={"moment": bad})
    with pytest.raises(DivergedError, match="C3/weight of step 300"):
        save_only(two, 300, shards=[shard])
    with pytest.raises(DivergedError, match="state of step 300"):
        save_only(two, 300, state={"losses": [value]})
    assert sorted(two.rglob("*")) == before


def test_what_the_format_cannot_hold_is_refused(two: Path) -> None:
    with pytest.raises(ValueError, match="complex64"):
        save_only(two, 300, dense={"c": torch.zeros(2, dtype=torch.complex64)})
    with pytest.raises(ValueError, match="same number of rows"):
        TableShard(
            table="C3", first_row=0, table_rows=3, tensors={"w": torch.zeros(3, 2), "s": torch.zeros(2)}
        )
    assert names(two) == ["latest", "step-00000100", "step-00000200"]


def test_saving_copies_no_table(light: ProcessPoolExecutor, tmp_path: Path) -> None:
    assert light.submit(attacked.memory_of_a_large_save, tmp_path).result() < 0.25, "of the table's 200 MiB"


# Faults during a save


@pytest.mark.campaign
@pytest.mark.parametrize("keep", [1, 2])
def test_a_kill_at_any_operation_leaves_the_old_or_the_new_one(
    light: ProcessPoolExecutor, two: Path, tmp_path: Path, keep: int
) -> None:
    seeds = light.submit(attacked.killed, save_seed, two, tmp_path, keep).result()
    assert seeds == sorted(seeds)
    assert set(seeds) == {2, 3}
    assert len(seeds) > 50


@pytest.mark.slow
def test_a_kill_while_a_step_is_saved_again_loses_nothing(light: ProcessPoolExecutor, tmp_path: Path) -> None:
    only = tmp_path / "checkpoints"
    save_seed(only, 1)
    seeds = light.submit(attacked.killed_again, only, tmp_path).result()
    assert seeds == sorted(seeds)
    assert set(seeds) == {1, 2}


@pytest.mark.slow
def test_a_full_disk_at_any_operation_is_reported_and_harms_no_checkpoint(
    light: ProcessPoolExecutor, two: Path, tmp_path: Path
) -> None:
    assert light.submit(full_disks_survived, save_seed, two, tmp_path).result() > 50


def test_a_file_that_the_system_cuts_short_is_reported_with_the_path(two: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
        with pytest.raises(StorageError, match=rf"{two}.*File too large"):
            save_seed(two, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert names(two) == ["latest", "step-00000100", "step-00000200"]
    assert seed_of(load_newest_good(two, RUN)) == 2
