"""Sum a batch's derivatives over each row's hits.

A bag's pooled embedding is the sum of its rows, so with m the number of times that bag n holds row r,

    gradient of row r  = sum over n of m    * gradient at the pooled embedding of bag n
    curvature of row r = sum over n of m**2 * curvature at the pooled embedding of bag n

The second is exact for a loss that is a mean over samples, when one feature reads each table: no two bags
that hold the row belong to one sample, so no cross term is left out.
"""

import torch
from torch import Tensor

from dlrm_adahessian.kernels.hits import Hits
from dlrm_adahessian.kernels.numba_hits import sum_hits_numba


def sum_hits(
    rows: Tensor,
    bags: Tensor,
    grad: Tensor,
    curvature: Tensor | None,
    *,
    table_starts: Tensor | None = None,
    slots: Tensor | None = None,
    sampled: Tensor | None = None,
) -> Hits:
    """Find the rows that a batch touched, and sum their derivatives; the same input gives the same bits.

    Args:
        rows: (L,) int64 rows looked up, in [0, R); on the CPU table by table, within a table bag by bag.
        bags: (L,) int64 bag of each lookup, index into the first dimension of `grad`.
        grad: (N, D) contiguous, gradient of the mean loss at each bag's pooled embedding; sample b owns bags
            `b * N / B` up to `(b + 1) * N / B`.
        curvature: (N, C) contiguous, the Hessian diagonal of the mean loss, C being D, or 1 for its mean over D; None on a
            step without curvature.
        table_starts: (K + 1,) int64, the first lookup of each table and L. Only the CPU needs it and `slots`.
        slots: (R,) int32 scratch of the caller, -1 throughout before and after the call.
        sampled: (B,) bool, the samples that took part in the curvature; None for all.

    Returns:
        The touched rows, in no particular order.

    Raises:
        ValueError: `table_starts` or `slots` is missing on the CPU.
    """
    if rows.device.type != "cpu":
        return sum_hits_torch(rows, bags, grad, curvature, sampled=sampled)
    if table_starts is None or slots is None:
        raise ValueError("the CPU kernel needs table_starts and slots, got None; pass both")
    return sum_hits_numba(
        rows, bags, grad, curvature, table_starts=table_starts, slots=slots, sampled=sampled
    )


def sum_hits_torch(
    rows: Tensor, bags: Tensor, grad: Tensor, curvature: Tensor | None, *, sampled: Tensor | None = None
) -> Hits:
    """Sum over hits with torch operations on any device; rows come in ascending order, lookups in any.

    Args:
        rows: (L,) int64.
        bags: (L,) int64.
        grad: (N, D).
        curvature: (N, C) or None.
        sampled: (B,) bool or None.

    Returns:
        The touched rows.
    """
    num_bags = grad.shape[0]
    # One entry per distinct (row, bag); the key stays below 2**63 for 2**40 rows and 2**23 bags.
    pairs, m = torch.unique_consecutive((rows * num_bags + bags).sort().values, return_counts=True)
    pair_bags = pairs % num_bags
    touched, segment = torch.unique_consecutive(pairs // num_bags, return_inverse=True)
    m = m.to(grad.dtype).unsqueeze(1)
    grad_sum = _segment_sum(grad[pair_bags] * m, segment, len(touched))
    if curvature is None:
        return Hits(rows=touched, grad=grad_sum)
    weight = m.square()
    took_part = torch.ones_like(pair_bags)
    if sampled is not None:
        took_part = sampled[pair_bags // (num_bags // len(sampled))].long()
        weight = weight * took_part.unsqueeze(1)
    return Hits(
        rows=touched,
        grad=grad_sum,
        curvature=_segment_sum(curvature[pair_bags] * weight, segment, len(touched)),
        # Integer sums are the same in every order, so the atomics of index_add_ do no harm here.
        has_curvature=torch.zeros_like(touched).index_add_(0, segment, took_part) > 0,
    )


def _segment_sum(values: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    # (L, D), (L,) -> (num_segments, D). This is what the backward of nn.Embedding computes. Unlike index_add_
    # it adds in a fixed order on the GPU too, and it splits the long runs of small tables.
    return torch.ops.aten.embedding_dense_backward(values, segment, num_segments, -1, False)
