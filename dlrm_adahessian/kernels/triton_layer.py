# pyright: basic
# pyright: reportArgumentType=false, reportOperatorIssue=false
# In kernels the types are Triton's, which its own annotations miss.
"""Operands of the Hessian diagonal of a linear layer, from its activations in one pass.

With tensor cores the step is bound by memory, and separate operations would read and write each activation several
times for its square and its weighted copy.
"""

import torch
import triton.language as tl
from torch import Tensor
from triton import jit

_ENTRIES = 2048  # of a program


def weigh_and_square_triton(
    narrow: Tensor, wide: Tensor, weight: Tensor, *, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return `weight * narrow**2` and `wide**2`.

    Args:
        narrow: (C, n) floating, each sample's entries contiguous.
        wide: (C, m) contiguous; m may be 0.
        weight: (C,).
        dtype: of the squares.

    Returns:
        (C, n), (C, m).
    """
    narrow_square = narrow.new_empty(narrow.shape, dtype=dtype)
    wide_square = wide.new_empty(wide.shape, dtype=dtype)
    programs = -(-max(narrow.numel(), wide.numel()) // _ENTRIES)
    _weigh_and_square[(programs,)](
        narrow, wide, weight, narrow_square, wide_square, narrow.numel(), wide.numel(),
        narrow.stride(0), NARROW=narrow.shape[1], ENTRIES=_ENTRIES,
    )  # fmt: skip
    return narrow_square, wide_square


@jit
def _weigh_and_square(
    narrow, wide, weight, narrow_square, wide_square, num_narrow, num_wide,
    stride, NARROW: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * ENTRIES
    entry = first + tl.arange(0, ENTRIES)
    if first < num_narrow:
        sample = entry // NARROW
        value = tl.load(narrow + sample * stride + entry % NARROW, mask=entry < num_narrow, other=0)
        w = tl.load(weight + sample, mask=entry < num_narrow, other=0)
        square = (w * (value * value)).to(narrow_square.dtype.element_ty)
        tl.store(narrow_square + entry, square, mask=entry < num_narrow)
    value = tl.load(wide + entry, mask=entry < num_wide, other=0)
    square = (value * value).to(wide_square.dtype.element_ty)
    tl.store(wide_square + entry, square, mask=entry < num_wide)
