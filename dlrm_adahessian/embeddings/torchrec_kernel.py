# pyright: basic
"""Run TorchRec's sharded embedding bags with `RowTables` in place of FBGEMM's table-batched module.

Planner, input distribution, and output distribution remain TorchRec's. Its classes from sharder to local kernel have no
hook for another kernel (the planner rejects `CUSTOMIZED_KERNEL`). We therefore subclass each of them and override the one
method that creates the next. The plan calls the kernel `fused`, or `dense` for replicated tables.

We do not use TorchRec's state dicts. `RowTables` gives access to rows and their state, and checkpoints store them by row
range. TorchRec's wrapper of the weights does not support float64, and that of the optimizer breaks on row-wise shards of
one row. Third-party models do have state dicts (row_rules.py).

`LookupsAhead` sends the next batch's lookups to the ranks that hold its rows while this batch is processed. TorchRec's
TrainPipelineSparseDist does the same, but treats forward and backward as one call of a model. Lookups can be sent early
because the rows of a batch do not depend on training. Ranks exchange the counts first, then the row numbers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import cast

import torch
import torch.distributed as dist
from torch import nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor
from torchrec.distributed.batched_embedding_kernel import BaseBatchedEmbeddingBag
from torchrec.distributed.embedding_lookup import GroupedPooledEmbeddingsLookup
from torchrec.distributed.embedding_types import EmbeddingComputeKernel, GroupedEmbeddingConfig, KJTList
from torchrec.distributed.embeddingbag import (
    EmbeddingBagCollectionContext,
    EmbeddingBagCollectionSharder,
    ShardedEmbeddingBagCollection,
)
from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs_registry
from torchrec.distributed.sharding.dp_sharding import DpPooledEmbeddingSharding
from torchrec.distributed.sharding.tw_sharding import TwPooledEmbeddingSharding
from torchrec.distributed.types import (
    Awaitable,
    ParameterSharding,
    QuantizedCommCodecs,
    ShardingEnv,
    ShardingType,
)

from dlrm_adahessian.embeddings.config import ExchangePrecision
from dlrm_adahessian.embeddings.gradient_exchange import TableGroup
from dlrm_adahessian.embeddings.local_tables import ReplicatedRows, RowTables
from dlrm_adahessian.embeddings.table_shard import TableShard
from dlrm_adahessian.optim.base import RowRule

TYPES = {
    "table": ShardingType.TABLE_WISE.value,
    "row": ShardingType.ROW_WISE.value,
    "column": ShardingType.COLUMN_WISE.value,
    "replicate": ShardingType.DATA_PARALLEL.value,
}
"""TorchRec's name for each kind of sharding."""


