# pyright: basic
"""Plan the tables. If nothing fits, explain why and suggest changes that would fit.

Each suggestion was itself planned first, so it fits by the estimate that rejected the original request.
"""

import dataclasses
from collections.abc import Callable, Iterator

from torchrec.distributed.types import ShardingPlan

from dlrm_adahessian.embeddings.planning.plan import RESERVED, Plan, PlannedShard
from dlrm_adahessian.embeddings.planning.planner import (
    DoesNotFitError,
    PlanRequest,
    plan,
    planned_shard,
)
from dlrm_adahessian.embeddings.torchrec_kernel import TYPES
from dlrm_adahessian.errors import UsageError

_GIB = 2**30
_MOST_RANKS = 512
_MOST_GIB = 4096


def plan_or_refuse(request: PlanRequest) -> tuple[Plan, ShardingPlan]:
    """Plan the shards; see `planner.plan`.

    Args:
        request: tables, rule, and machines.

    Returns:
        Our plan, and the same plan for TorchRec.

    Raises:
        UsageError: the rule or the ranks do not support the requested sharding of a table, or no plan fits.
    """
    _require_columns(request)
    try:
        return plan(request)
    except DoesNotFitError as error:
        raise UsageError(_refusal(request)) from error


def _require_columns(request: PlanRequest) -> None:
    if request.machines.ranks == 1 or not request.rule.mixes_columns:
        return
    if names := [spec.name for spec in request.tables if spec.sharding == "column"]:
        tables = "all tables" if len(names) == len(request.tables) else ", ".join(names)
        raise UsageError(
            f"Column sharding (of {tables}) needs a row optimizer that updates each entry by itself, but "
            f"{request.rule.cfg.name} keeps a mean over the entries of a row. Use sharding row, or a row optimizer with one "
            "state per entry."
        )


def _refusal(request: PlanRequest) -> str:
    machines = request.machines
    whole = _whole(request)
    weights, state = sum(s.weights for s in whole), sum(s.state for s in whole)
    remedies = [
        found for remedy in (_ranks, _rowwise, _dim, _memory, _batch, _sharding) for found in remedy(request)
    ]
    return (
        f"No plan for {machines.ranks} ranks fits into memory. Each rank has {max(request.shard_bytes, 0) / _GIB:,.1f} of "
        f"{machines.memory_bytes / _GIB:,.1f} GiB for shards. The model needs {weights / _GIB:,.1f} GiB for {len(whole)} "
        f"tables, {state / _GIB:,.1f} GiB for the state of {request.rule.cfg.name}, and activations of a batch of "
        f"{request.batch_size:,}. "
        + (f"Any of these would fit: {'; '.join(remedies)}." if remedies else "Use a smaller model.")
    )


def _whole(request: PlanRequest) -> list[PlannedShard]:
    """Return each table as if one rank held it."""
    return [
        planned_shard(request, spec, TYPES["table"], 0, (0, 0), (spec.num_rows, spec.dim))
        for spec in request.tables
    ]


def _fits(request: PlanRequest) -> bool:
    try:
        plan(request)
    except DoesNotFitError:
        return False
    return True


def _ranks(request: PlanRequest) -> Iterator[str]:
    step = request.machines.ranks_per_host

    def with_hosts(hosts: int) -> PlanRequest:
        return dataclasses.replace(
            request, machines=dataclasses.replace(request.machines, ranks=hosts * step)
        )

    usable = request.machines.memory_bytes * (1 - RESERVED) - request.dense.kept
    if usable <= 0:
        return
    at_least = sum(shard.weights + shard.state for shard in _whole(request)) // (usable * step)
    low = max(request.machines.ranks // step, int(at_least)) + 1
    if hosts := _least(low, _MOST_RANKS // step, lambda hosts: _fits(with_hosts(hosts))):
        yield f"{hosts * step} ranks"


def _rowwise(request: PlanRequest) -> Iterator[str]:
    cfg = request.rule.cfg
    if getattr(cfg, "rowwise", True):
        return
    rule = type(request.rule)(dataclasses.replace(cfg, rowwise=True))  # pyright: ignore[reportCallIssue]
    auto = [
        dataclasses.replace(t, sharding="auto" if t.sharding == "column" else t.sharding)
        for t in request.tables
    ]
    if _fits(dataclasses.replace(request, rule=rule, tables=auto)):
        yield "one state per row instead of per entry (--optim.rows.rowwise)"


def _dim(request: PlanRequest) -> Iterator[str]:
    width = max((table.dim for table in request.tables), default=0)
    dim = width // 2
    while dim >= 4:
        if _fits(
            dataclasses.replace(request, tables=[dataclasses.replace(t, dim=dim) for t in request.tables])
        ):
            yield f"embedding width {dim} instead of {width}"
            return
        dim //= 2


def _memory(request: PlanRequest) -> Iterator[str]:
    held = request.machines.memory_bytes // _GIB

    def with_memory(gib: int) -> PlanRequest:
        machines = dataclasses.replace(request.machines, memory_bytes=gib * _GIB)
        return dataclasses.replace(request, machines=machines)

    if gib := _least(held + 1, _MOST_GIB, lambda gib: _fits(with_memory(gib))):
        yield f"{gib:,} GiB per rank"


def _batch(request: PlanRequest) -> Iterator[str]:
    batch = request.machines.ranks
    if not _fits(dataclasses.replace(request, batch_size=batch)):
        return
    while _fits(dataclasses.replace(request, batch_size=2 * batch)):
        batch *= 2
    yield f"batch size {batch:,}"


def _sharding(request: PlanRequest) -> Iterator[str]:
    auto = [dataclasses.replace(table, sharding="auto") for table in request.tables]
    if auto != list(request.tables) and _fits(dataclasses.replace(request, tables=auto)):
        yield "sharding auto for all tables"


def _least(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """Return the smallest number in low..high that fits, or None. Every number above one that fits must fit too."""
    # Planning for many ranks is slow: increase in doubling steps, then bisect.
    known, step = low, 1
    while known <= high and not fits(known):
        low, known, step = known + 1, known + step, 2 * step
    if known > high:
        return None
    high = known
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low
