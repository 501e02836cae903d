"""Run saves that are killed or fail at each file operation.

They run in a process that has imported only the code that writes checkpoints (`light` in conftest.py), which forks four
times as fast as a process that has run other tests.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from dlrm_adahessian.checkpoint.background import BackgroundSaver
from dlrm_adahessian.checkpoint.reader import load_newest_good
from dlrm_adahessian.checkpoint.writer import Contents, save
from dlrm_adahessian.embeddings.table_shard import TableShard
from tests.checkpoints import RUN, assert_all_whole, contents_of, copies_of, names, save_seed, seed_of
from tests.faults import Outcome, each_operation, kill


def save_in_background(folder: Path, seed: int, keep: int = 2) -> None:
    """Save contents generated from `seed` in a thread, as step 100 * seed."""
    with BackgroundSaver() as saver:
        saver.begin(folder, contents_of(seed), step=100 * seed, fingerprint=RUN, keep=keep)
        saver.finish()


def killed(save: Callable[..., object], two: Path, root: Path, keep: int) -> list[int]:
    """Save seed 3 next to seeds 1 and 2, killed at each operation; return the seed of the newest valid checkpoint."""
    seeds: list[int] = []
    for folder, outcome in each_operation(
        lambda folder: save(folder, 3, keep=keep), kill, copies_of(two, root)
    ):
        assert outcome is Outcome.KILLED
        seeds.append(seed_of(load_newest_good(folder, RUN)))
        assert_all_whole(folder)
        save(folder, 4, keep=keep)
        assert len(names(folder)) == keep + 1, "the next save cleans up"
        shutil.rmtree(folder)
    return seeds


def killed_again(only: Path, root: Path) -> list[int]:
    """Save seed 2 under the step of seed 1, killed at each operation; return the seed of the newest valid checkpoint."""
    return [
        seed_of(load_newest_good(folder, RUN))
        for folder, _ in each_operation(
            lambda folder: save_seed(folder, 2, step=100, keep=1), kill, copies_of(only, root)
        )
    ]


def memory_of_a_large_save(folder: Path) -> float:
    """Return how much saving a table of 200 MiB raises the peak memory, as a share of the table."""
    weight = torch.full((50 * 1024, 1024), 1.0)
    table = TableShard(table="large", first_row=0, table_rows=len(weight), tensors={"weight": weight})
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to the current use
    before = _peak()
    save(folder, Contents(dense={}, shards=[table], state={}), step=1, fingerprint="")
    return (_peak() - before) / weight.nbytes


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
