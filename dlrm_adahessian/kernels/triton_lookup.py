# pyright: basic
# pyright: reportArgumentType=false, reportOperatorIssue=false
# In kernels the types are Triton's, which its own annotations miss.
"""Look up rows on the GPU in one kernel: pooled embeddings, and what the update wants to know of each lookup.

Whether all bags hold one row is not asked, since the host would have to wait for the answer: a block of bags adds one
row a bag until none is left, which for one row each is a plain gather.
"""

import torch
import triton.language as tl
from torch import Tensor
from triton import jit

_BAGS = 64  # bags a program; a power of two


def look_up_triton(
    weight: Tensor, indices: Tensor, offsets: Tensor, first_rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the rows of each bag, in the order of its lookups.

    Args:
        weight: (R, D) contiguous.
        indices: (L,) int64, rows within their table; feature by feature, within a feature bag by bag.
        offsets: (T * B + 1,) integers, where each bag begins in `indices`.
        first_rows: (T,) int64, the row of `weight` that is row 0 of each feature's table.

    Returns:
        (L,) int64 row of `weight` and (L,) int64 bag of each lookup; (B * T, D) pooled embeddings by bag, that is by
        sample, then feature.
    """
    num_bags, width, features = offsets.shape[0] - 1, weight.shape[1], first_rows.shape[0]
    pooled = weight.new_empty(num_bags, width)
    rows, bags = torch.empty_like(indices), torch.empty_like(indices)
    if num_bags:
        _look_up[(-(-num_bags // _BAGS),)](
            weight, indices, offsets, first_rows, pooled, rows, bags, num_bags, num_bags // features, features,
            WIDTH=width, PADDED=1 << (width - 1).bit_length(), BAGS=_BAGS,
        )  # fmt: skip
    return rows, bags, pooled


@jit
def _look_up(
    weight, indices, offsets, first_rows, pooled, rows, bags, num_bags, batch, features,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BAGS: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0) * BAGS + tl.arange(0, BAGS)
    exists = place < num_bags
    feature = place // batch
    bag = ((place % batch) * features + feature).to(tl.int64)
    first_row = tl.load(first_rows + feature, mask=exists, other=0)
    lookup = tl.load(offsets + place, mask=exists, other=0)
    end = tl.load(offsets + place + 1, mask=exists, other=0)
    column = tl.arange(0, PADDED)[None, :]
    total = tl.zeros((BAGS, PADDED), weight.dtype.element_ty)
    more = tl.max((lookup < end).to(tl.int32), 0)
    while more > 0:
        live = lookup < end
        row = tl.load(indices + lookup, mask=live, other=0) + first_row
        tl.store(rows + lookup, row, mask=live)
        tl.store(bags + lookup, bag, mask=live)
        total += tl.load(
            weight + row[:, None] * WIDTH + column, mask=live[:, None] & (column < WIDTH), other=0
        )
        lookup += 1
        more = tl.max((lookup < end).to(tl.int32), 0)
    tl.store(pooled + bag[:, None] * WIDTH + column, total, mask=exists[:, None] & (column < WIDTH))
