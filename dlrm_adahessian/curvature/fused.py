# pyright: basic
"""The exact diagonal's sums over the batch on a GPU, their operands made in one pass.

Squares rounded to bfloat16 halve what the product reads; sums are float32 always.
"""

import torch
from torch import Tensor, nn

from dlrm_adahessian.kernels import optional_triton
from dlrm_adahessian.runtime.device import matrix_products


def fuses(tensor: Tensor) -> bool:
    """Whether the fused kernel runs on the device of `tensor`."""
    return tensor.is_cuda and optional_triton.available


def multiplies_bf16(tensor: Tensor) -> bool:
    """Whether the GPU of `tensor` has units for products of bfloat16."""
    return torch.cuda.get_device_capability(tensor.device) >= (8, 0)


def layer_curvature_(
    layer: nn.Linear,
    inputs: Tensor,
    delta: Tensor,
    weight: Tensor,
    out: dict[Tensor, Tensor],
    *,
    rounded: bool,
) -> None:
    """Write sum_c weight_c * outer(delta_c^2, inputs_c^2) at a layer's weights, and at its bias without inputs.

    Args:
        layer: whose weight and bias name the places in `out`.
        inputs: (C, in).
        delta: (C, out).
        weight: (C,).
        out: where the sums go.
        rounded: keep the squares in bfloat16.
    """
    from dlrm_adahessian.kernels.triton_layer import weigh_and_square_triton

    dtype = torch.bfloat16 if rounded else delta.dtype
    delta_is_narrow = delta.shape[1] < inputs.shape[1]
    narrow, wide = (delta, inputs) if delta_is_narrow else (inputs, delta)
    weighted, plain = weigh_and_square_triton(narrow, wide.contiguous(), weight, dtype=dtype)
    delta_square, input_square = (weighted, plain) if delta_is_narrow else (plain, weighted)
    out[layer.weight].copy_(_product(delta_square.T, input_square))
    if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison], torch types it so
        # As a product, which tensor cores do several times faster than `sum` reads bfloat16.
        column = torch.ones_like(weight, dtype=dtype) if delta_is_narrow else weight.to(dtype)
        out[layer.bias].copy_(_product(delta_square.T, column.unsqueeze(1)).squeeze(1))


def _product(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype == torch.bfloat16:
        # cuBLAS adds up in float32; without `out_dtype` the sums would be rounded to bfloat16.
        return torch.mm(a, b, out_dtype=torch.float32)
    with matrix_products("fp32"):  # the gradient's products may be tf32
        return a @ b
