"""A plan as text for a terminal."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from dlrm_adahessian.embeddings.planning.plan import Plan, PlannedShard

_WORDS = {
    "table": "whole",
    "row": "rows cut",
    "column": "columns cut",
    "replicate": "a copy each",
}
_SHOWN = 4  # runs of ranks


def plan_text(plan: Plan) -> str:
    """Return two tables: where each table lies, and what each rank needs.

    Args:
        plan: to show.

    Returns:
        Lines; ranks that need the same share one.
    """
    machines = plan.machines
    memory = _size(machines.memory_bytes)
    lines = [
        f"{len({shard.table for shard in plan.shards})} tables on {machines.ranks} {machines.device} ranks of "
        f"{memory}, {machines.ranks_per_host} a host, batch {plan.batch_size:,}",
        "",
        f"{'table':<10}{'rows':>14}  {'kept as':<14}on ranks",
    ]
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
