# pyright: basic
"""CowClip on touched rows: lazy Adam whose gradient of a row is no longer than the row itself, for large batches.

Zheng, Xu, Zou, Tang, Huang, Xi, Xie, Gu, You, "CowClip: Reducing CTR Prediction Model Training Time from 12 hours to 10
minutes on 1 GPU", 2023, algorithm 1: the gradient of a row w that was looked up n times in a batch is cut to a norm of

    n * max(r * ||w||, zeta).

A bag that holds the row m times counts m times, as the gradient of the row has that of the bag m times.

In large batches frequent rows have large gradients and rare ones do not, and one rate has to serve both. Then Adam
steps, on touched rows only, as in adam.py; the paper's decays all rows.
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
    """Lazy Adam whose gradient of a row is clipped to the row's own length (Zheng et al. 2023), for large batches."""

    pooled_curvature: ClassVar[PooledCurvature] = "none"
    tuned: ClassVar[Tuned] = {"lr": rate(0.005), "weight_decay": Range(1e-3, 1.0)}
    name: Literal["cowclip"] = "cowclip"
    """Which rule; a preset names it."""
    lr: float = Field(default=0.005, gt=0)
    """Learning rate."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients, a touch of the row."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the mean of squared gradients, a touch of the row."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled: a row shrinks by lr * weight_decay a touch."""
    ratio: float = Field(default=1.0, gt=0)
    """Norm of the gradient per lookup of the row, over the norm of the row: r of the paper."""
    least: float = Field(default=1e-5, gt=0)
    """Norm per lookup that is always let pass, since rows may begin near 0: zeta of the paper."""

    def build(self) -> RowRule:
        """Return the rule."""
        return CowClip(self)


class CowClip(RowAdam):
    """Clips the gradient of each row, and leaves the rest to lazy Adam."""

    cfg: CowClipConfig  # has all that lazy Adam reads

    @property
    def mixes_columns(self) -> bool:
        """Yes: the norms are of whole rows."""
        return True

    @property
    def direction_triton(self) -> Any:
        """The rule as a function that the GPU kernels inline."""
        return _direction.compiled

    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update in tensor operations."""
        super().update_torch_(weight, state, self._clipped(weight, hits), lr_scale=lr_scale, samples=samples)

    def update_numba_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Clip in tensor operations, and update in one compiled pass."""
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
