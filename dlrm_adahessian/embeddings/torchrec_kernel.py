# pyright: basic
"""TorchRec's sharded embedding bags with `RowTables` in place of FBGEMM's table-batched module.

Planner, input distribution and output distribution stay TorchRec's. Its chain from sharder to local kernel
has no hook for another kernel (the planner refuses `CUSTOMIZED_KERNEL`), so each link is subclassed and
overrides the one method that creates the next. The plan calls the kernel `fused`, and of replicated tables `dense`.

TorchRec's state dicts are left out: rows and their state are reached through `RowTables` and saved by row
range. The facade over the rows knows no float64, and the optimizer's breaks on row-wise shards of one row. Models of others
have them (row_rules.py).

`LookupsAhead` sends the next batch's lookups to the ranks that hold its rows while this one is worked on. It is what
TorchRec's TrainPipelineSparseDist does, which takes forward and backward as one call of a model: which rows a batch looks up
depends on nothing that training changes, so it can travel early. First how many each rank gets, then the rows.
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
"""TorchRec's names of the ways to spread a table."""


class RowKernel(BaseBatchedEmbeddingBag[torch.Tensor]):
    """A group of local tables."""

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
            self._local_cols[0],  # all alike, see _of_one_width
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
        """Return what the tables need of a batch's derivatives; `places` are those of the features in a lookup."""
        return TableGroup(
            features=[places[name] for name in self.config.feature_names()],
            first_columns=[self._col_offset[table] or 0 for table in self._feature_table_map],
            columns=self._local_cols[0],
            is_replicated=not self._tables.sees_all_ranks,
        )

    def named_parameters_by_table(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the rows of each table, as views; of a table's column shards, which are neighbors, all in one."""
        of_tables = zip(self.config.table_names(), self._local_rows, strict=True)
        first = 0
        for name, shards in groupby(of_tables, key=lambda shard: shard[0]):
            rows = sum(rows for _, rows in shards)
            yield name, nn.Parameter(self._tables.weight[first : first + rows])
            first += rows

    def shards(self, table_rows: Mapping[str, int]) -> Iterator[TableShard]:
        """Yield what this rank holds of each table.

        Args:
            table_rows: rows of each whole table, by name.

        Yields:
            Views: writing is loading.
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
    """The local groups of one sharding type."""

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
        # What a rank without tables contributes to collectives; the base class has it in float32 always.
        self._dummy_embs_tensor = self._dummy_embs_tensor.detach().to(dtype)

    def _create_embedding_kernel(self, config, device, pg, sharding_type, env) -> RowKernel:  # noqa: ANN001
        del sharding_type, env  # they choose among TorchRec's kernels
        return RowKernel(config, pg, device, rule=self._rule, dtype=self._dtype)

    @property
    def module(self) -> "RowLookup":
        """Itself: TorchRec looks here in a replicated lookup, around which it expects DistributedDataParallel."""
        return self


class ShardedRows(ShardedEmbeddingBagCollection):
    """Embedding bags over all ranks."""

    def __init__(self, *args, rule: RowRule, dtype: torch.dtype, **kwargs) -> None:  # noqa: ANN002, ANN003
        self._rule, self._dtype = (
            rule,
            dtype,
        )  # read by _create_lookups, which the base class calls while initialising
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
        """Do nothing: the base class has DistributedDataParallel sum gradients, and here the rows do it themselves."""

    def _initialize_torch_state(self, skip_registering: bool = False) -> None:
        del skip_registering  # there is no facade to register, see above

    def kernels(self) -> Iterator[RowKernel]:
        """Yield the local kernels, one per group of tables."""
        for lookup in self._lookups:
            yield from cast(Iterable[RowKernel], lookup._emb_modules)


@dataclass
class _Sent:
    """Lookups on their way."""

    kjt: KeyedJaggedTensor
    context: EmbeddingBagCollectionContext
    counts: Awaitable[Awaitable[KJTList]]
    rows: Awaitable[KJTList] | None = None

    def advance(self) -> Awaitable[KJTList]:
        """Wait for the counts, and send the rows; once."""
        if self.rows is None:
            self.rows = self.counts.wait()
        return self.rows


class LookupsAhead:
    """Sends the lookups of one batch ahead; all ranks call it in the same order."""

    def __init__(self, rows: ShardedRows) -> None:
        self._rows = rows
        self._next: _Sent | None = None

    def send(self, kjt: KeyedJaggedTensor) -> None:
        """Begin to send the lookups of the next batch; those of one that was not looked up are forgotten."""
        self._next = self._begun(kjt)

    def advance(self) -> None:
        """Send the rows after the counts, which have had the time since `send`."""
        if self._next is not None:
            self._next.advance()

    def look_up(self, kjt: KeyedJaggedTensor) -> KeyedTensor:
        """Return the pooled embeddings of a batch, sent ahead or not."""
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
        """Return the types that this project supports; TorchRec's own list leaves out row-wise on CPUs."""
        del compute_device_type
        return list(TYPES.values())

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Return TorchRec's name for our kernel; its planner knows `dense` for replicated tables only."""
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
    """Cut groups where the width changes, so that the order of their features stays."""
    return [
        replace(config, embedding_tables=list(tables))
        for config in configs
        for _, tables in groupby(config.embedding_tables, key=lambda table: table.local_cols)
    ]


def _codecs(exchange: ExchangePrecision, device: str) -> dict[str, QuantizedCommCodecs] | None:
    """Return what rounds pooled embeddings on their way; nothing goes back through TorchRec."""
    if exchange == "fp32":
        return None
    # Over gloo TorchRec knows no bfloat16, and half precision has more digits and all the range that embeddings need.
    kind = CommType.BF16 if device == "cuda" else CommType.FP16
    return get_qcomm_codecs_registry(QCommsConfig(forward_precision=kind), device=torch.device(device))
