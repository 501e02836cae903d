"""Describe a plan: its shards and the memory of each rank, as JSON values and as text for a terminal."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from dlrm_adahessian.runs.sealed import write_json

RESERVED = 0.15
"""Share of a rank's memory kept free for the allocator, CUDA context, and collectives; TorchRec's default."""

_WORDS = {
    "table": "whole",
    "row": "by rows",
    "column": "by columns",
    "replicate": "replicated",
}
_SHOWN = 4  # ranges of ranks


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Describe the ranks of a job, which are all identical.

    Attributes:
        ranks: total number of ranks.
        ranks_per_host: number of ranks that share a host's fast links.
        memory_bytes: memory per rank, of its GPU or its share of the host's.
        device: "cuda" or "cpu".
    """

    ranks: int
    ranks_per_host: int
    memory_bytes: int
    device: str


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """Describe a rectangle of a table on a rank. Memory is in bytes.

    Attributes:
        table: name of the table.
        sharding: "table", "row", "column" or "replicate".
        rank: rank that holds the shard.
        first_row: first table row of the shard.
        rows: number of rows.
        first_column: first table column of the shard.
        columns: number of columns.
        weights: memory of the embeddings; exact.
        state: memory of the row optimizer's state; exact.
        scratch: memory with which the CPU finds the touched rows; exact.
        activations: upper bound for a step in which bags have the table's mean number of rows.
    """

    table: str
    sharding: str
    rank: int
    first_row: int
    rows: int
    first_column: int
    columns: int
    weights: int
    state: int
    scratch: int
    activations: int

    @property
    def total(self) -> int:
        """Total bytes."""
        return self.weights + self.state + self.scratch + self.activations


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Hold a plan that fits into memory.

    Attributes:
        machines: the ranks to plan for.
        batch_size: global batch size.
        dense_bytes: memory of each rank's dense part: MLPs, their optimizer, and their activations.
        shards: ordered by table, then rank.
    """

    machines: Machines
    batch_size: int
    dense_bytes: int
    shards: tuple[PlannedShard, ...]

    @cached_property
    def by_rank(self) -> Mapping[int, list[PlannedShard]]:
        """Shards of every rank; an empty list for a rank without shards."""
        found: dict[int, list[PlannedShard]] = {rank: [] for rank in range(self.machines.ranks)}
        for shard in self.shards:
            found[shard.rank].append(shard)
        return found

    def parts_of(self, rank: int) -> dict[str, int]:
        """Return the bytes of a rank's shards by purpose."""
        parts = ("weights", "state", "scratch", "activations")
        return {part: sum(getattr(shard, part) for shard in self.by_rank[rank]) for part in parts}

    def rank_bytes(self, rank: int) -> int:
        """Return the total bytes of a rank."""
        return self.dense_bytes + sum(shard.total for shard in self.by_rank[rank])

    def asdict(self) -> dict[str, Any]:
        """Return the plan as JSON values, with totals per rank."""
        ranks = [
            {
                "rank": rank,
                "tables": len({shard.table for shard in shards}),
                "shards": len(shards),
                **{f"{part}_bytes": size for part, size in self.parts_of(rank).items()},
                "total_bytes": self.rank_bytes(rank),
            }
            for rank, shards in self.by_rank.items()
        ]
        return {
            "machines": dataclasses.asdict(self.machines),
            "batch_size": self.batch_size,
            "dense_bytes": self.dense_bytes,
            "reserved_share": RESERVED,
            "ranks": ranks,
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
        }


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan as JSON in an atomic operation."""
    write_json(path, plan.asdict())


def plan_text(plan: Plan) -> str:
    """Return two text tables: the placement of each embedding table, if any, and the memory of each rank.

    Args:
        plan: the plan to show.

    Returns:
        Lines of text. Ranks with equal memory share a line.
    """
    machines = plan.machines
    memory = _size(machines.memory_bytes)
    lines = [
        f"{len({shard.table for shard in plan.shards}) or 'no'} tables on {machines.ranks} {machines.device} ranks of "
        f"{memory}, {machines.ranks_per_host} per host, batch size {plan.batch_size:,}"
    ]
    if plan.shards:
        lines += ["", f"{'table':<10}{'rows':>14}  {'sharding':<14}ranks"]
    lines += [_table(list(shards)) for _, shards in groupby(plan.shards, key=lambda shard: shard.table)]
    heads = ("shards", "weights", "state", "scratch", "activations", "dense", "total", "of memory")
    lines += ["", "".join(f"{head:>12}" for head in heads) + "  ranks"]
    alike: dict[tuple[str, ...], list[int]] = {}
    for rank in plan.by_rank:
        alike.setdefault(_rank(plan, rank), []).append(rank)
    lines += ["".join(f"{cell:>12}" for cell in row) + f"  {_ranges(ranks)}" for row, ranks in alike.items()]
    return "\n".join(lines)


def _table(shards: Sequence[PlannedShard]) -> str:
    first = shards[0]
    replicated = first.sharding == "replicate"
    held = [shard for shard in shards if shard.rows]
    rows = sum(s.rows for s in held if s.first_column == first.first_column)
    rows = first.rows if replicated else rows
    ranks = _ranges(sorted({shard.rank for shard in held}))
    return f"{first.table:<10}{rows:>14,}  {_WORDS[first.sharding]:<14}{ranks}"


def _rank(plan: Plan, rank: int) -> tuple[str, ...]:
    shards = plan.by_rank[rank]
    total = plan.rank_bytes(rank)
    return (
        str(sum(shard.rows > 0 for shard in shards)),
        *map(_size, plan.parts_of(rank).values()),
        _size(plan.dense_bytes),
        _size(total),
        f"{total / plan.machines.memory_bytes:.1%}",
    )


def _ranges(ranks: Iterable[int]) -> str:
    """Return ascending numbers as "0-3, 6". A long list is truncated and ends with its length."""
    ranks = list(ranks)
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and runs[-1][-1] == rank - 1:
            runs[-1] = [runs[-1][0], rank]
        else:
            runs.append([rank])
    shown = ", ".join("-".join(map(str, run)) for run in runs[:_SHOWN])
    return shown if len(runs) <= _SHOWN else f"{shown}, ... ({len(ranks)})"


def _size(size: int) -> str:
    """Return bytes in a readable unit."""
    for unit, bytes_ in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= bytes_:
            return f"{size / bytes_:,.1f} {unit}"
    return f"{size} B"
