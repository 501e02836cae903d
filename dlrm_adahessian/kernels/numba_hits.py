"""Sum derivatives over each row's hits on the CPU: one thread per table, a slot map instead of a sort.

A slot map has one int32 per row, -1 at rest. The first lookup of a row writes the row's position among the
table's touched rows there, later lookups read it. So the cost is one pass over the lookups, and nothing is
sorted. Each table is summed in lookup order by one thread, so the bits do not depend on the thread count.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dlrm_adahessian.kernels.hits import Hits

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[Any]  # float32 or float64

_MAX_THREADS = numba.get_num_threads()  # at import: what NUMBA_NUM_THREADS or the machine allows


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
    """Sum over hits as `dlrm_adahessian.kernels.sum_hits.sum_hits` says; all tensors are on the CPU.

    Rows come table by table, within a table in the order of their first lookup.

    Args:
        rows: (L,) int64, table by table and within a table bag by bag.
        bags: (L,) int64, index into the first dimension of `grad`.
        grad: (N, D) float32 or float64.
        curvature: (N, C) of the type of `grad`, or None.
        table_starts: (K + 1,) int64; table k owns lookups `table_starts[k]` up to `table_starts[k + 1]`.
        slots: (R,) int32, all -1; all -1 again on return.
        sampled: (B,) bool, samples that took part in the curvature; bag n is of sample `n // (N / B)`.

    Returns:
        The touched rows.
    """
    # Ranks that share a machine split its cores through torch's thread count; numba would take all of them.
    numba.set_num_threads(min(torch.get_num_threads(), _MAX_THREADS))
    slot_of, first_seen, counts = _number_rows(rows.numpy(), table_starts.numpy(), slots.numpy())
    with_curvature = curvature is not None
    samples = torch.ones(1, dtype=torch.bool) if sampled is None else sampled
    touched, grad_sum, curvature_sum, has_curvature = _sum(
        bags.numpy(),
        grad.numpy(),
        (grad[:0] if curvature is None else curvature).numpy(),
        with_curvature,
        samples.numpy(),
        grad.shape[0] // samples.shape[0],
        table_starts.numpy(),
        slot_of,
        first_seen,
        counts,
    )
    return Hits(
        rows=torch.from_numpy(touched),
        grad=torch.from_numpy(grad_sum),
        curvature=torch.from_numpy(curvature_sum) if with_curvature else None,
        has_curvature=torch.from_numpy(has_curvature) if with_curvature else None,
    )


@numba.njit(cache=True, parallel=True)
def _number_rows(
    rows: IntArray, table_starts: IntArray, slots: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], IntArray, IntArray]:
    """Number the touched rows of each table from 0.

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
) -> tuple[IntArray, FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    num_tables, dim, columns = counts.shape[0], grad.shape[1], curvature.shape[1]
    firsts = np.zeros(num_tables + 1, np.int64)
    firsts[1:] = np.cumsum(counts)
    num_touched = firsts[num_tables]
    touched = np.empty(num_touched, np.int64)
    grad_sum = np.zeros((num_touched, dim), grad.dtype)
    curvature_sum = np.zeros((num_touched if with_curvature else 0, columns), grad.dtype)
    has_curvature = np.zeros(num_touched, np.bool_)
    last_bag = np.full(num_touched, -1, np.int64)
    repeats = np.zeros(num_touched, np.int64)
    for k in numba.prange(num_tables):
        start, first = table_starts[k], firsts[k]
        touched[first : first + counts[k]] = first_seen[start : start + counts[k]]
        for i in range(start, table_starts[k + 1]):
            u = first + slot_of[i]
            bag = bags[i]
            for d in range(dim):
                grad_sum[u, d] += grad[bag, d]
            if with_curvature and sampled[bag // bags_per_sample]:
                # The c-th time that a bag holds the row adds 2c - 1 times the bag's curvature, because the
                # first m odd numbers sum to m**2.
                repeats[u] = repeats[u] + 1 if last_bag[u] == bag else 1
                last_bag[u] = bag
                has_curvature[u] = True
                weight = 2 * repeats[u] - 1
                for d in range(columns):
                    curvature_sum[u, d] += weight * curvature[bag, d]
    return touched, grad_sum, curvature_sum, has_curvature
