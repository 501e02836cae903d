# pyright: basic
"""Adagrad on touched rows: s += g^2, w -= lr * g / (sqrt(s) + eps), as on the dense part."""

from typing import Any

import numba
import numpy as np
from torch import Tensor

from dlrm_adahessian.kernels.hits import Hits
from dlrm_adahessian.kernels.optional_triton import jit, tl
from dlrm_adahessian.optim.base import RowRule
from dlrm_adahessian.optim.config import RowAdagradConfig


class RowAdagrad(RowRule):
    """One accumulator per entry; ignores curvature."""

    def __init__(self, cfg: RowAdagradConfig) -> None:
        self.cfg = cfg

    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return `sum` (R, D), the accumulated squared gradients."""
        return {"sum": weight.new_zeros(weight.shape)}

    @property
    def direction_triton(self) -> Any:
        """The rule as a function that the GPU kernels inline."""
        return _direction

    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: int
    ) -> None:
        """Update in tensor operations."""
        del samples
        total = state["sum"][hits.rows].addcmul_(hits.grad, hits.grad)
        state["sum"][hits.rows] = total
        direction = hits.grad / total.sqrt_().add_(self.cfg.eps)
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
    for i in numba.prange(len(rows)):
        r = rows[i]
        for d in range(w.shape[1]):
            s[r, d] += g[i, d] * g[i, d]
            w[r, d] -= lr * g[i, d] / (np.sqrt(s[r, d]) + eps)


@jit
def _direction(
    states, weight, row, entry, touched, here, grad, curvature, has_curvature, samples, cfg, width
):
    total = tl.load(states[0] + entry, mask=here, other=0) + grad * grad
    tl.debug_barrier()
    tl.store(states[0] + entry, total, mask=here)
    return grad / (tl.sqrt(total) + cfg.eps)
