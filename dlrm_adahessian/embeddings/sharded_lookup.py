# pyright: basic
"""Look up pooled embeddings in sharded tables, send derivatives back to the row owners, and update the rows.

TorchRec plans the shards and moves lookups and embeddings between ranks. Our own exchange sends the derivatives to the
owners of the rows (gradient_exchange.py).

A single process holds all tables and looks up in them directly. TorchRec's distribution would take a third of the time of
a lookup and its update (docs/performance.md).
"""

import logging
from collections.abc import Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.types import ModuleSharder

from dlrm_adahessian.embeddings.config import ExchangePrecision, TableSpec
from dlrm_adahessian.embeddings.gradient_exchange import RowExchange
from dlrm_adahessian.embeddings.local_tables import RowTables
from dlrm_adahessian.embeddings.lookup import Lookup, NoTables
from dlrm_adahessian.embeddings.planning.planner import PlanRequest, bag_collection
from dlrm_adahessian.embeddings.planning.together import plan_together, these_machines
from dlrm_adahessian.embeddings.table_shard import TableShard, fill_uniform_
from dlrm_adahessian.embeddings.torchrec_kernel import LookupsAhead, RowKernel, RowSharder, ShardedRows
from dlrm_adahessian.model.config import NO_DENSE, DenseMemory
from dlrm_adahessian.optim.base import RowRule
from dlrm_adahessian.runs.profile import named

# TorchRec asks torch.fx whether it is being traced, and torch warns about that call once per process.
logging.getLogger("torch.fx._symbolic_trace").addFilter(
    lambda record: "is_fx_tracing" not in record.getMessage()
)
# TorchRec logs its planning at level INFO, and the arguments of its calls to seven loggers outside its namespace.
logging.getLogger("torchrec").setLevel(logging.WARNING)
# TorchRec warns that replicated tables are not cached.
logging.getLogger("torchrec.distributed.utils").setLevel(logging.ERROR)
for _name in ("AllRankStatic", "Cap01", "Cap1", "Capped", "Method", "SingleRankStatic", "Unfiltered"):
    logging.getLogger(f"{_name}Logger-NullHandler").setLevel(logging.WARNING)


