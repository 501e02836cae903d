# pyright: basic
# pyright: reportArgumentType=false
# Kernel arguments have Triton types, which Triton's own annotations do not describe.
"""AdaHessian on embedding rows, with counters per row.

The dense rule (Yao et al. 2020, algorithm 1) applied to a row. Derivatives are those of the summed loss (B times those of
the mean), so eps and the learning rate do not depend on the batch size:

    m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) max(|h|, floor * g^2)^2,
    w -= lr * clip(m_hat / (v_hat^(k/2) + eps))

Bias correction counts a row's own updates for m, and its own curvature updates for v. Rowwise, h is averaged over the row
before it is squared (the paper's spatial average), and so is g^2. A row without curvature yet takes a
gradient step, w -= lr * clip(m_hat): it has no scale to divide by, and waiting would discard gradients of rare rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from dlrm_adahessian.kernels.compiled import numba_kernel, triton_kernel
from dlrm_adahessian.optim.base import PooledCurvature, RowRule, Tuned, new_counters, rate
from dlrm_adahessian.optim.rows.adam import bias_correction
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    import numba
    import triton.language as tl
    from torch import Tensor

    from dlrm_adahessian.kernels.row_sums import Hits

_NO_CLIP = float("inf")


@settings
class RowAdaHessianConfig:
    """AdaHessian on embedding rows, in units of the summed loss."""

    tuned: ClassVar[Tuned] = {"lr": rate(0.02)}
    name: Literal["adahessian"] = "adahessian"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.02, gt=0)
    """Peak learning rate of the embedding rows."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the gradient mean, per update of the row; 0 turns momentum and its state off."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the mean squared curvature, per curvature update of the row."""
    eps: float = Field(default=1e-3, ge=0)
    """Added to the denominator after the power, in curvature units of one sample."""
    power: float = Field(default=0.5, ge=0, le=1)
    """Hessian power k, as in the dense rule."""
    rowwise: bool = False
    """Use one curvature per row, the mean over its entries (the paper's spatial average)."""
    curvature_floor: float = Field(default=1.0, ge=0)
    """Lower bound of the curvature, as a multiple of the squared gradient (its expectation under the model); 0 is off."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Maximum size of an entry of the direction, before the learning rate."""

    @property
    def pooled_curvature(self) -> PooledCurvature:
        """The pooled curvature that the rule reads: one value per accumulator."""
        return "mean" if self.rowwise else "entries"

    def build(self) -> RowRule:
        """Return the row rule with these settings."""
        return RowAdaHessian(self)


class RowAdaHessian(RowRule):
    """AdaHessian with the second moment of the curvature per entry or per row, and optional momentum."""

    def __init__(self, cfg: RowAdaHessianConfig) -> None:
        self.cfg = cfg

    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return `mean_square` (R, D) or (R,), counters (R,) int32, and `mean` (R, D) if momentum is on."""
        shape = weight.shape[:1] if self.cfg.rowwise else weight.shape
        state = {
            "mean_square": weight.new_zeros(shape),
            "curvature_updates": new_counters(weight),
        }
        if self.cfg.beta1:
            state["mean"] = weight.new_zeros(weight.shape)
            state["touches"] = new_counters(weight)
        return state

    @property
    def direction_triton(self) -> Any:
        """The rule as a Triton function that the GPU kernels inline."""
        return _direction.compiled

    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update with tensor operations."""
        cfg, rows = self.cfg, hits.rows
        grad = hits.grad * samples
        mean = grad
        if cfg.beta1:
            state["touches"][rows] += 1
            mean = state["mean"][rows].lerp_(grad, 1 - cfg.beta1)
            state["mean"][rows] = mean
            mean = mean / (1 - cfg.beta1 ** state["touches"][rows].to(mean.dtype)).unsqueeze(1)
        if hits.curvature is not None and hits.has_curvature is not None:
            curvature, square = hits.curvature * samples, grad.square()
            if cfg.rowwise:
                square = square.mean(1, keepdim=True)
            curvature = curvature.abs().maximum(cfg.curvature_floor * square)
            has = hits.has_curvature
            mean_squares = self._mean_squares(state)
            old = mean_squares[rows[has]]
            mean_squares[rows[has]] = old.lerp_(curvature[has].square(), 1 - cfg.beta2)
            state["curvature_updates"][rows[has]] += 1
        updates = state["curvature_updates"][rows].to(grad.dtype).unsqueeze(1)
        mean_square = self._mean_squares(state)[rows]
        corrected = mean_square / (1 - cfg.beta2**updates)  # 0 / 0 for rows without curvature yet
        denominator = corrected.pow(cfg.power / 2).add(cfg.eps).where(updates > 0, 1.0)
        direction = mean / denominator
        if cfg.clip is not None:
            direction.clamp_(-cfg.clip, cfg.clip)
        weight[rows] -= cfg.lr * lr_scale * direction

    def update_numba_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update in one compiled pass on the CPU."""
        cfg, w, g = self.cfg, weight.numpy(), hits.grad.numpy()
        real = w.dtype.type
        curvature, has_curvature = hits.curvature_arrays()
        counters = state["curvature_updates"].numpy()
        _update(
            w,
            self._mean_squares(state).numpy(),
            counters,
            state["mean"].numpy() if cfg.beta1 else w,
            state["touches"].numpy() if cfg.beta1 else counters,
            hits.rows.numpy(),
            g,
            curvature,
            has_curvature,
            real(cfg.lr * lr_scale),
            real(cfg.beta1),
            real(cfg.beta2),
            real(cfg.eps),
            real(cfg.power),
            real(cfg.curvature_floor),
            real(_NO_CLIP if cfg.clip is None else cfg.clip),
            real(samples),
        )

    def _mean_squares(self, state: dict[str, Tensor]) -> Tensor:
        """Return a view (R, D) or (R, 1) of the second moments."""
        return state["mean_square"].unsqueeze(1) if self.cfg.rowwise else state["mean_square"]


@numba_kernel
def _update(w, v, updates, m, touches, rows, g, h, has_h, lr, beta1, beta2, eps, power, floor, clip, samples):
    # v and h are (., D), or (., 1) when rowwise. m and touches are used with momentum only.
    width, columns = w.shape[1], v.shape[1]
    one = beta2 / beta2 if beta2 > 0 else beta2 + 1  # 1 in the dtype of the weights
    for i in numba.prange(len(rows)):
        r = rows[i]
        if has_h[i]:
            updates[r] += 1
            per_column = width // columns
            for c in range(columns):
                square = one * 0
                for d in range(c * per_column, (c + 1) * per_column):
                    square += (g[i, d] * samples) ** 2
                curvature = max(abs(h[i, c] * samples), floor * square / per_column)
                v[r, c] += (one - beta2) * (curvature * curvature - v[r, c])
        correction1 = one
        if beta1 > 0:
            touches[r] += 1
            correction1 = one - beta1 ** touches[r]
        correction2 = one - beta2 ** updates[r]
        for d in range(width):
            direction = g[i, d] * samples
            if beta1 > 0:
                m[r, d] += (one - beta1) * (direction - m[r, d])
                direction = m[r, d] / correction1
            if updates[r] > 0:
                root = np.sqrt(v[r, d if columns > 1 else 0] / correction2)
                direction /= (root if power == 1 else root**power) + eps
            w[r, d] -= lr * min(max(direction, -clip), clip)


@triton_kernel
def _direction(
    states, weight, row, entry, touched, here, grad, curvature, has_curvature, count, samples, cfg, width
):
    direction = grad * samples
    square = direction * direction
    curvature = curvature * samples
    slot, present = entry, here
    if cfg.rowwise:
        square, curvature = tl.sum(square, 1)[:, None] / width, tl.sum(curvature, 1)[:, None] / width
        slot, present = row, touched
    curvature = tl.maximum(tl.abs(curvature), cfg.curvature_floor * square)
    mean_square = tl.load(states[0] + slot, mask=present, other=0)
    updates = tl.load(states[1] + row, mask=touched, other=0) + has_curvature.to(tl.int32)
    if cfg.beta1 > 0:
        mean = tl.load(states[2] + entry, mask=here, other=0)
        touches = tl.load(states[3] + row, mask=touched, other=0) + 1
    tl.debug_barrier()
    grown = mean_square + (1 - cfg.beta2) * (curvature * curvature - mean_square)
    mean_square = tl.where(has_curvature, grown, mean_square)
    tl.store(states[0] + slot, mean_square, mask=present)
    tl.store(states[1] + row, updates, mask=touched)
    if cfg.beta1 > 0:
        mean += (1 - cfg.beta1) * (direction - mean)
        tl.store(states[2] + entry, mean, mask=here)
        tl.store(states[3] + row, touches, mask=touched)
        direction = mean / bias_correction(touches, cfg.beta1).to(mean.dtype)
    correction = bias_correction(tl.maximum(updates, 1), cfg.beta2).to(mean_square.dtype)
    corrected = mean_square / correction
    if cfg.power == 1:
        root = tl.sqrt(corrected)
    elif cfg.power == 0:
        root = corrected * 0 + 1
    else:
        root = tl.exp(cfg.power / 2 * tl.log(corrected))
    direction = tl.where(updates > 0, direction / (root + cfg.eps), direction)
    if cfg.clip is not None:
        direction = tl.minimum(tl.maximum(direction, -cfg.clip), cfg.clip)
    return direction
