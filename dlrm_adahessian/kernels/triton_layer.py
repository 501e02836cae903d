# pyright: basic
# pyright: reportArgumentType=false, reportOperatorIssue=false
# In kernels the types are Triton's, which its own annotations miss.
"""Operands of a linear layer's gradient and Hessian diagonal, from its activations in one pass.

With tensor cores the step is bound by memory, and separate operations would read and write each activation several
times for its square and its weighted copies.
"""

import torch
import triton.language as tl
from torch import Tensor
from triton import jit

_ENTRIES = 2048  # of a program


def weigh_and_square_triton(
    narrow: Tensor, wide: Tensor, residual: Tensor, weight: Tensor, *, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `residual * narrow`, and in `dtype` `weight * narrow**2` and `wide**2` of the first C samples.

    Args:
        narrow: (B, n) floating, each sample's entries contiguous.
        wide: (B, m) contiguous; m may be 0.
        residual: (B,).
        weight: (C,), C at most B.
        dtype: of the squares.

    Returns:
        (B, n) like `narrow`, (C, n), (C, m).
    """
    samples = weight.shape[0]
    weighted = narrow.new_empty(narrow.shape)
    narrow_square = narrow.new_empty((samples, narrow.shape[1]), dtype=dtype)
    wide_square = wide.new_empty((samples, wide.shape[1]), dtype=dtype)
    programs = -(-max(narrow.numel(), wide_square.numel()) // _ENTRIES)
    _weigh_and_square[(programs,)](
        narrow, wide, residual, weight, weighted, narrow_square, wide_square,
        narrow.numel(), narrow_square.numel(), wide_square.numel(),
        narrow.stride(0), NARROW=narrow.shape[1], ENTRIES=_ENTRIES,
    )  # fmt: skip
    return weighted, narrow_square, wide_square


@jit
def _weigh_and_square(
    narrow, wide, residual, weight, weighted, narrow_square, wide_square, num_narrow, num_narrow_square, num_wide_square,
    stride, NARROW: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * ENTRIES
    entry = first + tl.arange(0, ENTRIES)
    if first < num_narrow:
        sample = entry // NARROW
        value = tl.load(narrow + sample * stride + entry % NARROW, mask=entry < num_narrow, other=0)
        r = tl.load(residual + sample, mask=entry < num_narrow, other=0)
        tl.store(weighted + entry, r * value, mask=entry < num_narrow)
        w = tl.load(weight + sample, mask=entry < num_narrow_square, other=0)
        square = (w * (value * value)).to(narrow_square.dtype.element_ty)
        tl.store(narrow_square + entry, square, mask=entry < num_narrow_square)
    value = tl.load(wide + entry, mask=entry < num_wide_square, other=0)
    square = (value * value).to(wide_square.dtype.element_ty)
    tl.store(wide_square + entry, square, mask=entry < num_wide_square)
