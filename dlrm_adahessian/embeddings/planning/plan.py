"""Who holds what: the shards of a plan, and what each rank needs in memory; as JSON values, and as text for a terminal."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from dlrm_adahessian.runs.sealed import write_json

RESERVED = 0.15
"""Share of a rank's memory that no plan fills, TorchRec's own default: allocator, CUDA context, collectives."""

_WORDS = {
    "table": "whole",
    "row": "rows cut",
    "column": "columns cut",
    "replicate": "a copy each",
}
_SHOWN = 4  # runs of ranks


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The ranks of a job, all alike.

    Attributes:
        ranks: in all.
        ranks_per_host: that share a host's fast links.
        memory_bytes: of a rank: of its GPU, or its share of the host's.
        device: "cuda" or "cpu".
    """

    ranks: int
    ranks_per_host: int
    memory_bytes: int
    device: str


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """A rectangle of a table on a rank; sizes in bytes.

    Attributes:
        table: its name.
        sharding: "table", "row", "column" or "replicate".
        rank: that holds it.
        first_row: of the rectangle.
        rows: how many.
        first_column: of the rectangle.
        columns: how many.
        weights: of the embeddings; exact.
        state: of the row rule; exact.
        scratch: of the CPU's row finder; exact.
        activations: at most, in a step in which bags have the table's mean number of rows.
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
        """Bytes in all."""
        return self.weights + self.state + self.scratch + self.activations


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan that fits.

    Attributes:
        machines: for which it is.
        batch_size: samples a step, over all ranks.
        dense_bytes: what each rank needs beside its shards: MLPs, their optimizer, their activations.
        shards: ordered by table, then rank.
    """

    machines: Machines
    batch_size: int
    dense_bytes: int
    shards: tuple[PlannedShard, ...]

    @cached_property
    def by_rank(self) -> Mapping[int, list[PlannedShard]]:
        """The shards of every rank; an empty list for one that holds none."""
        found: dict[int, list[PlannedShard]] = {rank: [] for rank in range(self.machines.ranks)}
        for shard in self.shards:
            found[shard.rank].append(shard)
        return found

    def parts_of(self, rank: int) -> dict[str, int]:
        """Return what a rank's shards need, by what it is for."""
        parts = ("weights", "state", "scratch", "activations")
        return {part: sum(getattr(shard, part) for shard in self.by_rank[rank]) for part in parts}

    def rank_bytes(self, rank: int) -> int:
        """Return what a rank needs in all."""
        return self.dense_bytes + sum(shard.total for shard in self.by_rank[rank])

    def asdict(self) -> dict[str, Any]:
        """Return the plan as JSON values; what is reported per rank is summed up too."""
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
    """Write a plan as JSON, atomically."""
    write_json(path, plan.asdict())


def plan_text(plan: Plan) -> str:
    """Return two tables: where each table lies, if there are any, and what each rank needs.

    Args:
        plan: to show.

    Returns:
        Lines; ranks that need the same share one.
    """
    machines = plan.machines
    memory = _size(machines.memory_bytes)
    lines = [
        f"{len({shard.table for shard in plan.shards}) or 'no'} tables on {machines.ranks} {machines.device} ranks of "
        f"{memory}, {machines.ranks_per_host} a host, batch {plan.batch_size:,}"
    ]
    if plan.shards:
        lines += ["", f"{'table':<10}{'rows':>14}  {'kept as':<14}on ranks"]
    lines += [_table(list(shards)) for _, shards in groupby(plan.shards, key=lambda shard: shard.table)]
    heads = ("shards", "weights", "state", "scratch", "activations", "dense", "total", "of memory")
    lines += ["", "".join(f"{head:>12}" for head in heads) + "  on each of ranks"]
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
    """Return ascending numbers as "0-3, 6"; many are cut short and counted."""
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
    """Return bytes in the unit that suits them."""
    for unit, bytes_ in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= bytes_:
            return f"{size / bytes_:,.1f} {unit}"
    return f"{size} B"
