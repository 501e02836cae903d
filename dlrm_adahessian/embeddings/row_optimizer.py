# pyright: basic
# pyright: reportPrivateImportUsage=false
# TorchRec re-exports torch's shard classes.
"""Expose the row optimizer like TorchRec's fused optimizers: learning rate in a parameter group, state by table and name.

`RowOptimizer` performs no update; the backward pass does. Its state dict holds ShardedTensors that share memory with the
rows. TorchRec's `EmbeddingFusedOptimizer` does the same for FBGEMM's module, but mistakes the state of a one-row shard for
one number per table.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.embedding_types import ShardedEmbeddingTable
from torchrec.distributed.types import (
    Shard,
    ShardedTensor,
    ShardedTensorMetadata,
    ShardMetadata,
    TensorProperties,
)
from torchrec.optim.fused import FusedOptimizer

from dlrm_adahessian.embeddings.torchrec_kernel import RowKernel

_LocalShard = tuple[ShardedEmbeddingTable, Tensor]


class RowOptimizer(FusedOptimizer):
    """Hold the learning rate and the state of one module's tables."""

    def __init__(self, kernels: Iterable[RowKernel], lr: float, group: dist.ProcessGroup | None) -> None:
        """Collect the shards of this rank.

        Args:
            kernels: kernels that hold its tables.
            lr: learning rate of the rule.
            group: process group across which the tables are sharded.
        """
        held: dict[str, list[tuple[ShardedEmbeddingTable, dict[str, Tensor]]]] = defaultdict(list)
        for kernel in kernels:
            tables = kernel.emb_module
            for config, weight, state in zip(
                kernel.config.embedding_tables,
                tables.split_embedding_weights(),
                tables.split_states(),
                strict=True,
            ):
                held[config.name].append((config, {"weight": weight, **state}))
        params, states = {}, {}
        for name, shards in held.items():
            found = {
                key: _over_ranks([(config, tensors[key]) for config, tensors in shards], group)
                for key in shards[0][1]
            }
            weight = found.pop("weight")
            params[f"embedding_bags.{name}.weight"] = weight
            states[weight] = {f"{name}.{key}": tensor for key, tensor in found.items()}
        super().__init__(params, states, [{"params": list(params.values()), "lr": lr}])

    @property
    def lr(self) -> float:
        """Current learning rate; a scheduler may change it."""
        (group,) = self.param_groups
        return group["lr"]

    def step(self, closure: Any = None) -> None:
        """Do nothing: the backward pass has updated the rows."""

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Do nothing: the rows store no gradient."""


def _over_ranks(shards: Sequence[_LocalShard], group: dist.ProcessGroup | None) -> Tensor | ShardedTensor:
    """Return the tensor (r, c) or (r,) to which these shards belong; for a replicated table, the local tensor."""
    table, first = shards[0]
    metadata = table.global_metadata
    if metadata is None:
        return first
    places = _Places(metadata, by_row=first.dim() == 1)
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        local_shards=[Shard(tensor, places.of(config.local_metadata)) for config, tensor in shards],
        sharded_tensor_metadata=ShardedTensorMetadata(
            shards_metadata=[places.of(shard) for shard in metadata.shards_metadata],
            size=places.size,
            tensor_properties=TensorProperties(dtype=first.dtype, requires_grad=False),
        ),
        process_group=group,
    )


class _Places:
    """Map shards of a table to shards of its optimizer state.

    Each column shard has its own per-row state. As in TorchRec, these states are concatenated: all rows of the table for
    each range of columns.
    """

    def __init__(self, table: ShardedTensorMetadata, *, by_row: bool) -> None:
        self._rows, self._by_row = table.size[0], by_row
        self._firsts = sorted({shard.shard_offsets[1] for shard in table.shards_metadata})
        self.size = torch.Size([self._rows * len(self._firsts)]) if by_row else table.size

    def of(self, shard: ShardMetadata | None) -> ShardMetadata:
        """Return the place of the state that belongs to a table shard. `shard` is None only for replicated tables."""
        shard = cast(ShardMetadata, shard)
        if not self._by_row:
            return shard
        row, column = shard.shard_offsets
        return ShardMetadata(
            shard_offsets=[row + self._rows * self._firsts.index(column)],
            shard_sizes=[shard.shard_sizes[0]],
            placement=shard.placement,
        )
