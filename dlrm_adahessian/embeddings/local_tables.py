"""Look up and update the embedding rows of one rank.

`RowTables` replaces FBGEMM's table-batched module, which TorchRec uses. FBGEMM applies its optimizer in the backward pass,
from the gradient alone. Here the update waits for the curvature.

`ReplicatedRows` holds rows of which every rank has a copy. It sums derivatives over ranks and applies the same update to
all copies. TorchRec's data-parallel tables are autograd parameters under DistributedDataParallel, with one gradient each.
Here gradient and curvature of all rows go through one all-reduce of a dense buffer, which is cheaper for tables with fewer
rows than a rank's batch. All ranks receive bitwise identical sums, so the copies stay equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from dlrm_adahessian.kernels.compiled import triton_available
from dlrm_adahessian.kernels.row_sums import Hits, sum_hits
from dlrm_adahessian.optim.base import RowRule


@dataclass(frozen=True)
class LookedUp:
    """The part of a lookup that its update needs."""

    rows: Tensor  # (L,) int64, index into the concatenated tables
    bags: Tensor  # (L,) int64, position in the flattened (B, T) bags
    table_starts: (
        Tensor | None
    )  # (K + 1,) int64 on the CPU; None on other devices, where reading it would block the host


class RowTables(nn.Module):
    """Concatenate several tables of one width, and sum the rows of each bag.

    Attributes:
        weight: (R, D), all tables concatenated. Not a parameter, because autograd never sees it.
        state: optimizer state of the rows, tensors (R, D) or (R,).
        sees_all_ranks: whether lookups come from all ranks' batches, one after another, or from this rank's only.
    """

    sees_all_ranks = True

    def __init__(
        self,
        num_rows: Sequence[int],
        dim: int,
        table_of_feature: Sequence[int],
        *,
        rule: RowRule,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Allocate K tables without initializing the weights.

        Args:
            num_rows: number of rows of each table.
            dim: D.
            table_of_feature: (T,) ascending, the table that each feature reads.
            rule: row optimizer.
            device: device of the rows.
            dtype: float32 or float64.
        """
        super().__init__()
        self._starts = [0, *accumulate(num_rows)]
        self._rule = rule
        self.weight = torch.empty(self._starts[-1], dim, device=device, dtype=dtype)
        self.state = rule.new_state(self.weight)
        self._num_features = len(table_of_feature)
        self._feature_starts = torch.tensor([self._starts[t] for t in table_of_feature], device=device)
        features_below = [sum(t < k for t in table_of_feature) for k in range(len(num_rows) + 1)]
        self._first_features = torch.tensor(features_below)
        on_cpu = device.type == "cpu"
        self._fused = device.type == "cuda" and triton_available()
        self._slots = torch.full((self._starts[-1],), -1, dtype=torch.int32) if on_cpu else None
        self._looked_up: LookedUp | None = None

    def split_embedding_weights(self) -> list[Tensor]:
        """Return a view (rows, D) of each table. TorchRec calls this method by FBGEMM's name for it."""
        return [self.weight[a:z] for a, z in zip(self._starts, self._starts[1:], strict=False)]

    def split_states(self) -> list[dict[str, Tensor]]:
        """Return views of each table's state."""
        return [
            {name: tensor[a:z] for name, tensor in self.state.items()}
            for a, z in zip(self._starts, self._starts[1:], strict=False)
        ]

    def forward(self, indices: Tensor, offsets: Tensor, per_sample_weights: Tensor | None = None) -> Tensor:
        """Sum the rows of each bag.

        Args:
            indices: (L,) int64, row numbers within their table, ordered by feature, then bag.
            offsets: (T * B + 1,) int64, where each bag begins in `indices`.
            per_sample_weights: must be None.

        Returns:
            (B, T * D), detached from autograd. If gradients are enabled, `apply_` refers to this lookup until the next.

        Raises:
            ValueError: the lookups carry weights.
        """
        if per_sample_weights is not None:
            raise ValueError(
                "Weighted lookups are not supported. Build the KeyedJaggedTensor without weights."
            )
        with torch.no_grad():
            rows, bags, pooled = self._look_up(indices, offsets)
        pooled = pooled.view(-1, self._num_features * self.weight.shape[1])
        if torch.is_grad_enabled():
            starts = None
            if offsets.device.type == "cpu":
                starts = offsets[self._first_features * len(pooled)]
            self._looked_up = LookedUp(rows, bags, starts)
        return pooled

    def _look_up(self, indices: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the row (L,) and the bag (L,) of each lookup, and the pooled embeddings (B * T, D)."""
        num_features, dim = self._num_features, self.weight.shape[1]
        if self._fused:
            from dlrm_adahessian.kernels.triton_rows import look_up_triton

            return look_up_triton(self.weight, indices, offsets, self._feature_starts)
        batch = (offsets.numel() - 1) // num_features
        positions = torch.arange(batch * num_features, device=indices.device).view(batch, num_features)
        positions = positions.t().reshape(-1)  # reorder bags from feature-major to sample-major
        lengths = offsets[1:] - offsets[:-1]
        if _is_one_hot(indices, lengths):
            by_feature = indices.view(num_features, batch) + self._feature_starts.unsqueeze(1)
            pooled = self.weight.index_select(0, by_feature.t().reshape(-1))
            return by_feature.reshape(-1), positions, pooled
        of_features = lengths.view(num_features, batch).sum(1)
        rows = self._feature_starts.repeat_interleave(of_features, output_size=len(indices)).add_(indices)
        pooled = F.embedding_bag(rows, self.weight, offsets, mode="sum", include_last_offset=True)
        pooled = pooled.view(num_features, batch, dim).transpose(0, 1).reshape(-1, dim)
        return rows, positions.repeat_interleave(lengths, output_size=len(indices)), pooled

    def apply_(
        self,
        grad: Tensor,
        curvature: Tensor | None,
        *,
        sampled: Tensor | None,
        lr_scale: float,
        samples: float,
        weights: Tensor | None = None,
        l2: float = 0.0,
        looked_up: LookedUp | None = None,
    ) -> None:
        """Update the rows of the last lookup, or of an earlier one.

        Args:
            grad: (B * T, D) gradient of the mean loss at the pooled embeddings.
            curvature: (B * T, D) Hessian diagonal of the mean loss, or its mean over D (B * T, 1), or None.
            sampled: (B,) bool, the samples included in the curvature; None for all.
            lr_scale: in [0, 1], the schedule's factor on the learning rate.
            samples: number of samples over which the loss is a mean, or the sum of their weights.
            weights: (B,) sample weights with the dtype of `grad`; None for 1 each.
            l2: factor of the penalty l2/2 |row|^2 on each updated row, in units of the mean loss.
            looked_up: result of `take_lookup`; None calls `take_lookup`.
        """
        looked_up = looked_up or self.take_lookup()
        if self._fused:
            self._rule.update_triton_(
                self.weight,
                self.state,
                looked_up.rows,
                looked_up.bags,
                grad,
                curvature,
                sampled=sampled,
                lr_scale=lr_scale,
                samples=samples,
                weights=weights,
                l2=l2,
            )
            return
        hits = self._hits(looked_up, grad, curvature, sampled, weights)
        self._update_(hits, sampled, lr_scale=lr_scale, samples=samples, l2=l2)

    def _update_(
        self, hits: Hits, sampled: Tensor | None, *, lr_scale: float, samples: float, l2: float
    ) -> None:
        if sampled is not None:
            hits = hits.with_curvature_of_all()
        if l2:
            hits = hits.penalized(self.weight, l2)
        self._rule.update_(self.weight, self.state, hits, lr_scale=lr_scale, samples=samples)

    def take_lookup(self) -> LookedUp:
        """Return the last lookup with gradients enabled, and clear it.

        Raises:
            RuntimeError: there was no such lookup since the last call.
        """
        looked_up, self._looked_up = self._looked_up, None
        if looked_up is None:
            raise RuntimeError("No lookup to update. Look up with gradients enabled before each update.")
        return looked_up

    def _hits(
        self,
        looked_up: LookedUp,
        grad: Tensor,
        curvature: Tensor | None,
        sampled: Tensor | None,
        weights: Tensor | None,
    ) -> Hits:
        return sum_hits(
            looked_up.rows,
            looked_up.bags,
            grad,
            curvature,
            table_starts=looked_up.table_starts,
            slots=self._slots,
            sampled=sampled,
            weights=weights,
        )


class ReplicatedRows(RowTables):
    """Hold a copy of all rows on every rank. Each rank looks up its own batch."""

    sees_all_ranks = False

    def apply_(
        self,
        grad: Tensor,
        curvature: Tensor | None,
        *,
        sampled: Tensor | None,
        lr_scale: float,
        samples: float,
        weights: Tensor | None = None,
        l2: float = 0.0,
        looked_up: LookedUp | None = None,
    ) -> None:
        """Update the rows that any rank looked up; see `RowTables.apply_`. Pass derivatives of this rank's mean loss.

        A collective: all ranks call it, either all with curvature or all without.
        """
        local = self._hits(looked_up or self.take_lookup(), grad, curvature, sampled, weights)
        hits = _sum_over_ranks(local, len(self.weight))
        self._update_(hits, sampled, lr_scale=lr_scale, samples=samples, l2=l2)


def _is_one_hot(indices: Tensor, lengths: Tensor) -> bool:
    # On a GPU the check would block the host, which costs more than the general path.
    return indices.device.type == "cpu" and len(indices) == len(lengths) and bool((lengths == 1).all())


def _sum_over_ranks(local: Hits, num_rows: int) -> Hits:
    """Return the hits of all ranks, with derivatives of the mean of the ranks' losses.

    Args:
        local: hits of this rank, with derivatives of its mean loss.
        num_rows: R.
    """
    dim = local.grad.shape[1]

    def column(counts: Tensor) -> Tensor:
        return counts.to(local.grad.dtype).unsqueeze(1)

    parts = [local.grad, column(local.count)]
    if local.curvature is not None and local.squares is not None and local.curvature_squares is not None:
        parts += [local.curvature, column(local.squares), column(local.curvature_squares)]
    summed = local.grad.new_zeros(num_rows, sum(part.shape[1] for part in parts))
    summed[local.rows] = torch.cat(parts, 1)
    dist.all_reduce(summed)
    rows = summed[:, dim].nonzero().squeeze(1)
    summed = summed[rows]
    ranks = dist.get_world_size()
    grad, count = summed[:, :dim] / ranks, summed[:, dim].to(local.count.dtype)
    if local.curvature is None:
        return Hits(rows=rows, grad=grad, count=count)
    return Hits(
        rows=rows,
        grad=grad,
        count=count,
        curvature=summed[:, dim + 1 : -2] / ranks,
        squares=summed[:, -2].to(local.count.dtype),
        curvature_squares=summed[:, -1].to(local.count.dtype),
    )
