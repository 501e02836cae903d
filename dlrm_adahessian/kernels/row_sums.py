"""Find the embedding rows that a batch looks up, and sum the batch's derivatives over each row's hits.

A bag's pooled embedding is the sum of its rows. With m the number of times that bag n contains row r,

    gradient of row r  = sum over n of m    * gradient at the pooled embedding of bag n
    curvature of row r = sum over n of m**2 * curvature at the pooled embedding of bag n

The second is exact if the loss is a mean over samples and one feature reads each table. Two bags that contain the row then
belong to different samples, so no cross term is missing. If only some samples are used for the curvature, the sum over them
is scaled from their sum of m**2 to the row's total (`Hits.with_curvature_of_all`).

If samples have weights, the derivatives already include them. A bag of weight w counts as w bags: it adds w m to the row's
lookups and w m**2 to its squares. A sample of weight 0 has no effect on any row.

`sum_hits_torch` is the oracle. On the CPU, numba sums with one thread per table and a slot map instead of a sort. A slot
map has one int32 per row, -1 between calls. The first lookup of a row stores the row's number within its table's part of
the batch there, and later lookups read it. This takes one pass over the lookups and no sort. One thread sums each table in
lookup order, so results do not depend on the thread count, bit for bit. The GPU sums in the kernels that update the rows
(`triton_rows`).
"""

from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[Any]  # float32 or float64

_MAX_THREADS = numba.get_num_threads()  # at import: set by NUMBA_NUM_THREADS or the machine


@dataclass(frozen=True, kw_only=True)
class Hits:
    """Rows of a batch, without duplicates, and their derivatives.

    Attributes:
        rows: (U,) int64, distinct, index into the (R, D) weights.
        grad: (U, D) gradient of the mean loss.
        curvature: (U, D) Hessian diagonal of the mean loss, or its mean over D (U, 1) for a rule with one accumulator
            per row; None on a step without curvature.
        count: (U,) int64 number of lookups of each row: the sum of m over the bags. With weights, the sum of w m, with the
            dtype of `grad`.
        squares: (U,) like `count`: the sum of m**2 over the bags, or of w m**2 with weights; None exactly if `curvature` is.
        curvature_squares: (U,) like `count`: the part of `squares` from samples used for the curvature (with
            `curvature_fraction` below 1, not all samples are); None exactly if `curvature` is.
    """

    rows: Tensor
    grad: Tensor
    count: Tensor
    curvature: Tensor | None = None
    squares: Tensor | None = None
    curvature_squares: Tensor | None = None

    @property
    def has_curvature(self) -> Tensor | None:
        """(U,) bool, whether a sample that was used for the curvature hit the row; None without curvature."""
        return None if self.curvature_squares is None else self.curvature_squares > 0

    def with_curvature_of_all(self) -> "Hits":
        """Return these hits with the curvature scaled to all samples, assuming that the unused ones have the same."""
        if self.curvature is None or self.squares is None or self.curvature_squares is None:
            return self
        # Use the curvature's dtype: integers would be divided in float32.
        squares = self.squares.to(self.curvature.dtype)
        scale = squares / self.curvature_squares.where(self.curvature_squares > 0, 1)
        return replace(self, curvature=self.curvature * scale.unsqueeze(1))

    def penalized(self, weight: Tensor, l2: float) -> "Hits":
        """Return these hits with the derivatives of a penalty l2/2 |row|^2 added for each of their rows of `weight`."""
        grad = torch.add(self.grad, weight[self.rows], alpha=l2)
        return replace(self, grad=grad, curvature=None if self.curvature is None else self.curvature + l2)

    def curvature_arrays(self) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]:
        """Return `curvature` and `has_curvature` for a kernel. Without curvature, `has_curvature` is all False."""
        has_curvature = self.has_curvature
        if self.curvature is None or has_curvature is None:
            return self.grad.numpy(), np.zeros(len(self.rows), np.bool_)
        return self.curvature.numpy(), has_curvature.numpy()


def sum_hits(
    rows: Tensor,
    bags: Tensor,
    grad: Tensor,
    curvature: Tensor | None,
    *,
    table_starts: Tensor | None = None,
    slots: Tensor | None = None,
    sampled: Tensor | None = None,
    weights: Tensor | None = None,
) -> Hits:
    """Find the rows that a batch looks up, and sum their derivatives. Results are deterministic, bit for bit.

    Args:
        rows: (L,) int64 rows looked up, in [0, R). On the CPU they are sorted by table, then by bag.
        bags: (L,) int64 bag of each lookup, index into the first dimension of `grad`.
        grad: (N, D) contiguous, gradient of the mean loss at each bag's pooled embedding. Sample b owns bags
            `b * N / B` up to `(b + 1) * N / B`.
        curvature: (N, C) contiguous, the Hessian diagonal of the mean loss. C is D, or 1 for its mean over D. None on a
            step without curvature.
        table_starts: (K + 1,) int64, the first lookup of each table, then L. Only the CPU needs it and `slots`.
        slots: (R,) int32 scratch memory of the caller, all -1 before and after the call.
        sampled: (B,) bool, the samples used for the curvature; None for all.
        weights: (B,) with the dtype of `grad`, at least 0; None for 1 each.

    Returns:
        The rows of the batch, in no particular order.

    Raises:
        ValueError: `table_starts` or `slots` is missing on the CPU.
    """
    if weights is not None:
        return _sum_weighted_hits(rows, bags, grad, curvature, weights, table_starts, slots, sampled)
    if rows.device.type != "cpu":
        return sum_hits_torch(rows, bags, grad, curvature, sampled=sampled)
    if table_starts is None or slots is None:
        raise ValueError("The CPU kernel needs table_starts and slots, but got None. Pass both.")
    return sum_hits_numba(
        rows, bags, grad, curvature, table_starts=table_starts, slots=slots, sampled=sampled
    )


