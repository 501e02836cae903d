# pyright: basic
"""Gradient descent on touched rows: w -= lr * g, g the gradient of the mean loss, as torch.optim.SGD has it.

A row hit by one sample of B gets 1/B of that sample's gradient, so rows want a larger learning rate than the dense part,
and one that grows with the batch size.
"""

from typing import Any

import numba
from torch import Tensor

from dlrm_adahessian.kernels.hits import Hits
from dlrm_adahessian.kernels.optional_triton import jit, tl  # noqa: F401 -- the interpreter looks for `tl` here
from dlrm_adahessian.optim.base import RowRule
from dlrm_adahessian.optim.config import RowSGDConfig


class RowSGD(RowRule):
    """No state; ignores curvature."""

    def __init__(self, cfg: RowSGDConfig) -> None:
        self.cfg = cfg

    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return no state."""
        del weight
        return {}

    @property
    def direction_triton(self) -> Any:
        """The rule as a function that the GPU kernels inline."""
        return _direction

    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: int
    ) -> None:
        """Update in tensor operations."""
        del state, samples
        weight[hits.rows] -= self.cfg.lr * lr_scale * hits.grad

    def update_numba_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: int
    ) -> None:
        """Update in one compiled pass."""
        del state, samples
        w = weight.numpy()
        _update(w, hits.rows.numpy(), hits.grad.numpy(), w.dtype.type(self.cfg.lr * lr_scale))


@numba.njit(cache=True, parallel=True)
def _update(w, rows, g, lr):
    for i in numba.prange(len(rows)):
        r = rows[i]
        for d in range(w.shape[1]):
            w[r, d] -= lr * g[i, d]


@jit
def _direction(
    states, weight, row, entry, touched, here, grad, curvature, has_curvature, samples, cfg, width
):
    return grad
