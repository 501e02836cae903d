"""Rows that every rank has a copy of: derivatives are summed over the ranks, and all copies updated alike.

TorchRec's own data-parallel tables are autograd parameters under DistributedDataParallel, one gradient each. Here
gradient and curvature of all rows go through one all-reduce of a dense buffer, which pays for tables with fewer rows
than a rank's batch. All ranks receive the same sums bit for bit, so the copies stay equal.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from dlrm_adahessian.embeddings.local_tables import RowTables
from dlrm_adahessian.kernels.row_sums import Hits


class ReplicatedRows(RowTables):
    """Tables of which all ranks hold all rows; each looks up its own batch."""

    sees_all_ranks = False

    def apply_(
        self, grad: Tensor, curvature: Tensor | None, *, sampled: Tensor | None, lr_scale: float, samples: int
    ) -> None:
        """Update the rows that any rank looked up; as `RowTables.apply_`, with this rank's batch and its mean loss.

        All ranks call it, and all with a curvature or none with one.
        """
        local = self._hits(self._take_lookup(), grad, curvature, sampled)
        hits = _sum_over_ranks(local, len(self.weight))
        self._rule.update_(self.weight, self.state, hits, lr_scale=lr_scale, samples=samples)


def _sum_over_ranks(local: Hits, num_rows: int) -> Hits:
    """Return the hits of all ranks, with derivatives of the mean of their losses.

    Args:
        local: of this rank's mean loss.
        num_rows: R.
    """
    dim = local.grad.shape[1]
    marks = local.grad.new_ones(len(local.rows), 1)
    parts = [local.grad, marks]
    if local.curvature is not None and local.has_curvature is not None:
        parts += [local.curvature, local.has_curvature.to(marks.dtype).unsqueeze(1)]
    summed = local.grad.new_zeros(num_rows, sum(part.shape[1] for part in parts))
    summed[local.rows] = torch.cat(parts, 1)
    dist.all_reduce(summed)
    rows = summed[:, dim].nonzero().squeeze(1)
    summed = summed[rows]
    ranks = dist.get_world_size()
    grad = summed[:, :dim] / ranks
    if local.curvature is None:
        return Hits(rows=rows, grad=grad)
    return Hits(
        rows=rows,
        grad=grad,
        curvature=summed[:, dim + 1 : -1] / ranks,
        has_curvature=summed[:, -1] > 0,
    )
