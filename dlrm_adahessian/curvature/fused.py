# pyright: basic
"""The exact diagonal's sums over the batch on a GPU, their operands made in one pass.

With slopes delta_b of logit b at a layer's output, inputs a_b, residuals r_b and weights w_b,

    grad = sum_b r_b outer(delta_b, a_b),   curvature = sum_b w_b outer(delta_b^2, a_b^2).

Squares rounded to bfloat16 halve what the second product reads; sums are float32 always.
"""

import torch
from torch import Tensor, nn

from dlrm_adahessian.kernels import optional_triton
from dlrm_adahessian.precision import matrix_products


def fuses(tensor: Tensor) -> bool:
    """Whether the fused kernel runs on the device of `tensor`."""
    return tensor.is_cuda and optional_triton.available


def multiplies_bf16(tensor: Tensor) -> bool:
    """Whether the GPU of `tensor` has units for products of bfloat16."""
    return torch.cuda.get_device_capability(tensor.device) >= (8, 0)


def layer_sums_(
    layer: nn.Linear,
    delta: Tensor,
    inputs: Tensor,
    residual: Tensor,
    weight: Tensor,
    grad_of: dict[Tensor, Tensor],
    curvature_of: dict[Tensor, Tensor],
    *,
    rounded: bool,
) -> None:
    """Write both sums at the weights and at the bias of a layer.

    Args:
        layer: whose weight and bias name the places in `grad_of` and `curvature_of`.
        delta: (B, out) slopes.
        inputs: (B, in).
        residual: (B,).
        weight: (C,), of the first C samples.
        grad_of: where the gradients go.
        curvature_of: where the curvatures go.
        rounded: keep the squares in bfloat16.
    """
    from dlrm_adahessian.kernels.triton_layer import weigh_and_square_triton

    dtype = torch.bfloat16 if rounded else delta.dtype
    delta_is_narrow = delta.shape[1] < inputs.shape[1]
    narrow, wide = (delta, inputs) if delta_is_narrow else (inputs, delta)
    weighted, narrow_square, wide_square = weigh_and_square_triton(
        narrow, wide.contiguous(), residual, weight, dtype=dtype
    )
    if delta_is_narrow:
        torch.mm(weighted.T, inputs, out=grad_of[layer.weight])
        curvature = _product(narrow_square.T, wide_square)
    else:
        torch.mm(delta.T, weighted, out=grad_of[layer.weight])
        curvature = _product(wide_square.T, narrow_square)
    curvature_of[layer.weight].copy_(curvature)
    if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison], torch types it so
        torch.mv(delta.T, residual, out=grad_of[layer.bias])
        # As products, which tensor cores do several times faster than `sum` reads bfloat16.
        if delta_is_narrow:
            sums = _product(narrow_square.T, torch.ones_like(weight, dtype=dtype).unsqueeze(1))
        else:
            sums = _product(wide_square.T, weight.to(dtype).unsqueeze(1))
        curvature_of[layer.bias].copy_(sums.squeeze(1))


def pooled_derivatives(slopes: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient and the Hessian diagonal at the pooled embeddings.

    Args:
        slopes: (B, F, D) of the logits; may be overwritten.
        residual: (B,).
        weight: (C,), of the first C samples.

    Returns:
        (B, F, D) each; the second is zero after C samples.
    """
    samples = len(weight)
    if fuses(slopes):
        from dlrm_adahessian.kernels.triton_layer import weigh_and_square_triton

        flat = slopes.flatten(1)
        grad, curvature, _ = weigh_and_square_triton(flat, flat[:, :0], residual, weight, dtype=slopes.dtype)
        rest = curvature.new_zeros(len(slopes) - samples, curvature.shape[1])
        curvature = torch.cat([curvature, rest]) if len(rest) else curvature
        return grad.view_as(slopes), curvature.view_as(slopes)
    curvature = torch.zeros_like(slopes)
    part = curvature[:samples]
    torch.mul(slopes[:samples], weight.view(-1, 1, 1), out=part).mul_(slopes[:samples])
    return slopes.mul_(residual.view(-1, 1, 1)), curvature


def _product(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype == torch.bfloat16:
        # cuBLAS adds up in float32; without `out_dtype` the sums would be rounded to bfloat16.
        return torch.mm(a, b, out_dtype=torch.float32)
    with matrix_products("fp32"):  # the gradient's products may be tf32
        return a @ b
