# pyright: basic
"""CowClip on embedding rows: lazy Adam with each row's gradient clipped to the row's norm, for large batches.

Zheng, Xu, Zou, Tang, Huang, Xi, Xie, Gu, You, "CowClip: Reducing CTR Prediction Model Training Time from 12 hours to 10
minutes on 1 GPU", 2023, algorithm 1. The gradient of a row w that a batch looks up n times is clipped to the norm

    n * max(r * ||w||, zeta).

A bag that contains the row m times counts m times, because the row's gradient contains the bag's gradient m times.

In large batches, frequent rows have large gradients and rare rows do not, but both share one learning rate. After the
clip, Adam updates only the rows of the batch, as in adam.py. The paper applies weight decay to all rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.kernels.compiled import triton_kernel
from dlrm_adahessian.optim.base import PooledCurvature, Range, RowRule, Tuned, rate
from dlrm_adahessian.optim.rows.adam import RowAdam, adam_direction
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    import triton.language as tl
    from torch import Tensor

    from dlrm_adahessian.kernels.row_sums import Hits


@settings
class CowClipConfig:
    """Lazy Adam with each row's gradient clipped to the row's norm (Zheng et al. 2023), for large batches."""

    pooled_curvature: ClassVar[PooledCurvature] = "none"
    tuned: ClassVar[Tuned] = {"lr": rate(0.005), "weight_decay": Range(1e-3, 1.0)}
    name: Literal["cowclip"] = "cowclip"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.005, gt=0)
    """Peak learning rate of the embedding rows."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the gradient mean, per update of the row."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the mean squared gradient, per update of the row."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator, in gradient units."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay: each update shrinks a row by lr * weight_decay."""
    ratio: float = Field(default=1.0, gt=0)
    """Maximum gradient norm per lookup, as a multiple of the row's norm (r in the paper)."""
    least: float = Field(default=1e-5, gt=0)
    """Gradient norm per lookup that is never clipped, for rows near 0 (zeta in the paper)."""

    def build(self) -> RowRule:
        """Return the row rule with these settings."""
        return CowClip(self)


class CowClip(RowAdam):
    """Lazy Adam that clips the gradient of each row first."""

    cfg: CowClipConfig  # has all settings that lazy Adam reads

    @property
    def mixes_columns(self) -> bool:
        """Always true, because the norms cover whole rows."""
        return True

    @property
    def direction_triton(self) -> Any:
        """The rule as a Triton function that the GPU kernels inline."""
        return _direction.compiled

    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update with tensor operations."""
        super().update_torch_(weight, state, self._clipped(weight, hits), lr_scale=lr_scale, samples=samples)

    def update_numba_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Clip with tensor operations, then update in one compiled pass on the CPU."""
        super().update_numba_(weight, state, self._clipped(weight, hits), lr_scale=lr_scale, samples=samples)

    def _clipped(self, weight: Tensor, hits: Hits) -> Hits:
        cfg, grad = self.cfg, hits.grad
        most = (cfg.ratio * weight[hits.rows].norm(dim=1)).clamp_(min=cfg.least) * hits.count
        norm = grad.norm(dim=1)
        return replace(hits, grad=grad * (most / norm.maximum(most)).unsqueeze(1))


@triton_kernel
def _direction(
    states, weight, row, entry, touched, here, grad, curvature, has_curvature, count, samples, cfg, width
):
    norm = tl.sqrt(tl.sum(grad * grad, 1))[:, None]
    most = tl.maximum(cfg.ratio * tl.sqrt(tl.sum(weight * weight, 1))[:, None], cfg.least) * count
    clipped = grad * (most / tl.maximum(norm, most))
    return adam_direction(
        states,
        weight,
        row,
        entry,
        touched,
        here,
        clipped,
        curvature,
        has_curvature,
        count,
        samples,
        cfg,
        width,
    )
