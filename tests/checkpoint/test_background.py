"""Background checkpoints: their contents, recovery after kills and disk failures, and two ranks."""

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dlrm_adahessian.checkpoint import background, writer
from dlrm_adahessian.checkpoint.background import BUSY, FAILED, IDLE, BackgroundSaver
from dlrm_adahessian.checkpoint.reader import load_newest_good
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.embeddings.table_shard import TableShard
from dlrm_adahessian.errors import DivergedError, ProgramError, StorageError
from tests.checkpoint import attacked
from tests.checkpoints import (
    RUN,
    STATE,
    contents_of,
    dense_of,
    full_disks_survived,
    names,
    seed_of,
    tables_of,
)
from tests.faults import disk_full
from tests.processes import worlds

write_tensors = writer.write_tensors


def begin(saver: BackgroundSaver, folder: Path, seed: int, **changes: object) -> None:
    saver.begin(folder, contents_of(seed, **changes), step=100 * seed, fingerprint=RUN, keep=2)


def wait_for(saver: BackgroundSaver) -> int:
    deadline = time.monotonic() + 30
    while saver.status() == BUSY and time.monotonic() < deadline:
        time.sleep(0.001)
    return saver.status()


class SlowDisk:
    """Write nothing until released."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.fails = False

    def write(self, path: Path, *arguments: object, **options: object) -> object:
        assert self.go.wait(30)
        if self.fails:
            disk_full()
        return write_tensors(path, *arguments, **options)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    disk = SlowDisk()
    monkeypatch.setattr(writer, "write_tensors", disk.write)
    yield disk
    disk.go.set()


@contextmanager
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def overwrite_(tensors: dict[str, Tensor], shards: list[TableShard]) -> None:
    """Overwrite all tensors, as training may."""
    for tensor in [*tensors.values(), *(t for shard in shards for t in shard.tensors.values())]:
        tensor.fill_(1)


# Contents


def test_what_is_saved_is_of_the_step_although_training_went_on(two: Path, disk: SlowDisk) -> None:
    dense, shards, state = dense_of(3), tables_of(3), {**STATE, "seed": 3}
    with BackgroundSaver() as saver:
        begin(saver, two, 3, dense=dense, shards=shards, state=state)
        overwrite_(dense, shards)
        state["seed"] = 4
        assert saver.status() == BUSY
        saver.proceed(BUSY)
        assert seed_of(load_newest_good(two, RUN)) == 2
        disk.go.set()
        assert wait_for(saver) == IDLE
        saver.proceed(IDLE)
        assert seed_of(load_newest_good(two, RUN)) == 3
        saver.finish()
    assert names(two) == ["latest", "step-00000200", "step-00000300"]


def test_what_is_not_finite_at_its_step_is_refused_and_later_does_not_matter(
    two: Path, disk: SlowDisk
) -> None:
    dense, shards = dense_of(3), tables_of(3)
    with BackgroundSaver() as saver:
        begin(saver, two, 3, dense=dense, shards=shards)
        dense["parameters"][7] = torch.nan
        shards[0].tensors["weight"][-1, -1] = torch.inf
        disk.go.set()
        saver.finish()
        assert seed_of(load_newest_good(two, RUN)) == 3
        with pytest.raises(DivergedError, match="parameters of step 400"):
            begin(saver, two, 4, dense=dense)
        with pytest.raises(DivergedError, match="C3/weight of step 400"):
            begin(saver, two, 4, shards=shards)
        with pytest.raises(DivergedError, match="state of step 400"):
            begin(saver, two, 4, state={"loss": torch.nan})
    assert seed_of(load_newest_good(two, RUN)) == 3
    assert len(names(two)) == 3


@pytest.mark.parametrize("entry", [0, 1 << 20, (1 << 20) + 1, 3_000_001])
def test_one_entry_of_a_tall_table_is_enough_to_refuse_it(tmp_path: Path, entry: int) -> None:
    weight = torch.zeros(1_000_001, 3)
    weight.view(-1)[entry] = torch.nan
    shard = TableShard(table="C3", first_row=0, table_rows=len(weight), tensors={"weight": weight})
    with BackgroundSaver() as saver, pytest.raises(DivergedError, match="C3/weight"):
        begin(saver, tmp_path, 1, shards=[shard])


def test_the_next_one_waits_for_the_one_before_and_takes_its_memory(two: Path, disk: SlowDisk) -> None:
    with BackgroundSaver() as saver:
        begin(saver, two, 3)
        held = saver.memory.num_bytes()
        threading.Timer(0.1, disk.go.set).start()
        begin(saver, two, 4)
        assert seed_of(load_newest_good(two, RUN)) == 3
        saver.finish()
        assert seed_of(load_newest_good(two, RUN)) == 4
        assert saver.memory.num_bytes() == held > 0


# Faults


def test_leaving_abandons_what_is_not_committed_and_ends_the_thread(two: Path, disk: SlowDisk) -> None:
    before = names(two)
    with no_thread_is_left(), pytest.raises(KeyboardInterrupt), BackgroundSaver() as saver:
        begin(saver, two, 3)
        threading.Timer(0.1, disk.go.set).start()
        raise KeyboardInterrupt
    assert names(two) == before


def test_a_failing_disk_is_reported_at_the_next_step_with_the_path(two: Path, disk: SlowDisk) -> None:
    before = names(two)
    disk.fails = True
    with no_thread_is_left(), BackgroundSaver() as saver:
        begin(saver, two, 3)
        saver.proceed(saver.status())
        disk.go.set()
        assert wait_for(saver) == FAILED
        with pytest.raises(StorageError, match=rf"{two}/step-00000300.*No space left"):
            saver.proceed(FAILED)
    assert names(two) == before
    assert seed_of(load_newest_good(two, RUN)) == 2


def test_a_failing_removal_is_reported(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BackgroundSaver() as saver:
        begin(saver, two, 3)
        assert wait_for(saver) == IDLE
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: disk_full())
        saver.proceed(IDLE)
        assert wait_for(saver) == FAILED
        with pytest.raises(StorageError, match="No space left"):
            saver.proceed(FAILED)
        monkeypatch.undo()
    assert seed_of(load_newest_good(two, RUN)) == 3


@pytest.mark.campaign
def test_a_kill_at_any_operation_leaves_the_old_or_the_new_one(
    light: ProcessPoolExecutor, two: Path, tmp_path: Path
) -> None:
    seeds = light.submit(attacked.killed, attacked.save_in_background, two, tmp_path, 2).result()
    assert seeds == sorted(seeds)
    assert set(seeds) == {2, 3}
    assert len(seeds) > 50


@pytest.mark.slow
def test_a_full_disk_at_any_operation_is_reported_and_harms_no_checkpoint(
    light: ProcessPoolExecutor, two: Path, tmp_path: Path
) -> None:
    assert light.submit(full_disks_survived, attacked.save_in_background, two, tmp_path).result() > 40


@pytest.mark.parametrize(("already", "asked"), [(0, 10), (15, 15)])
def test_its_thread_gives_way_and_never_takes_back(
    monkeypatch: pytest.MonkeyPatch, already: int, asked: int
) -> None:
    niceness = []
    monkeypatch.setattr(background.os, "getpriority", lambda _which, _who: already)
    monkeypatch.setattr(background.os, "setpriority", lambda _which, _who, nice: niceness.append(nice))
    background._give_way()
    assert niceness == [asked]


# Several ranks


def _half(seed: int) -> list[TableShard]:
    """Return this rank's half of the rows of each table that is large enough for both ranks."""
    rank, shards = ranks.rank(), []
    for table in tables_of(seed):
        cut = table.rows // 2
        rows = slice(0, cut) if rank == 0 else slice(cut, None)
        if len(range(table.rows)[rows]):
            tensors = {name: tensor[rows] for name, tensor in table.tensors.items()}
            first = 0 if rank == 0 else cut
            shards.append(
                TableShard(table=table.table, first_row=first, table_rows=table.rows, tensors=tensors)
            )
    return shards


