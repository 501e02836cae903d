"""Adam on the dense part, with decoupled weight decay.

Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1; Loshchilov and Hutter, "Decoupled
Weight Decay Regularization", 2019, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.optim.base import DenseOptimizer, Range, Tuned, new_counter, rate
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    from torch import Tensor


@settings
class AdamConfig:
    """Adam on the dense part, with decoupled weight decay (Loshchilov and Hutter 2019)."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"lr": rate(0.003), "weight_decay": Range(1e-3, 1.0)}
    name: Literal["adam"] = "adam"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.001, gt=0)
    """Peak learning rate of the dense part."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the gradient mean (momentum), per step."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the mean squared gradient, per step."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator, in gradient units."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay: each step shrinks parameters by lr * weight_decay."""

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        """Return the optimizer of a flat vector (P,) that concatenates parameters of these shapes."""
        return Adam(parameters, self)


class Adam(DenseOptimizer):
    """Adam over a flat vector. Ignores curvature."""

    def __init__(self, parameters: Tensor, cfg: AdamConfig) -> None:
        self.cfg = cfg
        self.state = {
            "mean": parameters.new_zeros(parameters.shape),
            "mean_square": parameters.new_zeros(parameters.shape),
            "steps": new_counter(),
        }

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: float
    ) -> None:
        """Update `parameters` in place; see `DenseOptimizer.step`."""
        del curvature, samples
        cfg, lr = self.cfg, self.cfg.lr * lr_scale
        mean, mean_square = self.state["mean"], self.state["mean_square"]
        steps = int(self.state["steps"].add_(1))
        mean.lerp_(grad, 1 - cfg.beta1)
        mean_square.mul_(cfg.beta2).addcmul_(grad, grad, value=1 - cfg.beta2)
        denominator = (mean_square / (1 - cfg.beta2**steps)).sqrt_().add_(cfg.eps)
        if cfg.weight_decay:
            parameters.mul_(1 - lr * cfg.weight_decay)
        parameters.addcdiv_(mean, denominator, value=-lr / (1 - cfg.beta1**steps))
