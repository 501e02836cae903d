"""Who holds what: the shards of a plan, and what each rank needs in memory."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dlrm_adahessian.runs.sealed import write_json

RESERVED = 0.15
"""Share of a rank's memory that no plan fills, TorchRec's own default: allocator, CUDA context, collectives."""


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
        activations: at most, in a step in which every bag has one row.
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