class ShardedLookup(Lookup):
    """Look up pooled embeddings in tables that are sharded across ranks. Requires a process group."""

    def __init__(
        self,
        tables: Sequence[TableSpec],
        *,
        rule: RowRule,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        batch_size: int = 256,
        dense: DenseMemory = NO_DENSE,
        memory_bytes: int | None = None,
        exchange: ExchangePrecision = "fp32",
    ) -> None:
        """Plan, allocate, and initialize the tables. Initial values do not depend on the sharding.

        Raises a UsageError if the tables do not fit into the memory of the ranks, or cannot be sharded as requested.

        Args:
            tables: at least one table, in the order of the features of a lookup.
            rule: row optimizer.
            device: device of this rank's rows.
            dtype: dtype of rows, optimizer state, and pooled embeddings.
            seed: random seed of the initial values, at least 0.
            batch_size: global batch size to plan memory for.
            dense: memory of a rank's dense part.
            memory_bytes: memory per rank; None detects it.
            exchange: bf16 rounds what ranks send to each other, and requires `dtype` float32.

        Raises:
            ValueError: there is no table, the tables differ in width, or two have the same name.
        """
        self._specs = list(tables)
        names = [spec.name for spec in self._specs]
        dims = {spec.dim for spec in self._specs}
        if not dims:
            raise ValueError(
                "ShardedLookup requires at least one table. Use NoTables for a model without tables."
            )
        if len(dims) != 1:
            raise ValueError(
                f"All tables must have the same width, got widths {sorted(dims)}. Choose one width."
            )
        if len(set(names)) < len(names):
            raise ValueError(f"Table names must be distinct, got {names}. Rename the duplicates.")
        self._dim = dims.pop()
        plan, sharding_plan = plan_together(
            PlanRequest(
                tables=self._specs,
                rule=rule,
                machines=these_machines(device, memory_bytes),
                batch_size=batch_size,
                dense=dense,
                dtype=dtype,
            )
        )
        super().__init__(names, plan)
        sharder = cast(ModuleSharder[nn.Module], RowSharder(rule, dtype, exchange, device.type))  # invariant
        self._parallel = DistributedModelParallel(
            bag_collection(self._specs),
            device=device,
            sharders=[sharder],
            plan=sharding_plan,
            init_data_parallel=False,
        )
        self._alone = self._only_tables()
        self._exchange = (
            None
            if self._alone is not None
            else self._make_exchange(device, torch.bfloat16 if exchange == "bf16" else dtype)
        )
        self._ahead = LookupsAhead(self._rows())
        self._pending: Tensor | None = None  # result of the last lookup with gradients enabled
        self._shards = self._local_shards()
        specs = {spec.name: (index, spec) for index, spec in enumerate(self._specs)}
        for shard in self._shards.values():
            index, spec = specs[shard.table]
            fill_uniform_(
                shard.tensors["weight"],
                first_row=shard.first_row,
                first_column=shard.first_column,
                num_rows=shard.table_rows,
                dim=self._dim,
                seed=seed,
                table=index,
                bound=spec.initial_bound,
            )

    def send(self, kjt: KeyedJaggedTensor) -> None:
        """Start sending the next batch's lookups if other ranks hold rows; see `Lookup`."""
        self._require_order(kjt)
        if self._alone is None:
            self._ahead.send(kjt)

    def __call__(self, kjt: KeyedJaggedTensor) -> Tensor:
        """Return the pooled embeddings; see `Lookup`."""
        self._require_order(kjt)
        pooled = self._look_up(kjt)
        if torch.is_grad_enabled():
            self._pending = pooled
        return pooled

    def _look_up(self, kjt: KeyedJaggedTensor) -> Tensor:
        if self._alone is not None:
            pooled = self._alone(kjt.values(), kjt.offsets().long(), kjt.weights_or_none())
            return pooled.view(-1, len(self._names), self._dim)
        keyed = self._ahead.look_up(kjt)
        pooled = keyed.values().view(-1, len(self._names), self._dim)
        emitted = keyed.keys()
        if emitted == self._names:
            return pooled
        return torch.stack([pooled[:, emitted.index(name)] for name in self._names], dim=1)

    def push(
        self,
        pooled: Tensor,
        grad: Tensor,
        curvature: Tensor | None,
        *,
        lr_scale: float,
        samples: float,
        curvature_samples: int | None = None,
        weights: Tensor | None = None,
        l2: float = 0.0,
    ) -> None:
        """Send derivatives to the ranks that own the rows, and update the rows; see `Lookup`.

        Raises:
            RuntimeError: `pooled` is not from the last lookup with gradients enabled. No row changes.
        """
        if pooled is not self._pending:
            raise RuntimeError(
                "These derivatives do not belong to the last lookup with gradients enabled. Push the derivatives of each "
                "lookup before the next lookup."
            )
        self._pending = None
        self._ahead.advance()
        if self._exchange is None:
            derivatives = [(grad.reshape(-1, self._dim), _flat(curvature))]
        else:
            with named("exchange"):
                derivatives = self._exchange(grad, curvature)
        sampled = None
        if curvature is not None and curvature_samples is not None:
            held = len(pooled) * dist.get_world_size()
            sampled = torch.arange(held, device=pooled.device) < curvature_samples
        # The owner of a shard sees the batches of all ranks in order. A replica sees only its own.
        own = slice(dist.get_rank() * len(pooled), (dist.get_rank() + 1) * len(pooled))
        for tables, (row_grad, row_curvature) in zip(self._row_tables(), derivatives, strict=True):
            tables.apply_(
                row_grad,
                row_curvature,
                sampled=sampled if tables.sees_all_ranks or sampled is None else sampled[own],
                lr_scale=lr_scale,
                samples=samples,
                weights=weights if tables.sees_all_ranks or weights is None else weights[own],
                l2=l2,
            )

    def shards(self) -> dict[str, TableShard]:
        """Return the shards of this rank; see `Lookup`."""
        return self._shards

    def _make_exchange(self, device: torch.device, travel_as: torch.dtype) -> RowExchange:
        places = {name: place for place, name in enumerate(self._names)}
        groups = [kernel.group(places) for kernel in self._kernels()]
        return RowExchange(groups, self._dim, device, travel_as)

    def _only_tables(self) -> RowTables | None:
        """Return all tables in order if this is the only process, else None."""
        kernels = self._kernels()
        if dist.get_world_size() > 1 or [kernel.config.feature_names() for kernel in kernels] != [
            self._names
        ]:
            return None
        return kernels[0].emb_module

    def _row_tables(self) -> list[RowTables]:
        return [kernel.emb_module for kernel in self._kernels()]

    def _kernels(self) -> list[RowKernel]:
        return list(self._rows().kernels())

    def _rows(self) -> ShardedRows:
        return cast(ShardedRows, self._parallel.module)

    def _local_shards(self) -> dict[str, TableShard]:
        num_rows = {spec.name: spec.num_rows for spec in self._specs}
        held = [shard for kernel in self._kernels() for shard in kernel.shards(num_rows)]
        held.sort(key=lambda shard: (self._names.index(shard.table), shard.first_column))
        return {self._name(shard): shard for shard in held}

    def _name(self, shard: TableShard) -> str:
        return shard.table if shard.is_whole else f"{shard.table}[:, {shard.first_column}:]"


def _flat(derivative: Tensor | None) -> Tensor | None:
    return None if derivative is None else derivative.reshape(-1, derivative.shape[2])


def new_lookup(
    tables: Sequence[TableSpec],
    *,
    dim: int,
    rule: RowRule,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    batch_size: int,
    dense: DenseMemory,
    memory_bytes: int | None,
    exchange: ExchangePrecision,
) -> Lookup:
    """Return the lookup of a model with any number of tables. Takes the arguments of `ShardedLookup`, and D."""
    if tables:
        return ShardedLookup(
            tables,
            rule=rule,
            device=device,
            dtype=dtype,
            seed=seed,
            batch_size=batch_size,
            dense=dense,
            memory_bytes=memory_bytes,
            exchange=exchange,
        )
    request = PlanRequest(
        tables=[],
        rule=rule,
        machines=these_machines(device, memory_bytes),
        batch_size=batch_size,
        dense=dense,
        dtype=dtype,
    )
    return NoTables(plan_together(request)[0], dim, device=device, dtype=dtype)
