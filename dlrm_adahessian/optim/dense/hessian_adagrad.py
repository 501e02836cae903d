# pyright: basic
"""Hessian Adagrad on the dense part: Adagrad with the squared gradient replaced by its expectation.

Under the model, the expected squared gradient of a sample is its curvature (Fisher), and that of the mean over a batch of B
samples is h / B. So s += max(h / B, floor * g^2), w -= lr * g / (sqrt(s) + eps). Adagrad's first step is the sign of the
gradient, but the size of this one tells a likely outcome from a surprise. The floor bounds the step, since p (1 - p)
vanishes on confident mistakes but the gradient does not. Embedding rows have the same rule (rows/hessian_adagrad.py).

With beta1, the step follows AdaHessian's bias-corrected gradient mean. The rule is then AdaHessian of power 0.5
(adahessian.py) with a sum over steps instead of a moving average, and steps shrink like 1 / sqrt(t).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from dlrm_adahessian.kernels.compiled import numba_kernel
from dlrm_adahessian.optim.base import DenseOptimizer, Tuned, new_counter, rate
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    import numba
    from torch import Tensor


@settings
class DenseHessianAdagradConfig:
    """Adagrad on the dense part with the squared gradient replaced by its expectation, the curvature."""

    uses_curvature: ClassVar[bool] = True
    tuned: ClassVar[Tuned] = {"lr": rate(0.01)}
    name: Literal["hessian_adagrad"] = "hessian_adagrad"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.01, gt=0)
    """Peak learning rate of the dense part."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the gradient mean (momentum), per step; 0 turns it off."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator, in gradient units of the mean loss, as in Adagrad."""
    curvature_floor: float = Field(default=1.0, gt=0)
    """Lower bound of the accumulated curvature, as a multiple of the squared gradient; bounds a step by lr / sqrt(floor)."""

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        """Return the optimizer of a flat vector (P,) that concatenates parameters of these shapes."""
        return DenseHessianAdagrad(parameters, self)


class DenseHessianAdagrad(DenseOptimizer):
    """Hessian Adagrad over a flat vector."""

    def __init__(self, parameters: Tensor, cfg: DenseHessianAdagradConfig) -> None:
        self.cfg = cfg
        self.state = {"sum": parameters.new_zeros(parameters.shape)}
        if cfg.beta1:
            self.state["mean"] = parameters.new_zeros(parameters.shape)
            self.state["steps"] = new_counter()

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: float
    ) -> None:
        """Update `parameters` in place; see `DenseOptimizer.step`. Without curvature, accumulate the squared gradient."""
        cfg, lr = self.cfg, self.cfg.lr * lr_scale
        if cfg.beta1:
            lr /= 1 - cfg.beta1 ** int(self.state["steps"].add_(1))
        update = self.update_numba_ if parameters.device.type == "cpu" else self.update_torch_
        update(parameters, grad, curvature, lr=lr, samples=samples)

    def floored(self, grad: Tensor, curvature: Tensor, *, samples: float) -> Tensor:
        """Return the entries whose curvature is below the floor; see `DenseOptimizer.floored`."""
        return curvature.abs() / samples < self.cfg.curvature_floor * grad.square()

    def update_torch_(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr: float, samples: float
    ) -> None:
        """Update with tensor operations. Works on any device and serves as the oracle. `lr` includes all factors."""
        cfg, total = self.cfg, self.state["sum"]
        expected = grad.square()
        if curvature is not None:
            expected = (curvature.abs() / samples).maximum(expected.mul_(cfg.curvature_floor))
        total.add_(expected)
        direction = self.state["mean"].lerp_(grad, 1 - cfg.beta1) if cfg.beta1 else grad
        parameters.addcdiv_(direction, total.sqrt().add_(cfg.eps), value=-lr)

    def update_numba_(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr: float, samples: float
    ) -> None:
        """Update in one compiled pass on the CPU, because the vectors leave the cache between tensor operations."""
        cfg, p, g = self.cfg, parameters.numpy(), grad.numpy()
        real = p.dtype.type
        _update(
            p,
            self.state["sum"].numpy(),
            self.state["mean"].numpy() if cfg.beta1 else g,
            g,
            g if curvature is None else curvature.numpy(),
            curvature is not None,
            cfg.beta1 > 0,
            real(lr),
            real(1 - cfg.beta1),
            real(cfg.eps),
            real(cfg.curvature_floor),
            real(1 / samples),
        )


@partial(numba_kernel, error_model="numpy")
def _update(
    p: Any, s: Any, m: Any, g: Any, h: Any, has_h: bool, has_mean: bool, lr: Any, weight1: Any, eps: Any, floor: Any,
    per_sample: Any,
) -> None:  # fmt: skip
    # m is written with momentum only. Without momentum, m is g.
    for i in numba.prange(p.shape[0]):
        expected = g[i] * g[i]
        if has_h:
            expected = max(abs(h[i]) * per_sample, floor * expected)
        s[i] += expected
        direction = g[i]
        if has_mean:
            m[i] += weight1 * (direction - m[i])
            direction = m[i]
        p[i] -= lr * direction / (np.sqrt(s[i]) + eps)
