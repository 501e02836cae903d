# pyright: basic
"""Rowwise Adagrad on touched rows: s += mean over the row of g^2, w -= lr * g / (sqrt(s) + eps).

The optimizer that FBGEMM calls EXACT_ROWWISE_ADAGRAD and that large DLRMs are trained with: 1/D of Adagrad's memory.
"""

from typing import Any

import numba
import numpy as np
from torch import Tensor

from dlrm_adahessian.kernels.hits import Hits
from dlrm_adahessian.kernels.optional_triton import jit, tl
from dlrm_adahessian.optim.base import RowRule
from dlrm_adahessian.optim.config import RowwiseAdagradConfig


class RowwiseAdagrad(RowRule):
    """One accumulator per row; ignores curvature."""

    def __init__(self, cfg: RowwiseAdagradConfig) -> None:
        self.cfg = cfg

    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return `sum` (R,), the accumulated mean squared gradients."""
        return {"sum": weight.new_zeros(len(weight))}

    @property
    def direction_triton(self) -> Any:
        """The rule as a function that the GPU kernels inline."""
        return _direction

    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: int
    ) -> None:
        """Update in tensor operations."""
        del samples
        total = state["sum"][hits.rows] + hits.grad.square().mean(1)
        state["sum"][hits.rows] = total
        direction = hits.grad / total.sqrt_().add_(self.cfg.eps).unsqueeze(1)
        weight[hits.rows] -= self.cfg.lr * lr_scale * direction

    def update_numba_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: int
    ) -> None:
        """Update in one compiled pass."""
        del samples
        w, s, g = weight.numpy(), state["sum"].numpy(), hits.grad.numpy()
        real = w.dtype.type
        _update(w, s, hits.rows.numpy(), g, real(self.cfg.lr * lr_scale), real(self.cfg.eps))


@numba.njit(cache=True, parallel=True)
def _update(w, s, rows, g, lr, eps):
    width = w.shape[1]
    for i in numba.prange(len(rows)):
        r = rows[i]
        squares = s[r] * 0
        for d in range(width):
            squares += g[i, d] * g[i, d]
        s[r] += squares / width
        scale = lr / (np.sqrt(s[r]) + eps)
        for d in range(width):
            w[r, d] -= scale * g[i, d]


@jit
def _direction(
    states, weight, row, entry, touched, here, grad, curvature, has_curvature, samples, cfg, width
):
    mean_square = tl.sum(grad * grad, 1)[:, None] / width
    total = tl.load(states[0] + row, mask=touched, other=0) + mean_square
    tl.debug_barrier()
    tl.store(states[0] + row, total, mask=touched)
    return grad / (tl.sqrt(total) + cfg.eps)
