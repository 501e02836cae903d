# pyright: basic
# pyright: reportArgumentType=false
# Kernel arguments have Triton types, which Triton's own annotations do not describe.
"""Hessian Adagrad on embedding rows: Adagrad with the squared gradient replaced by its expectation.

For one sample, E[g^2] = h under the model, with h the Hessian diagonal (Fisher; h = p (1 - p) (dz/dw)^2 if the logit is
piecewise linear). For the mean loss over B samples this gives

    s += max(|h| / B, floor * g^2),   w -= lr * clip(g / (sqrt(s) + eps))

in the units of Adagrad: h = 0 and floor = 1 make it Adagrad. A row without sampled curvature in a step adds g^2, which has
the same expectation. The growth of the accumulator therefore does not depend on how often curvature is computed.

Rowwise, h and g^2 are means over the entries of the row. Elementwise, the first step of a row with one sample has the size
|p - y| / sqrt(p (1 - p)) in every entry, at most 1 / sqrt(floor); rowwise it keeps the direction of the gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from dlrm_adahessian.kernels.compiled import numba_kernel, triton_kernel
from dlrm_adahessian.optim.base import PooledCurvature, RowRule, Tuned, rate
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    import numba
    import triton.language as tl
    from torch import Tensor

    from dlrm_adahessian.kernels.row_sums import Hits

_NO_CLIP = float("inf")


@settings
class HessianAdagradConfig:
    """Adagrad with the squared gradient replaced by its expectation, the curvature."""

    tuned: ClassVar[Tuned] = {"lr": rate(0.05)}
    name: Literal["hessian_adagrad"] = "hessian_adagrad"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.02, gt=0)
    """Peak learning rate of the embedding rows."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator, in gradient units of the mean loss, as in Adagrad."""
    rowwise: bool = False
    """Use one accumulator per row, for the mean over its entries (R numbers instead of R * D)."""
    curvature_floor: float = Field(default=1.0, ge=0)
    """Lower bound of the accumulated curvature, as a multiple of the squared gradient; 0 needs `clip`."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Maximum size of an entry of the direction, before the learning rate."""

    @property
    def pooled_curvature(self) -> PooledCurvature:
        """The pooled curvature that the rule reads: one value per accumulator."""
        return "mean" if self.rowwise else "entries"

    @model_validator(mode="after")
    def _guarded(self) -> HessianAdagradConfig:
        # p(1-p) vanishes on confident mistakes, but the gradient does not.
        if self.curvature_floor == 0 and self.clip is None:
            raise ValueError(
                "hessian_adagrad with curvature_floor 0 needs a clip, or its steps are unbounded. Set clip, e.g. to 1.0."
            )
        return self

    def build(self) -> RowRule:
        """Return the row rule with these settings."""
        return HessianAdagrad(self)


class HessianAdagrad(RowRule):
    """Hessian Adagrad with one accumulator per entry or per row."""

    sums = ("sum",)

    def __init__(self, cfg: HessianAdagradConfig) -> None:
        self.cfg = cfg

    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return `sum` (R, D) or (R,), the accumulated expected squared gradients."""
        return {"sum": weight.new_zeros(weight.shape[:1] if self.cfg.rowwise else weight.shape)}

    @property
    def direction_triton(self) -> Any:
        """The rule as a Triton function that the GPU kernels inline."""
        return _direction.compiled

    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update with tensor operations."""
        cfg = self.cfg
        expected = hits.grad.square()
        if cfg.rowwise:
            expected = expected.mean(1, keepdim=True)
        if hits.curvature is not None and hits.has_curvature is not None:
            curvature = hits.curvature.abs() / samples
            guarded = curvature.maximum(cfg.curvature_floor * expected)
            expected = guarded.where(hits.has_curvature.unsqueeze(1), expected)
        sums = self._sums(state)
        total = sums[hits.rows] + expected
        sums[hits.rows] = total
        direction = hits.grad / total.sqrt_().add_(cfg.eps)
        if cfg.clip is not None:
            direction.clamp_(-cfg.clip, cfg.clip)
        weight[hits.rows] -= cfg.lr * lr_scale * direction

    def update_numba_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update in one compiled pass on the CPU."""
        cfg, w, g = self.cfg, weight.numpy(), hits.grad.numpy()
        real = w.dtype.type
        curvature, has_curvature = hits.curvature_arrays()
        _update(
            w,
            self._sums(state).numpy(),
            cfg.rowwise,
            hits.rows.numpy(),
            g,
            curvature,
            has_curvature,
            real(cfg.lr * lr_scale),
            real(cfg.eps),
            real(cfg.curvature_floor),
            real(_NO_CLIP if cfg.clip is None else cfg.clip),
            real(1 / samples),
        )

    def _sums(self, state: dict[str, Tensor]) -> Tensor:
        """Return a view (R, D) or (R, 1) of the accumulators."""
        return state["sum"].unsqueeze(1) if self.cfg.rowwise else state["sum"]


@numba_kernel
def _update(w, s, rowwise, rows, g, h, has_h, lr, eps, floor, clip, per_sample):
    # s and h are (., D), or (., 1) when rowwise. There are two loops, because one for both shapes is not vectorized.
    zero, width = lr - lr, w.shape[1]
    for i in numba.prange(len(rows)):
        r = rows[i]
        if rowwise:
            square = zero
            for d in range(width):
                square += g[i, d] * g[i, d]
            expected = square / width
            if has_h[i]:
                expected = max(abs(h[i, 0]) * per_sample, floor * expected)
            s[r, 0] += expected
            root = np.sqrt(s[r, 0]) + eps
            for d in range(width):
                w[r, d] -= lr * min(max(g[i, d] / root, -clip), clip)
        else:
            for d in range(width):
                expected = g[i, d] * g[i, d]
                if has_h[i]:
                    expected = max(abs(h[i, d]) * per_sample, floor * expected)
                s[r, d] += expected
                direction = g[i, d] / (np.sqrt(s[r, d]) + eps)
                w[r, d] -= lr * min(max(direction, -clip), clip)


@triton_kernel
def _direction(
    states, weight, row, entry, touched, here, grad, curvature, has_curvature, count, samples, cfg, width
):
    square = grad * grad
    slot, present = entry, here
    if cfg.rowwise:
        square, curvature = tl.sum(square, 1)[:, None] / width, tl.sum(curvature, 1)[:, None] / width
        slot, present = row, touched
    expected = tl.maximum(tl.abs(curvature) / samples, cfg.curvature_floor * square)
    total = tl.load(states[0] + slot, mask=present, other=0) + tl.where(has_curvature, expected, square)
    tl.debug_barrier()
    tl.store(states[0] + slot, total, mask=present)
    direction = grad / (tl.sqrt(total) + cfg.eps)
    if cfg.clip is not None:
        direction = tl.minimum(tl.maximum(direction, -cfg.clip), cfg.clip)
    return direction
