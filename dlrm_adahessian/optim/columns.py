"""A D x D preconditioner for the columns of each table, which accumulators per row or entry cannot represent.

With g_b the gradient of a sample's loss at the pooled embedding of one feature,

    C = mean over b of g_b g_b^T,   P = c C^-power,   g_b <- P g_b,

where c keeps the mean of |g_b|^2 unchanged. The gradient of a row is a sum of g_b. It is therefore preconditioned where
it is computed, before it is sent to the rank that owns the row, and the row rule needs no change. This is the column side
of Shampoo (Gupta, Koren, Singer, "Shampoo: Preconditioned Stochastic Tensor Optimization", 2018), with accumulators of
rows in place of its other side. Under the model, E[C] is the mean over b of p_b (1 - p_b) (dz_b/dx_b)(dz_b/dx_b)^T, the
Hessian block of a pooled embedding x_b if the logit z_b is piecewise linear in it (docs/mathematics.md).

The exact diagonal can be transformed too: it is e_b g_b^2 with one e_b per sample, so it becomes e_b (P g_b)^2. Other
estimates hold in coordinates only and cannot be transformed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from dlrm_adahessian.optim.base import new_counter
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    from torch import Tensor


@settings
class ColumnsConfig:
    """Preconditioner for the columns of each table, applied before the row rule."""

    power: float = Field(default=0.0, ge=0, le=1)
    """Exponent of the inverse root of C, the gradient's second moment; 0 is off."""
    decay: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the moving average C, per step; the first 1 / (1 - decay) steps use a plain mean."""
    refresh: int = Field(default=16, ge=1)
    """Steps between updates of the root; the first ones come after steps 1, 2, 4, ..."""
    damping: float = Field(default=0.01, gt=0)
    """Added to the eigenvalues of C, as a multiple of their mean."""

    def build(self, like: Tensor, features: int, dim: int) -> Columns | None:
        """Return the preconditioners, or None if they are off or there are no features; see `Columns` for the arguments."""
        return Columns(self, like, features, dim) if self.power and features else None


class Columns:
    """Preconditioners of F features."""

    def __init__(self, cfg: ColumnsConfig, like: Tensor, features: int, dim: int) -> None:
        """Start with the identity.

        Args:
            cfg: settings of the preconditioners.
            like: tensor with the device and dtype of the pooled embeddings.
            features: F.
            dim: D.
        """
        import torch

        self._cfg = cfg
        self.state = {
            "mean": like.new_zeros(features, dim, dim),
            "root": torch.eye(dim, dtype=like.dtype, device=like.device).repeat(features, 1, 1),
            "steps": new_counter(),
        }

    def num_bytes(self) -> int:
        """Return the bytes of the state."""
        return sum(tensor.nbytes for tensor in self.state.values())

    def factors(self, grad: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return C over the samples of a batch.

        Args:
            grad: (B, F, D), gradient of the mean loss.
            weights: (B,), weights of the samples in that mean; None for 1 each.

        Returns:
            (F, D, D), the mean with the same weights.
        """
        if weights is not None:  # the squared gradient would have each weight twice
            grad = grad * weights.rsqrt().where(weights > 0, 0.0).view(-1, 1, 1)
        by_feature = grad.transpose(0, 1)
        return (by_feature.transpose(1, 2) @ by_feature).mul_(len(grad))

    def observe_(self, factors: Tensor) -> None:
        """Add C (F, D, D) of a global batch to the moving average, and recompute the roots if they are due."""
        import torch

        cfg, mean = self._cfg, self.state["mean"]
        steps = int(self.state["steps"].add_(1))
        mean.lerp_(factors, max(1 - cfg.decay, 1 / steps))
        if steps & (steps - 1) and steps % cfg.refresh:
            return
        values, vectors = torch.linalg.eigh(mean.double())
        values = values.clamp_(min=0)
        level = values.mean(1, keepdim=True)
        values = (values / level).where(
            level > 0, 1.0
        ) + cfg.damping  # the identity for a feature without any gradient yet
        scale = values.pow(-cfg.power)
        scale *= (values.sum(1, keepdim=True) / (values * scale.square()).sum(1, keepdim=True)).sqrt()
        self.state["root"].copy_((vectors * scale.unsqueeze(1)) @ vectors.transpose(1, 2))

    def turned(self, grad: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Transform the gradient and the curvature of some samples to the new coordinates of the columns.

        Args:
            grad: (B, F, D).
            curvature: the exact diagonal (B, F, D), its mean over D (B, F, 1), or None.

        Returns:
            P g and the exact diagonal in the new coordinates, in the shapes of the inputs.
        """
        import torch

        turned = torch.empty_like(grad)
        torch.bmm(grad.transpose(0, 1), self.state["root"], out=turned.transpose(0, 1))
        if curvature is None:
            return turned, None
        width, columns = grad.shape[2], curvature.shape[2]
        # The root of e_b, from all features of a sample. Norms come first, because squares of small values underflow.
        length = torch.linalg.vector_norm(grad.flatten(1), dim=1).clamp_(min=torch.finfo(grad.dtype).tiny)
        factor = (curvature.sum((1, 2)) * (width / columns)).sqrt_().div_(length).view(-1, 1, 1)
        if columns == 1:
            norms = torch.linalg.vector_norm(turned, dim=2, keepdim=True)
            return turned, norms.mul_(factor).square_().div_(width)
        return turned, (turned * factor).square_()
