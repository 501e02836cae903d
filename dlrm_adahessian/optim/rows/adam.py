# pyright: basic
"""Lazy Adam on embedding rows, with decoupled weight decay.

Adam (Kingma and Ba 2015, algorithm 1) that updates moments only for the rows of a batch, as torch.optim.SparseAdam does.
Departure: bias correction counts the updates of the row, while SparseAdam counts the steps of the table. With a count of
steps, a row that first appears late has moments near zero and almost no correction: with beta1 0.9 and beta2 0.999 its
first step would be 3.2 times lr. Counting updates makes it lr for every row. Rows that are updated at every step match
SparseAdam except for eps, which is added after the correction, as on the dense part. With weight decay, each update
shrinks the row by lr * weight_decay (Loshchilov and Hutter 2019).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from dlrm_adahessian.kernels.compiled import numba_kernel, triton_kernel
from dlrm_adahessian.optim.base import PooledCurvature, Range, RowRule, Tuned, new_counters, rate
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    import numba
    import triton.language as tl
    from torch import Tensor

    from dlrm_adahessian.kernels.row_sums import Hits


@settings
class RowAdamConfig:
    """Lazy Adam on embedding rows, with decoupled weight decay."""

    pooled_curvature: ClassVar[PooledCurvature] = "none"
    tuned: ClassVar[Tuned] = {"lr": rate(0.005), "weight_decay": Range(1e-3, 1.0)}
    name: Literal["adam"] = "adam"
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

    def build(self) -> RowRule:
        """Return the row rule with these settings."""
        return RowAdam(self)


class RowAdam(RowRule):
    """Lazy Adam with two moments per entry and a counter per row. Ignores curvature."""

    def __init__(self, cfg: Any) -> None:
        """Store the settings of this rule, or of a rule that builds on it."""
        self.cfg = cfg

    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return `mean` and `mean_square` (R, D), and `touches` (R,) int32."""
        return {
            "mean": weight.new_zeros(weight.shape),
            "mean_square": weight.new_zeros(weight.shape),
            "touches": new_counters(weight),
        }

    @property
    def direction_triton(self) -> Any:
        """The rule as a Triton function that the GPU kernels inline."""
        return adam_direction.compiled

    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update with tensor operations."""
        del samples
        cfg, rows, lr = self.cfg, hits.rows, self.cfg.lr * lr_scale
        state["touches"][rows] += 1
        touches = state["touches"][rows].double().unsqueeze(1)  # in float32, 1 - beta2 loses 3 digits
        mean = state["mean"][rows].lerp_(hits.grad, 1 - cfg.beta1)
        mean_square = state["mean_square"][rows].lerp_(hits.grad.square(), 1 - cfg.beta2)
        state["mean"][rows], state["mean_square"][rows] = mean, mean_square
        direction = mean / (1 - cfg.beta1**touches).to(mean.dtype)
        direction /= (mean_square / (1 - cfg.beta2**touches).to(mean.dtype)).sqrt_().add_(cfg.eps)
        weight[rows] = weight[rows] * (1 - lr * cfg.weight_decay) - lr * direction

    def update_numba_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update in one compiled pass on the CPU."""
        del samples
        cfg, w, lr = self.cfg, weight.numpy(), self.cfg.lr * lr_scale
        real = w.dtype.type
        _update(
            w,
            state["mean"].numpy(),
            state["mean_square"].numpy(),
            state["touches"].numpy(),
            hits.rows.numpy(),
            hits.grad.numpy(),
            real(lr),
            cfg.beta1,
            cfg.beta2,
            real(1 - cfg.beta1),
            real(1 - cfg.beta2),
            real(cfg.eps),
            real(1 - lr * cfg.weight_decay),
        )


@numba_kernel
def _update(w, m, v, touches, rows, g, lr, beta1, beta2, weight1, weight2, eps, shrink):
    # beta1 and beta2 are float64 for the corrections. weight1 and weight2 are one minus them, in the dtype of w.
    one = shrink * 0 + 1
    for i in numba.prange(len(rows)):
        r = rows[i]
        touches[r] += 1
        correction1 = one * (1 - beta1 ** touches[r])
        correction2 = one * (1 - beta2 ** touches[r])
        for d in range(w.shape[1]):
            m[r, d] += weight1 * (g[i, d] - m[r, d])
            v[r, d] += weight2 * (g[i, d] * g[i, d] - v[r, d])
            direction = m[r, d] / correction1 / (np.sqrt(v[r, d] / correction2) + eps)
            w[r, d] = w[r, d] * shrink - lr * direction


@triton_kernel
def bias_correction(count, beta):  # noqa: ANN201 -- Triton infers types
    """Return 1 - beta**count, (N, 1) float64. Float32 would lose most digits."""
    return 1 - tl.exp(count.to(tl.float64) * tl.log(tl.full((1, 1), beta, tl.float64)))


@triton_kernel
def adam_direction(  # noqa: ANN201 -- Triton infers types
    states, weight, row, entry, touched, here, grad, curvature, has_curvature, count, samples, cfg, width
):
    """Return the step of lazy Adam and update its moments."""
    mean = tl.load(states[0] + entry, mask=here, other=0)
    mean_square = tl.load(states[1] + entry, mask=here, other=0)
    touches = tl.load(states[2] + row, mask=touched, other=0) + 1
    tl.debug_barrier()
    mean += (1 - cfg.beta1) * (grad - mean)
    mean_square += (1 - cfg.beta2) * (grad * grad - mean_square)
    tl.store(states[0] + entry, mean, mask=here)
    tl.store(states[1] + entry, mean_square, mask=here)
    tl.store(states[2] + row, touches, mask=touched)
    direction = mean / bias_correction(touches, cfg.beta1).to(mean.dtype)
    direction /= tl.sqrt(mean_square / bias_correction(touches, cfg.beta2).to(mean.dtype)) + cfg.eps
    return direction + cfg.weight_decay * weight
