# pyright: basic
"""Hessian Adagrad on touched rows: Adagrad with the squared gradient replaced by its expectation.

For one sample E[g^2] = h under the model, h the Hessian diagonal (Fisher; h = p (1 - p) (dz/dw)^2 where the logit is
piecewise linear). So for the mean loss over B samples

    s += max(|h| / B, floor * g^2),   w -= lr * clip(g / (sqrt(s) + eps))

in the units of Adagrad: h = 0 and floor = 1 make it Adagrad. A row that no sampled curvature reached in this step adds
g^2, which has the same expectation, so the accumulator grows alike however often curvature is computed.

Rowwise, h and g^2 are means over the entries of the row. Elementwise, the first step of a row that one sample hits has the
size |p - y| / sqrt(p (1 - p)), at most 1 / sqrt(floor), in every entry; rowwise it keeps the direction of the gradient.
"""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from dlrm_adahessian.kernels.hits import Hits
from dlrm_adahessian.kernels.optional_triton import jit, tl
from dlrm_adahessian.optim.base import RowRule
from dlrm_adahessian.optim.config import HessianAdagradConfig

_NO_CLIP = float("inf")


class HessianAdagrad(RowRule):
    """One accumulator per entry or per row."""

    def __init__(self, cfg: HessianAdagradConfig) -> None:
        self.cfg = cfg

    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return `sum` (R, D) or (R,), the accumulated expected squared gradients."""
        return {"sum": weight.new_zeros(weight.shape[:1] if self.cfg.rowwise else weight.shape)}

    @property
    def direction_triton(self) -> Any:
        """The rule as a function that the GPU kernels inline."""
        return _direction

    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: int
    ) -> None:
        """Update in tensor operations."""
        cfg = self.cfg
        expected = hits.grad.square()
        if cfg.rowwise:
            expected = expected.mean(1, keepdim=True)
        if hits.curvature is not None and hits.has_curvature is not None:
            curvature = hits.curvature.abs() / samples
            guarded = torch.maximum(curvature, cfg.curvature_floor * expected)
            expected = torch.where(hits.has_curvature.unsqueeze(1), guarded, expected)
        sums = self._sums(state)
        total = sums[hits.rows] + expected
        sums[hits.rows] = total
        direction = hits.grad / total.sqrt_().add_(cfg.eps)
        if cfg.clip is not None:
            direction.clamp_(-cfg.clip, cfg.clip)
        weight[hits.rows] -= cfg.lr * lr_scale * direction

    def update_numba_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: int
    ) -> None:
        """Update in one compiled pass."""
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


@numba.njit(cache=True, parallel=True)
def _update(w, s, rowwise, rows, g, h, has_h, lr, eps, floor, clip, per_sample):
    # s and h are (., D), or (., 1) when rowwise. Two plain loops, since one over both shapes is not vectorized.
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


@jit
def _direction(
    states, weight, row, entry, touched, here, grad, curvature, has_curvature, samples, cfg, width
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
