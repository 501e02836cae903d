# pyright: basic
"""Sophia on embedding rows (Liu et al. 2023, algorithm 3; see dense/sophia.py).

In units of the summed loss, as in adahessian.py:

    m = beta1 m + (1 - beta1) g at an update,   h = beta2 h + (1 - beta2) D at an update with curvature,
    w -= lr * clip(m / max(gamma h, eps), 1).

As in the paper, there is no bias correction. A row without curvature yet moves by lr times the sign of m, due to the clip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.kernels.compiled import numba_kernel, triton_kernel
from dlrm_adahessian.optim.base import PooledCurvature, Range, RowRule, Tuned, rate
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    import numba
    import triton.language as tl
    from torch import Tensor

    from dlrm_adahessian.kernels.row_sums import Hits


@settings
class RowSophiaConfig:
    """Sophia on embedding rows, in units of the summed loss."""

    pooled_curvature: ClassVar[PooledCurvature] = "entries"
    tuned: ClassVar[Tuned] = {"lr": rate(0.003), "gamma": Range(0.005, 0.5)}
    name: Literal["sophia"] = "sophia"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.003, gt=0)
    """Peak learning rate eta of the embedding rows: the largest step of an entry."""
    beta1: float = Field(default=0.96, ge=0, lt=1)
    """Decay of the gradient mean, per update of the row."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the curvature mean, per curvature update of the row."""
    gamma: float = Field(default=0.05, gt=0)
    """Scale of the curvature; smaller values clip more entries."""
    eps: float = Field(default=1e-12, gt=0)
    """Smallest scaled curvature, in units of one sample."""

    def build(self) -> RowRule:
        """Return the row rule with these settings."""
        return RowSophia(self)


class RowSophia(RowRule):
    """Sophia with the means of gradient and curvature per entry."""

    def __init__(self, cfg: RowSophiaConfig) -> None:
        self.cfg = cfg

    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return `mean` and `curvature` (R, D)."""
        return {"mean": weight.new_zeros(weight.shape), "curvature": weight.new_zeros(weight.shape)}

    @property
    def direction_triton(self) -> Any:
        """The rule as a Triton function that the GPU kernels inline."""
        return _direction.compiled

    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update with tensor operations."""
        cfg, rows = self.cfg, hits.rows
        mean = state["mean"][rows].lerp_(hits.grad * samples, 1 - cfg.beta1)
        state["mean"][rows] = mean
        if hits.curvature is not None and hits.has_curvature is not None:
            has = hits.has_curvature
            old = state["curvature"][rows[has]]
            state["curvature"][rows[has]] = old.lerp_(hits.curvature[has] * samples, 1 - cfg.beta2)
        denominator = (state["curvature"][rows] * cfg.gamma).clamp_(min=cfg.eps)
        weight[rows] -= cfg.lr * lr_scale * (mean / denominator).clamp_(-1, 1)

    def update_numba_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update in one compiled pass on the CPU."""
        cfg, w = self.cfg, weight.numpy()
        real = w.dtype.type
        curvature, has_curvature = hits.curvature_arrays()
        _update(
            w,
            state["mean"].numpy(),
            state["curvature"].numpy(),
            hits.rows.numpy(),
            hits.grad.numpy(),
            curvature,
            has_curvature,
            real(cfg.lr * lr_scale),
            real(1 - cfg.beta1),
            real(1 - cfg.beta2),
            real(cfg.gamma),
            real(cfg.eps),
            real(samples),
        )


@numba_kernel
def _update(w, m, c, rows, g, h, has_h, lr, weight1, weight2, gamma, eps, samples):
    one = samples / samples  # 1 in the dtype of the weights
    for i in numba.prange(len(rows)):
        r = rows[i]
        for d in range(w.shape[1]):
            m[r, d] += weight1 * (g[i, d] * samples - m[r, d])
            if has_h[i]:
                c[r, d] += weight2 * (h[i, d] * samples - c[r, d])
            direction = m[r, d] / max(gamma * c[r, d], eps)
            w[r, d] -= lr * min(max(direction, -one), one)


@triton_kernel
def _direction(
    states, weight, row, entry, touched, here, grad, curvature, has_curvature, count, samples, cfg, width
):
    mean = tl.load(states[0] + entry, mask=here, other=0)
    scale = tl.load(states[1] + entry, mask=here, other=0)
    tl.debug_barrier()
    mean += (1 - cfg.beta1) * (grad * samples - mean)
    tl.store(states[0] + entry, mean, mask=here)
    scale += tl.where(has_curvature, (1 - cfg.beta2) * (curvature * samples - scale), 0)
    tl.store(states[1] + entry, scale, mask=here)
    scale *= cfg.gamma
    direction = mean / tl.where(scale > cfg.eps, scale, scale * 0 + cfg.eps)
    return tl.minimum(tl.maximum(direction, -1), 1)
