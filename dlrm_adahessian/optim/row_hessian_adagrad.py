# pyright: basic
"""Hessian Adagrad on touched rows: Adagrad with the squared gradient replaced by its expectation.

For one sample E[g^2] = h under the model, h the Hessian diagonal (Fisher; h = p (1 - p) (dz/dw)^2 where the logit is
piecewise linear). So for the mean loss over B samples

    s += max(|h| / B, floor * g^2),   w -= lr * clip(g / (sqrt(s) + eps))

in the units of Adagrad: h = 0 and floor = 1 make it Adagrad. A row that no sampled curvature reached in this step adds
g^2, which has the same expectation, so the accumulator grows alike however often curvature is computed.
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
    """One accumulator per entry."""

    def __init__(self, cfg: HessianAdagradConfig) -> None:
        self.cfg = cfg

    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return `sum` (R, D), the accumulated expected squared gradients."""
        return {"sum": weight.new_zeros(weight.shape)}

    @property
    def direction_triton(self) -> Any:
        """The rule as a function that the GPU kernels inline."""
        return _direction

    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: int
    ) -> None:
        """Update in tensor operations."""
        cfg, squares = self.cfg, hits.grad.square()
        if hits.curvature is None or hits.has_curvature is None:
            expected = squares
        else:
            expected = torch.maximum(hits.curvature.abs() / samples, cfg.curvature_floor * squares)
            expected = torch.where(hits.has_curvature.unsqueeze(1), expected, squares)
        total = state["sum"][hits.rows] + expected
        state["sum"][hits.rows] = total
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
            state["sum"].numpy(),
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


@numba.njit(cache=True, parallel=True)
def _update(w, s, rows, g, h, has_h, lr, eps, floor, clip, per_sample):
    for i in numba.prange(len(rows)):
        r = rows[i]
        for d in range(w.shape[1]):
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
    expected = tl.maximum(tl.abs(curvature) / samples, cfg.curvature_floor * square)
    total = tl.load(states[0] + entry, mask=here, other=0) + tl.where(has_curvature, expected, square)
    tl.debug_barrier()
    tl.store(states[0] + entry, total, mask=here)
    direction = grad / (tl.sqrt(total) + cfg.eps)
    if cfg.clip is not None:
        direction = tl.minimum(tl.maximum(direction, -cfg.clip), cfg.clip)
    return direction
