# pyright: basic
"""Adagrad on embedding rows: s += g^2, w -= lr * g / (sqrt(s) + eps), as on the dense part."""

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
class RowAdagradConfig:
    """Adagrad on embedding rows, with one accumulator per entry."""

    pooled_curvature: ClassVar[PooledCurvature] = "none"
    tuned: ClassVar[Tuned] = {"lr": rate(0.05)}
    name: Literal["adagrad"] = "adagrad"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.02, gt=0)
    """Peak learning rate of the embedding rows."""
    initial_accumulator: float = Field(default=0.0, ge=0)
    """Initial value of s, in squared gradient units. Large values shorten the first updates of a row."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator, in gradient units."""

    def build(self) -> RowRule:
        """Return the row rule with these settings."""
        return RowAdagrad(self)


class RowAdagrad(RowRule):
    """Adagrad with one accumulator per entry. Ignores curvature."""

    sums = ("sum",)

    def __init__(self, cfg: RowAdagradConfig) -> None:
        self.cfg = cfg

    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return `sum` (R, D), the accumulated squared gradients."""
        return {"sum": weight.new_full(weight.shape, self.cfg.initial_accumulator)}

    @property
    def direction_triton(self) -> Any:
        """The rule as a Triton function that the GPU kernels inline."""
        return _direction.compiled

    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update with tensor operations."""
        del samples
        total = state["sum"][hits.rows].addcmul_(hits.grad, hits.grad)
        state["sum"][hits.rows] = total
        direction = hits.grad / total.sqrt_().add_(self.cfg.eps)
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
    for i in numba.prange(len(rows)):
        r = rows[i]
        for d in range(w.shape[1]):
            s[r, d] += g[i, d] * g[i, d]
            w[r, d] -= lr * g[i, d] / (np.sqrt(s[r, d]) + eps)


@triton_kernel
def _direction(
    states, weight, row, entry, touched, here, grad, curvature, has_curvature, count, samples, cfg, width
):
    total = tl.load(states[0] + entry, mask=here, other=0) + grad * grad
    tl.debug_barrier()
    tl.store(states[0] + entry, total, mask=here)
    return grad / (tl.sqrt(total) + cfg.eps)