class RowKernel(BaseBatchedEmbeddingBag[torch.Tensor]):
    """Wrap a group of local tables as a TorchRec kernel."""

    def __init__(
        self,
        config: GroupedEmbeddingConfig,
        pg: dist.ProcessGroup | None,
        device: torch.device | None,
        *,
        rule: RowRule,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(config, pg, device)
        kind = ReplicatedRows if config.compute_kernel == EmbeddingComputeKernel.DENSE else RowTables
        self._tables = kind(
            self._local_rows,
            self._local_cols[0],  # the same for all, see _of_one_width
            self._feature_table_map,
            rule=rule,
            device=torch.device("cpu") if device is None else device,
            dtype=dtype,
        )

    @property
    def emb_module(self) -> RowTables:
        """The local tables, under TorchRec's name for them."""
        return self._tables

    def group(self, places: Mapping[str, int]) -> TableGroup:
        """Return the `TableGroup` of these tables; `places` maps each feature to its index in a lookup."""
        return TableGroup(
            features=[places[name] for name in self.config.feature_names()],
            first_columns=[self._col_offset[table] or 0 for table in self._feature_table_map],
            columns=self._local_cols[0],
            is_replicated=not self._tables.sees_all_ranks,
        )

    def named_parameters_by_table(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the rows of each table as views. Adjacent column shards of a table form one view."""
        of_tables = zip(self.config.table_names(), self._local_rows, strict=True)
        first = 0
        for name, shards in groupby(of_tables, key=lambda shard: shard[0]):
            rows = sum(rows for _, rows in shards)
            yield name, nn.Parameter(self._tables.weight[first : first + rows])
            first += rows

    def shards(self, table_rows: Mapping[str, int]) -> Iterator[TableShard]:
        """Yield this rank's shards of each table.

        Args:
            table_rows: number of rows of each whole table, by name.

        Yields:
            Shards whose tensors are views: to load values, write to them.
        """
        for config, first_row, first_column, weight, state in zip(
            self.config.embedding_tables,
            self._row_offset,
            self._col_offset,
            self._tables.split_embedding_weights(),
            self._tables.split_states(),
            strict=True,
        ):
            yield TableShard(
                table=config.name,
                first_row=first_row,
                first_column=first_column,
                table_rows=table_rows[config.name],
                table_columns=config.embedding_dim,
                tensors={"weight": weight, **state},
            )


class RowLookup(GroupedPooledEmbeddingsLookup):
    """Hold the local groups of one sharding type."""

    def __init__(
        self,
        configs: list[GroupedEmbeddingConfig],
        pg: dist.ProcessGroup | None,
        device: torch.device | None,
        *,
        rule: RowRule,
        dtype: torch.dtype,
    ) -> None:
        self._rule, self._dtype = rule, dtype
        super().__init__(configs, device=device, pg=pg)
        # A rank without tables contributes this tensor to collectives. The base class always makes it float32.
        self._dummy_embs_tensor = self._dummy_embs_tensor.detach().to(dtype)

    def _create_embedding_kernel(self, config, device, pg, sharding_type, env) -> RowKernel:  # noqa: ANN001
        del sharding_type, env  # TorchRec uses these to choose among its own kernels
        return RowKernel(config, pg, device, rule=self._rule, dtype=self._dtype)

    @property
    def module(self) -> "RowLookup":
        """Return this object. TorchRec reads `module` because it expects DistributedDataParallel around replicas."""
        return self


class ShardedRows(ShardedEmbeddingBagCollection):
    """Shard embedding bags across all ranks."""

    def __init__(self, *args, rule: RowRule, dtype: torch.dtype, **kwargs) -> None:  # noqa: ANN002, ANN003
        self._rule, self._dtype = (
            rule,
            dtype,
        )  # the base class calls _create_lookups, which reads these, in its __init__
        super().__init__(*args, **kwargs)

    def _create_lookups(self) -> None:
        for sharding in self._embedding_shardings:
            sharding = cast(TwPooledEmbeddingSharding | DpPooledEmbeddingSharding, sharding)
            self._lookups.append(
                RowLookup(
                    _of_one_width(sharding._grouped_embedding_configs),
                    self._env.process_group,
                    self._device,
                    rule=self._rule,
                    dtype=self._dtype,
                )
            )

    def init_data_parallel(self) -> None:
        """Do nothing. The base class sums gradients with DistributedDataParallel; `ReplicatedRows` sums its own."""

    def _initialize_torch_state(self, skip_registering: bool = False) -> None:
        del skip_registering  # no state dict to register, see the module docstring

    def kernels(self) -> Iterator[RowKernel]:
        """Yield the local kernels, one per group of tables."""
        for lookup in self._lookups:
            yield from cast(Iterable[RowKernel], lookup._emb_modules)


@dataclass
class _Sent:
    """Hold lookups that are being sent."""

    kjt: KeyedJaggedTensor
    context: EmbeddingBagCollectionContext
    counts: Awaitable[Awaitable[KJTList]]
    rows: Awaitable[KJTList] | None = None

    def advance(self) -> Awaitable[KJTList]:
        """Wait for the counts and send the row numbers. Later calls return the same result."""
        if self.rows is None:
            self.rows = self.counts.wait()
        return self.rows


class LookupsAhead:
    """Send the lookups of one batch ahead. A collective: all ranks make the same calls in the same order."""

    def __init__(self, rows: ShardedRows) -> None:
        self._rows = rows
        self._next: _Sent | None = None

    def send(self, kjt: KeyedJaggedTensor) -> None:
        """Start sending the lookups of the next batch, and discard any that were sent but never looked up."""
        self._next = self._begun(kjt)

    def advance(self) -> None:
        """Send the row numbers, once the counts that `send` started have arrived."""
        if self._next is not None:
            self._next.advance()

    def look_up(self, kjt: KeyedJaggedTensor) -> KeyedTensor:
        """Return the pooled embeddings of a batch, whether or not its lookups were sent ahead."""
        sent = self._next
        if sent is None or sent.kjt is not kjt:
            sent = self._begun(kjt)
        else:
            self._next = None
        return self._rows.compute_and_output_dist(sent.context, sent.advance().wait()).wait()

    def _begun(self, kjt: KeyedJaggedTensor) -> _Sent:
        context = self._rows.create_context()
        return _Sent(kjt, context, self._rows.input_dist(context, kjt))


class RowSharder(EmbeddingBagCollectionSharder):
    """Shard an `EmbeddingBagCollection` into `ShardedRows`."""

    def __init__(
        self,
        rule: RowRule,
        dtype: torch.dtype,
        exchange: ExchangePrecision = "fp32",
        device: str = "cpu",
        kind: Callable[..., ShardedRows] = ShardedRows,
    ) -> None:
        super().__init__(qcomm_codecs_registry=_codecs(exchange, device))
        self._rule, self._dtype, self._kind = rule, dtype, kind

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Return the supported sharding types. TorchRec's own list omits row-wise sharding on CPUs."""
        del compute_device_type
        return list(TYPES.values())

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Return TorchRec's name for our kernel: `dense` for replicated tables, as its planner requires, else `fused`."""
        del compute_device_type
        replicated = sharding_type == TYPES["replicate"]
        return [(EmbeddingComputeKernel.DENSE if replicated else EmbeddingComputeKernel.FUSED).value]

    def shard(
        self,
        module: EmbeddingBagCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedRows:
        """Return the sharded module; `DistributedModelParallel` calls it."""
        return self._kind(
            module=module,
            table_name_to_parameter_sharding=params,
            env=env,
            fused_params=self.fused_params,
            device=device,
            qcomm_codecs_registry=self.qcomm_codecs_registry,
            module_fqn=module_fqn,
            rule=self._rule,
            dtype=self._dtype,
        )


def _of_one_width(configs: Sequence[GroupedEmbeddingConfig]) -> list[GroupedEmbeddingConfig]:
    """Split groups where the width changes, which keeps the order of their features."""
    return [
        replace(config, embedding_tables=list(tables))
        for config in configs
        for _, tables in groupby(config.embedding_tables, key=lambda table: table.local_cols)
    ]


def _codecs(exchange: ExchangePrecision, device: str) -> dict[str, QuantizedCommCodecs] | None:
    """Return the codecs that round pooled embeddings sent between ranks. No gradient returns through TorchRec."""
    if exchange == "fp32":
        return None
    # TorchRec does not support bfloat16 over gloo. float16 has more digits and enough range for embeddings.
    kind = CommType.BF16 if device == "cuda" else CommType.FP16
    return get_qcomm_codecs_registry(QCommsConfig(forward_precision=kind), device=torch.device(device))
