# pyright: basic
"""Plan the placement of tables with TorchRec's planner and the memory that our tables and row rules need.

The planner estimates time with its own model and rejects plans that do not fit. Its storage estimate covers FBGEMM's
optimizers; `RowStorage` replaces it. The row rule itself reports the memory of a row and whether columns can be split, so
no table of sizes is maintained by hand.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.constants import DEFAULT_PERF_ESTIMATOR
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.estimator import EmbeddingPerfEstimatorFactory
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    KernelConfig,
    PlannerError,
    ShardEstimator,
    ShardingOption,
    Storage,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import ModuleSharder, ShardingPlan

from dlrm_adahessian.embeddings.config import TableSpec
from dlrm_adahessian.embeddings.planning.plan import RESERVED, Machines, Plan, PlannedShard
from dlrm_adahessian.embeddings.torchrec_kernel import TYPES, RowSharder
from dlrm_adahessian.model.config import NO_DENSE, DenseMemory
from dlrm_adahessian.optim.base import RowRule

_KINDS = {name: kind for kind, name in TYPES.items()}
_LINE = 16  # float32 numbers in a cache line; narrower column shards would read partial lines
_ID = 8  # bytes of a row number
_SLOT = 4  # bytes per row of the int32 scratch with which the CPU finds the touched rows


class DoesNotFitError(Exception):
    """No plan fits into the memory of the ranks."""


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """Hold the inputs of a plan.

    Attributes:
        tables: in the order of the features of a lookup; may be empty.
        rule: row optimizer.
        machines: the ranks.
        batch_size: global batch size.
        dense: memory of each rank's dense part.
        dtype: dtype of rows, optimizer state, and pooled embeddings.
    """

    tables: Sequence[TableSpec]
    rule: RowRule
    machines: Machines
    batch_size: int
    dense: DenseMemory = NO_DENSE
    dtype: torch.dtype = torch.float32

    @property
    def local_batch(self) -> int:
        """Maximum samples per step on one rank."""
        return -(-self.batch_size // self.machines.ranks)

    @property
    def dense_bytes(self) -> int:
        """Bytes of a rank's dense part."""
        return self.dense.kept + self.dense.per_sample * self.local_batch

    @property
    def shard_bytes(self) -> float:
        """Bytes per rank available to shards; negative if the dense part alone does not fit."""
        return self.machines.memory_bytes * (1 - RESERVED) - self.dense_bytes


def plan(request: PlanRequest) -> tuple[Plan, ShardingPlan]:
    """Plan the shards. Deterministic; needs no process group and no GPU.

    Args:
        request: tables, rule, and machines.

    Returns:
        Our plan, and the same plan for TorchRec.

    Raises:
        DoesNotFitError: no plan fits. The error has no message; `remedies.plan_or_refuse` adds one.
    """
    if not request.tables:
        return _plan_without_tables(request)
    machines = request.machines
    bags = bag_collection(request.tables)
    specs = {spec.name: spec for spec in request.tables}
    topology = _topology(machines)
    constraints = {spec.name: _constraints(spec, request) for spec in request.tables}
    enumerator = _StableEnumerator(
        topology=topology,
        batch_size=request.local_batch,
        constraints=constraints,
        estimator=[
            EmbeddingPerfEstimatorFactory.create(
                DEFAULT_PERF_ESTIMATOR, topology=topology, constraints=constraints
            ),
            RowStorage(request),
        ],
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=request.local_batch,
        enumerator=enumerator,
        constraints=constraints,
        storage_reservation=_Reservation(request.dense_bytes),
        stats=[],
        debug=False,
    )
    sharder = cast(ModuleSharder[nn.Module], RowSharder(request.rule, request.dtype))
    try:
        found = planner.plan(bags, [sharder])
    except PlannerError as error:
        raise DoesNotFitError from error
    shards = [
        planned_shard(
            request, specs[option.name], option.sharding_type, cast(int, shard.rank), shard.offset, shard.size
        )
        for option in cast(list[ShardingOption], planner._best_plan)
        for shard in option.shards
    ]
    order = {spec.name: place for place, spec in enumerate(request.tables)}
    shards.sort(key=lambda shard: (order[shard.table], shard.rank, shard.first_column))
    return _plan_of(request, shards), found


def _plan_without_tables(request: PlanRequest) -> tuple[Plan, ShardingPlan]:
    if request.shard_bytes < 0:
        raise DoesNotFitError
    return _plan_of(request, []), ShardingPlan({})


def _plan_of(request: PlanRequest, shards: Sequence[PlannedShard]) -> Plan:
    return Plan(
        machines=request.machines,
        batch_size=request.batch_size,
        dense_bytes=request.dense_bytes,
        shards=tuple(shards),
    )


def bag_collection(tables: Sequence[TableSpec]) -> EmbeddingBagCollection:
    """Return the tables as a TorchRec module on the meta device, which allocates no memory."""
    return EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            EmbeddingBagConfig(
                name=spec.name,
                embedding_dim=spec.dim,
                num_embeddings=spec.num_rows,
                feature_names=[spec.name],
            )
            for spec in tables
        ],
    )


