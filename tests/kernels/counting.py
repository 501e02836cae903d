# pyright: basic
# pyright: reportArgumentType=false, reportOperatorIssue=false
"""A kernel that returns the counts of `_repeats`. It has its own file, because Triton looks up names in a file's globals."""

import triton.language as tl
from triton import jit

from dlrm_adahessian.kernels.triton_rows import _repeats


@jit
def count_repeats(keys, order, bags, found, num_lookups, TILE: tl.constexpr):
    lookup = tl.arange(0, TILE)
    exists = lookup < num_lookups
    row = tl.load(keys + lookup, mask=exists, other=-1)
    before = tl.load(keys + lookup - 1, mask=exists & (lookup > 0), other=-1)
    bag = tl.load(bags + tl.load(order + lookup, mask=exists, other=0), mask=exists, other=0)
    starts = (row != before).to(tl.int32)
    tl.store(found + lookup, _repeats(keys, order, bags, lookup, exists, row, bag, starts))
