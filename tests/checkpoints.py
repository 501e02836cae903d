"""Create small checkpoints from a seed, and verify which seed a checkpoint contains."""

import itertools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from dlrm_adahessian.checkpoint.reader import Checkpoint, load, load_newest_good
from dlrm_adahessian.checkpoint.writer import Contents, save
from dlrm_adahessian.embeddings.table_shard import TableShard
from dlrm_adahessian.runs.sealed import fingerprint
from tests.faults import Outcome, disk_full, each_operation

RUN = fingerprint({"lr": 0.1})
STATE = {"loader": {"position": 12345}, "lr": 0.1, "big": 2**60, "text": "ü", "none": None}


def dense_of(seed: int) -> dict[str, Tensor]:
    """Return tensors of every dtype, with unusual shapes and values."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(50, generator=generator)
    return {
        "parameters": flat,
        "view": flat[3:20],  # shares the storage of `parameters`
        "strided": torch.randn(4, 6, generator=generator).T,
        "bfloat16": torch.randn(3, 5, generator=generator).bfloat16(),
        "half": torch.randn(7, generator=generator).half(),
        "double": torch.randn(2, generator=generator, dtype=torch.float64),
        "step": torch.tensor(seed * 2**40),
        "scalar": torch.tensor(0.1),
        "flags": torch.tensor([True, False, True]),
        "rng/probes": generator.get_state(),
        "int32": torch.arange(5, dtype=torch.int32),
        "uint32": torch.tensor([0, 2**32 - 1], dtype=torch.uint32),
        "int16": torch.arange(3, dtype=torch.int16),
        "int8": torch.tensor([-128, 127], dtype=torch.int8),
        "subnormal, minus zero": torch.tensor([1e-45, -0.0, 3.4028235e38]),
        "empty": torch.empty(0, 4),
    }


def table_of(seed: int, name: str, rows: int, dim: int = 4) -> TableShard:
    """Return a complete table with row states of two kinds."""
    generator = torch.Generator().manual_seed(1000 * seed + rows)
    tensors = {
        "weight": torch.randn(rows, dim, generator=generator),
        "state/sum": torch.rand(rows, generator=generator),
        "state/count": torch.randint(0, 1 << 40, (rows,), generator=generator),
    }
    return TableShard(table=name, first_row=0, table_rows=rows, tensors=tensors)


def tables_of(seed: int) -> list[TableShard]:
    """Return three tables: one has a single row, and one has a name that is not a valid file name."""
    return [table_of(seed, "C3", 11), table_of(seed, "C1", 1), table_of(seed, "a table/../x", 7, 2)]


def part(table: TableShard, first: int, last: int) -> TableShard:
    """Return rows `first` to `last` (excluded) of a table."""
    tensors = {name: tensor[first:last] for name, tensor in table.tensors.items()}
    return TableShard(table=table.table, first_row=first, table_rows=table.table_rows, tensors=tensors)


def blank(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of ones to restore into."""
    return {name: torch.ones_like(tensor) for name, tensor in tensors.items()}


def blank_shard(shard: TableShard) -> TableShard:
    """Return a shard of ones to restore into."""
    tensors = blank(shard.tensors)
    return TableShard(
        table=shard.table, first_row=shard.first_row, table_rows=shard.table_rows, tensors=tensors
    )


def contents_of(seed: int, **changes: object) -> Contents:
    """Return the checkpoint contents that `seed` generates, with `changes` to its parts."""
    parts = {"dense": dense_of(seed), "shards": tables_of(seed), "state": {**STATE, "seed": seed}}
    return Contents(**{**parts, **changes})


def save_seed(folder: Path, seed: int, **options: int) -> Path:
    """Save the contents that `seed` generates, as step 100 * seed unless `options` say otherwise."""
    settings = {"step": 100 * seed, **options}
    return save(folder, contents_of(seed), fingerprint=RUN, **settings)


def save_only(folder: Path, step: int = 1, **parts: object) -> Path:
    """Save only the given parts."""
    contents = Contents(**{"dense": {}, "shards": [], "state": {}, **parts})
    return save(folder, contents, step=step, fingerprint=RUN)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same dtype, shape and bytes."""

    def raw(tensor: Tensor) -> Tensor:
        return tensor.contiguous().reshape(-1).view(torch.uint8)

    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(raw(a), raw(b))


def seed_of(checkpoint: Checkpoint | None) -> int:
    """Return the seed whose contents the checkpoint has, after comparing every bit with them."""
    assert checkpoint is not None
    seed = checkpoint.state["seed"]
    dense, tables = dense_of(seed), tables_of(seed)
    restored, shards = blank(dense), [blank_shard(table) for table in tables]
    checkpoint.restore_(restored, shards)
    assert checkpoint.state == {**STATE, "seed": seed}
    for name, tensor in dense.items():
        assert same_bits(restored[name], tensor), name
    for table, shard in zip(tables, shards, strict=True):
        for name, tensor in table.tensors.items():
            assert same_bits(shard.tensors[name], tensor), (table.table, name)
    return seed


def copies_of(template: Path, root: Path) -> Callable[[], Path]:
    """Return a function that copies `template` to a new folder under `root`."""
    numbers = itertools.count()
    return lambda: Path(shutil.copytree(template, root / f"copy-{next(numbers)}"))


def names(folder: Path) -> list[str]:
    """Return the sorted names in a folder."""
    return sorted(path.name for path in folder.iterdir())


def assert_all_whole(folder: Path) -> None:
    """Verify that everything under a checkpoint's name is complete."""
    for path in folder.glob("step-*"):
        found = load(path, RUN)
        assert seed_of(found) == found.step // 100


def full_disks_survived(save_of: Callable[[Path, int], object], two: Path, root: Path) -> int:
    """Save seed 3 next to seeds 1 and 2, with a full disk at each operation. Return how often the error was reported.

    No checkpoint may be damaged, and what was reported as saved must exist.
    """
    outcomes = []
    for folder, outcome in each_operation(lambda path: save_of(path, 3), disk_full, copies_of(two, root)):
        outcomes.append(outcome)
        assert seed_of(load_newest_good(folder, RUN)) in ({3} if outcome is Outcome.SURVIVED else {2, 3})
        assert_all_whole(folder)
        shutil.rmtree(folder)
    assert Outcome.KILLED not in outcomes
    return outcomes.count(Outcome.REPORTED)