def planned_shard(
    request: PlanRequest,
    table: TableSpec,
    sharding_type: str,
    rank: int,
    offset: Sequence[int],
    size: Sequence[int],
) -> PlannedShard:
    """Return a shard with the memory that it needs.

    Args:
        request: rule, batch size, and machines.
        table: the table that the shard belongs to.
        sharding_type: TorchRec's name for the kind of sharding.
        rank: rank that holds the shard.
        offset: first row and first column.
        size: number of rows and columns.

    Returns:
        The shard. If bags have the table's mean number of rows, its activations are an upper bound, reached when this rank
        owns the rows of all lookups. They include row and bag numbers, the pooled embeddings, the gradient and curvature
        at them, and both summed over the hits of each row.
    """
    rows, columns = size
    each = _row_bytes(request.rule, columns, request.dtype)
    replicated = sharding_type == TYPES["replicate"]
    bags = request.local_batch if replicated else request.batch_size
    lookups = math.ceil(bags * table.values_per_bag)
    touched = min(lookups, rows)
    return PlannedShard(
        table=table.name,
        sharding=_KINDS[sharding_type],
        rank=rank,
        first_row=offset[0],
        rows=rows,
        first_column=offset[1],
        columns=columns,
        weights=rows * each.weight,
        state=rows * each.state,
        scratch=rows * _SLOT if request.machines.device == "cpu" else 0,
        activations=0 if rows == 0 else 4 * _ID * lookups + each.weight * (3 * bags + 2 * touched),
    )


@dataclass(frozen=True, kw_only=True)
class _RowBytes:
    """Exact bytes of one row.

    Attributes:
        weight: bytes of the embedding.
        state: bytes of the optimizer state.
    """

    weight: int
    state: int


def _row_bytes(rule: RowRule, columns: int, dtype: torch.dtype) -> _RowBytes:
    """Return the bytes of a row of `columns` columns under a rule."""
    row = torch.empty(1, columns, dtype=dtype, device="meta")
    return _RowBytes(weight=row.nbytes, state=sum(tensor.nbytes for tensor in rule.new_state(row).values()))


class RowStorage(ShardEstimator):
    """Estimate the memory of our shards, in place of TorchRec's estimate for FBGEMM's optimizers."""

    def __init__(self, request: PlanRequest) -> None:
        self._request = request
        self._specs = {spec.name: spec for spec in request.tables}

    def estimate(self, sharding_options: list[ShardingOption], sharder_data_map: object) -> None:
        """Fill in the storage of each shard."""
        del sharder_data_map
        for option in sharding_options:
            for shard in option.shards:
                need = planned_shard(
                    self._request, self._specs[option.name], option.sharding_type, 0, shard.offset, shard.size
                ).total
                on_gpu = self._request.machines.device == "cuda"
                shard.storage = Storage(hbm=need if on_gpu else 0, ddr=0 if on_gpu else need)


class _StableEnumerator(EmbeddingEnumerator):
    """Break ties in favor of the simplest sharding. TorchRec iterates over a set, so its order varies by process."""

    def _filter_sharding_types(self, *args: object, **kwargs: object) -> list[str]:
        allowed = super()._filter_sharding_types(*args, **kwargs)  # pyright: ignore
        return [kind for kind in TYPES.values() if kind in allowed]


class _Reservation(FixedPercentageStorageReservation):
    """Reserve a share of the memory, and the memory of a rank's dense part."""

    def __init__(self, dense_bytes: int) -> None:
        super().__init__(RESERVED)
        self._dense_bytes = dense_bytes

    def reserve(self, topology: Topology, *args: object, **kwargs: object) -> Topology:
        reserved = super().reserve(topology, *args, **kwargs)  # pyright: ignore
        on_gpu = topology.compute_device == "cuda"
        dense = Storage(hbm=self._dense_bytes if on_gpu else 0, ddr=0 if on_gpu else self._dense_bytes)
        for device in reserved.devices:
            device.storage -= dense
        return reserved


def _constraints(spec: TableSpec, request: PlanRequest) -> ParameterConstraints:
    """Return the planner's constraints for a table."""
    ranks = request.machines.ranks
    if ranks == 1:
        kinds = ["table"]
    elif spec.sharding != "auto":
        kinds = [spec.sharding]
    else:
        kinds = [kind for kind in TYPES if kind != "column" or not request.rule.mixes_columns]
    widest = max(min(_LINE, spec.dim // 2), -(-spec.dim // ranks), 1)
    return ParameterConstraints(
        sharding_types=[TYPES[kind] for kind in kinds],
        min_partition=widest,
        pooling_factors=[spec.values_per_bag],
    )


def _topology(machines: Machines) -> Topology:
    on_gpu = machines.device == "cuda"
    return TopologyFactory.create_topology(
        TrainerConfig(
            world_size=machines.ranks,
            local_world_size=machines.ranks_per_host,
            ddr_cap_bytes=0 if on_gpu else machines.memory_bytes,
            hbm_cap_bytes=machines.memory_bytes if on_gpu else None,
        ),
        kernel_config=KernelConfig(compute_device=machines.device),
    )