def _sum_weighted_hits(
    rows: Tensor,
    bags: Tensor,
    grad: Tensor,
    curvature: Tensor | None,
    weights: Tensor,
    table_starts: Tensor | None,
    slots: Tensor | None,
    sampled: Tensor | None,
) -> Hits:
    """Remove the lookups of samples of weight 0, and sum the weights of the others as derivatives are summed."""
    bags_per_sample = _bags_per_sample(grad, weights)
    kept = weights[bags // bags_per_sample] > 0
    rows, bags = rows[kept], bags[kept]
    if table_starts is not None:
        table_starts = torch.cat([table_starts[:1], kept.cumsum(0)])[table_starts]
    hits = sum_hits(rows, bags, grad, curvature, table_starts=table_starts, slots=slots, sampled=sampled)
    counted = torch.stack([weights, weights if sampled is None else weights * sampled], 1)
    counted = counted.repeat_interleave(bags_per_sample, 0)
    sums = sum_hits(
        rows,
        bags,
        counted,
        None if curvature is None else counted,
        table_starts=table_starts,
        slots=slots,
    )
    hits = replace(hits, count=sums.grad[:, 0])
    if sums.curvature is None:
        return hits
    squares, curvature_squares = sums.curvature.unbind(1)
    return replace(hits, squares=squares, curvature_squares=curvature_squares)


def _bags_per_sample(grad: Tensor, per_sample: Tensor) -> int:
    """Return N / B for (N, D) and (B,); 1 if there are no samples and no bags."""
    return len(grad) // len(per_sample) if len(per_sample) else 1


def sum_hits_torch(
    rows: Tensor, bags: Tensor, grad: Tensor, curvature: Tensor | None, *, sampled: Tensor | None = None
) -> Hits:
    """Sum over hits with torch operations on any device. Lookups may have any order; rows are returned in ascending order.

    Args:
        rows: (L,) int64.
        bags: (L,) int64.
        grad: (N, D).
        curvature: (N, C) or None.
        sampled: (B,) bool or None.

    Returns:
        The rows of the batch.
    """
    num_bags = grad.shape[0]
    # One entry per distinct (row, bag). The key stays below 2**63 for 2**40 rows and 2**23 bags.
    pairs, m = torch.unique_consecutive((rows * num_bags + bags).sort().values, return_counts=True)
    pair_bags = pairs % num_bags
    touched, segment = torch.unique_consecutive(pairs // num_bags, return_inverse=True)
    # Integer sums do not depend on the order, so the atomics of index_add_ are safe here.
    count = torch.zeros_like(touched).index_add_(0, segment, m)
    grad_sum = _segment_sum(grad[pair_bags] * m.to(grad.dtype).unsqueeze(1), segment, len(touched))
    if curvature is None:
        return Hits(rows=touched, grad=grad_sum, count=count)
    square = m.square()
    taking_part = square
    if sampled is not None:
        taking_part = square * sampled[pair_bags // _bags_per_sample(grad, sampled)]
    weighted = curvature[pair_bags] * taking_part.to(grad.dtype).unsqueeze(1)
    return Hits(
        rows=touched,
        grad=grad_sum,
        count=count,
        curvature=_segment_sum(weighted, segment, len(touched)),
        squares=torch.zeros_like(touched).index_add_(0, segment, square),
        curvature_squares=torch.zeros_like(touched).index_add_(0, segment, taking_part),
    )


def _segment_sum(values: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    # (L, D), (L,) -> (num_segments, D). This is what the backward of nn.Embedding computes. Unlike index_add_,
    # it adds in a fixed order on the GPU too, and it splits the long runs of small tables.
    return torch.ops.aten.embedding_dense_backward(values, segment, num_segments, -1, False)


def sum_hits_numba(
    rows: Tensor,
    bags: Tensor,
    grad: Tensor,
    curvature: Tensor | None,
    *,
    table_starts: Tensor,
    slots: Tensor,
    sampled: Tensor | None = None,
) -> Hits:
    """Sum over hits like `sum_hits`. All tensors are on the CPU.

    Rows are returned table by table, and within a table in the order of their first lookup.

    Args:
        rows: (L,) int64, sorted by table, then by bag.
        bags: (L,) int64, index into the first dimension of `grad`.
        grad: (N, D) float32 or float64.
        curvature: (N, C) with the dtype of `grad`, or None.
        table_starts: (K + 1,) int64. Table k owns lookups `table_starts[k]` up to `table_starts[k + 1]`.
        slots: (R,) int32, all -1 before and after the call.
        sampled: (B,) bool, the samples used for the curvature. Bag n belongs to sample `n // (N / B)`.

    Returns:
        The rows of the batch.
    """
    # Ranks on one machine share its cores through torch's thread count. Numba would use all of them.
    numba.set_num_threads(min(torch.get_num_threads(), _MAX_THREADS))
    slot_of, first_seen, counts = _number_rows(rows.numpy(), table_starts.numpy(), slots.numpy())
    with_curvature = curvature is not None
    samples = torch.ones(1, dtype=torch.bool) if sampled is None else sampled
    touched, grad_sum, count, curvature_sum, squares, curvature_squares = _sum(
        bags.numpy(),
        grad.numpy(),
        (grad[:0] if curvature is None else curvature).numpy(),
        with_curvature,
        samples.numpy(),
        _bags_per_sample(grad, samples),
        table_starts.numpy(),
        slot_of,
        first_seen,
        counts,
    )
    return Hits(
        rows=torch.from_numpy(touched),
        grad=torch.from_numpy(grad_sum),
        count=torch.from_numpy(count),
        curvature=torch.from_numpy(curvature_sum) if with_curvature else None,
        squares=torch.from_numpy(squares) if with_curvature else None,
        curvature_squares=torch.from_numpy(curvature_squares) if with_curvature else None,
    )


@numba.njit(cache=True, parallel=True)
def _number_rows(
    rows: IntArray, table_starts: IntArray, slots: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], IntArray, IntArray]:
    """Number the rows of each table that the batch looks up, from 0.

    Returns:
        (L,) int32 number of each lookup's row; (L,) int64 whose first `counts[k]` entries from
        `table_starts[k]` on are the rows by number; (K,) int64 counts.
    """
    num_tables = table_starts.shape[0] - 1
    slot_of = np.empty(rows.shape[0], np.int32)
    first_seen = np.empty(rows.shape[0], np.int64)
    counts = np.zeros(num_tables, np.int64)
    for k in numba.prange(num_tables):
        start = table_starts[k]
        count = 0
        for i in range(start, table_starts[k + 1]):
            row = rows[i]
            if slots[row] < 0:
                slots[row] = count
                first_seen[start + count] = row
                count += 1
            slot_of[i] = slots[row]
        for j in range(start, start + count):
            slots[first_seen[j]] = -1
        counts[k] = count
    return slot_of, first_seen, counts


@numba.njit(cache=True, parallel=True)
def _sum(
    bags: IntArray,
    grad: FloatArray,
    curvature: FloatArray,
    with_curvature: bool,
    sampled: npt.NDArray[np.bool_],
    bags_per_sample: int,
    table_starts: IntArray,
    slot_of: npt.NDArray[np.int32],
    first_seen: IntArray,
    counts: IntArray,
) -> tuple[IntArray, FloatArray, IntArray, FloatArray, IntArray, IntArray]:
    num_tables, dim, columns = counts.shape[0], grad.shape[1], curvature.shape[1]
    firsts = np.zeros(num_tables + 1, np.int64)
    firsts[1:] = np.cumsum(counts)
    num_touched = firsts[num_tables]
    touched = np.empty(num_touched, np.int64)
    grad_sum = np.zeros((num_touched, dim), grad.dtype)
    curvature_sum = np.zeros((num_touched if with_curvature else 0, columns), grad.dtype)
    count = np.zeros(num_touched, np.int64)
    squares = np.zeros(num_touched, np.int64)
    curvature_squares = np.zeros(num_touched, np.int64)
    last_bag = np.full(num_touched, -1, np.int64)
    repeats = np.zeros(num_touched, np.int64)
    for k in numba.prange(num_tables):
        start, first = table_starts[k], firsts[k]
        touched[first : first + counts[k]] = first_seen[start : start + counts[k]]
        for i in range(start, table_starts[k + 1]):
            u = first + slot_of[i]
            bag = bags[i]
            count[u] += 1
            for d in range(dim):
                grad_sum[u, d] += grad[bag, d]
            if with_curvature:
                # The c-th time that a bag contains the row, 2c - 1 times the bag's curvature is added, because the
                # first m odd numbers sum to m**2.
                repeats[u] = repeats[u] + 1 if last_bag[u] == bag else 1
                last_bag[u] = bag
                weight = 2 * repeats[u] - 1
                squares[u] += weight
                if sampled[bag // bags_per_sample]:
                    curvature_squares[u] += weight
                    for d in range(columns):
                        curvature_sum[u, d] += weight * curvature[bag, d]
    return touched, grad_sum, count, curvature_sum, squares, curvature_squares
