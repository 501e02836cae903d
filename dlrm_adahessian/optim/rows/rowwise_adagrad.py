# pyright: basic
# pyright: reportArgumentType=false
# Kernel arguments have Triton types, which Triton's own annotations do not describe.
"""Rowwise Adagrad on embedding rows: s += mean over the row of g^2, w -= lr * g / (sqrt(s) + eps).

FBGEMM calls it EXACT_ROWWISE_ADAGRAD. It is a common choice for large DLRMs, since it needs 1/D of Adagrad's memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from dlrm_adahessian.kernels.compiled import numba_kernel, triton_kernel
from dlrm_adahessian.optim.base import PooledCurvature, RowRule, Tuned, rate
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    import numba
    import triton.language as tl
    from torch import Tensor

    from dlrm_adahessian.kernels.row_sums import Hits


@settings
class RowwiseAdagradConfig:
    """Adagrad on embedding rows, with one accumulator per row for its mean squared gradient."""

    pooled_curvature: ClassVar[PooledCurvature] = "none"
    tuned: ClassVar[Tuned] = {"lr": rate(0.05)}
    name: Literal["rowwise_adagrad"] = "rowwise_adagrad"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.02, gt=0)
    """Peak learning rate of the embedding rows."""
    initial_accumulator: float = Field(default=0.0, ge=0)
    """Initial value of s, in squared gradient units. Large values shorten the first updates of a row."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator, in gradient units."""

    def build(self) -> RowRule:
        """Return the row rule with these settings."""
        return RowwiseAdagrad(self)


class RowwiseAdagrad(RowRule):
    """Adagrad with one accumulator per row. Ignores curvature."""

    sums = ("sum",)

    def __init__(self, cfg: RowwiseAdagradConfig) -> None:
        self.cfg = cfg

    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return `sum` (R,), the accumulated mean squared gradients."""
        return {"sum": weight.new_full((len(weight),), self.cfg.initial_accumulator)}

    @property
    def direction_triton(self) -> Any:
        """The rule as a Triton function that the GPU kernels inline."""
        return _direction.compiled

    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update with tensor operations."""
        del samples
        total = state["sum"][hits.rows] + hits.grad.square().mean(1)
        state["sum"][hits.rows] = total
        direction = hits.grad / total.sqrt_().add_(self.cfg.eps).unsqueeze(1)
        weight[hits.rows] -= self.cfg.lr * lr_scale * direction

    def update_numba_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update in one compiled pass on the CPU."""
        del samples
        w, s, g = weight.numpy(), state["sum"].numpy(), hits.grad.numpy()
        real = w.dtype.type
        _update(w, s, hits.rows.numpy(), g, real(self.cfg.lr * lr_scale), real(self.cfg.eps))


@numba_kernel
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


@triton_kernel
def _direction(
    states, weight, row, entry, touched, here, grad, curvature, has_curvature, count, samples, cfg, width
):
    mean_square = tl.sum(grad * grad, 1)[:, None] / width
    total = tl.load(states[0] + row, mask=touched, other=0) + mean_square
    tl.debug_barrier()
    tl.store(states[0] + row, total, mask=touched)
    return grad / (tl.sqrt(total) + cfg.eps)