def _save_on_two(folder: Path, fails: bool) -> int:
    try:
        with init_process_group(timeout=60), ranks.one_voice(), BackgroundSaver() as saver:
            if ranks.rank() == 1:
                disk = SlowDisk()
                disk.fails = fails
                writer.write_tensors = disk.write
            begin(saver, folder, 3, shards=_half(3))
            if ranks.rank() == 1:
                threading.Timer(0.3, disk.go.set).start()
            status, waited = BUSY, 0
            while status == BUSY:
                (status,) = ranks.Vote(saver.status()).largest()
                saver.proceed(status)
                assert status != BUSY or seed_of(load_newest_good(folder, RUN)) == 2
                waited += 1
            assert waited > 1
            saver.finish()
            ranks.Vote(0).largest()  # the first rank hosts the store and leaves only after the other is done
    except ProgramError as error:
        print(error)
        return error.exit_code
    return 0


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_it_is_committed_when_both_ranks_have_written_and_fails_on_both(two: Path, fails: bool) -> None:
    processes = worlds.start(2, _save_on_two, two, fails, log=two.parent / "log")
    expected = [74, 74] if fails else [0, 0]
    found = worlds.wait(processes)
    output = "".join(worlds.printed(two.parent / "log", rank) for rank in range(2))
    assert found == expected, output
    assert output.count("No space left") == fails, "one of them tells"
    assert seed_of(load_newest_good(two, RUN)) == (2 if fails else 3)
    assert len(names(two)) == 3
