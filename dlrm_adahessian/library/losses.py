"""Second derivatives of losses that sum over samples, with respect to each sample's output.

With l_b the loss of sample b and u_b its factor in the loss that calls backward, a sample's part of the curvature is
w_b (dz_b/dtheta)^2 with w_b = u_b l_b''(z_b). For the logistic loss, l'' = p (1 - p) for any label; for the squared loss,
it is 2. Confident samples lose no precision, because 1 - p is computed as sigmoid(-z).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SecondDerivative:
    """Second derivative of one call of a loss, per sample.

    Attributes:
        factors: u, (B,), including the divisor of the reduction.
        curvature: w, (B,), the product of u and l''.
    """

    factors: Tensor
    curvature: Tensor

    def scaled(self, slopes: Tensor) -> "SecondDerivative":
        """Return the second derivative of the loss times `slopes`, () or (B,)."""
        return SecondDerivative(factors=self.factors * slopes, curvature=self.curvature * slopes)

    def __add__(self, other: "SecondDerivative") -> "SecondDerivative":
        return SecondDerivative(
            factors=self.factors + other.factors, curvature=self.curvature + other.curvature
        )


def second_derivative(
    loss: Callable[..., Any], output: Tensor, target: Tensor, options: Mapping[str, Any]
) -> SecondDerivative:
    """Return the second derivative of a call of a loss.

    Args:
        loss: a function in `LOSSES`.
        output: (B,) or (B, 1) outputs passed to it.
        target: same shape as `output`.
        options: its other arguments.

    Returns:
        The second derivative in float32, or in the dtype of `output` if that is wider.

    Raises:
        ValueError: shapes differ, which would pair all outputs with all targets, or a deprecated option is used.
    """
    if options.get("size_average") is not None or options.get("reduce") is not None:
        raise ValueError("size_average and reduce of losses are deprecated. Use reduction.")
    wide = torch.promote_types(output.dtype, torch.float32)
    at, labels = output.detach().to(wide), target.detach().to(wide)
    factors = torch.ones_like(at)
    weight, positive = options.get("weight"), options.get("pos_weight")
    if weight is not None:
        factors = factors * weight.detach()
    if positive is not None:
        factors = factors * (1 + (positive.detach() - 1) * labels)
    if not at.shape == labels.shape == factors.shape:
        raise ValueError(
            f"The loss needs outputs, targets and weights of one shape, but got {tuple(at.shape)}, {tuple(labels.shape)} "
            f"and {tuple(factors.shape)}. Squeeze the outputs."
        )
    if options.get("reduction", "mean") == "mean":
        divides_by_weight = loss is F.mse_loss and weight is not None
        factors = factors / (factors.sum() if divides_by_weight else at.numel())
    return SecondDerivative(factors=factors.reshape(-1), curvature=(factors * LOSSES[loss](at)).reshape(-1))


def _logistic(logits: Tensor) -> Tensor:
    return logits.sigmoid() * (-logits).sigmoid()


def _squared(outputs: Tensor) -> Tensor:
    return torch.full_like(outputs, 2)


LOSSES: dict[Callable[..., Any], Callable[[Tensor], Tensor]] = {
    F.binary_cross_entropy_with_logits: _logistic,
    F.mse_loss: _squared,
}
"""Losses with known curvature, with l'' as a function of the outputs."""
