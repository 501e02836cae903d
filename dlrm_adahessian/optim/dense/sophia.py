"""Sophia on the dense part.

Liu, Li, Hall, Liang, Ma, "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training", 2023,
algorithm 3: with an estimate D of the Hessian diagonal every few steps,

    m = beta1 m + (1 - beta1) g,   h = beta2 h + (1 - beta2) D,   w -= lr * clip(m / max(gamma h, eps), 1).

As in the paper, there is no bias correction. If curvature is small, negative, or missing, the clip gives the sign of m.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.optim.base import DenseOptimizer, Range, Tuned, rate
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    from torch import Tensor


@settings
class SophiaConfig:
    """Sophia on the dense part (Liu et al. 2023), with the paper's defaults except lr and weight_decay."""

    uses_curvature: ClassVar[bool] = True
    tuned: ClassVar[Tuned] = {"lr": rate(0.001), "gamma": Range(0.005, 0.5)}
    name: Literal["sophia"] = "sophia"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.001, gt=0)
    """Peak learning rate eta: the largest step of a parameter."""
    beta1: float = Field(default=0.96, ge=0, lt=1)
    """Decay of the gradient mean (momentum), per step."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the curvature mean, per curvature update."""
    gamma: float = Field(default=0.05, gt=0)
    """Scale of the curvature; smaller values clip more entries."""
    eps: float = Field(default=1e-12, gt=0)
    """Smallest scaled curvature, in units of the mean loss."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay: each step shrinks parameters by lr * weight_decay."""

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        """Return the optimizer of a flat vector (P,) that concatenates parameters of these shapes."""
        return Sophia(parameters, self)


class Sophia(DenseOptimizer):
    """Sophia over a flat vector."""

    def __init__(self, parameters: Tensor, cfg: SophiaConfig) -> None:
        self.cfg = cfg
        self.state = {
            "mean": parameters.new_zeros(parameters.shape),
            "curvature": parameters.new_zeros(parameters.shape),
        }

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: float
    ) -> None:
        """Update `parameters` in place; see `DenseOptimizer.step`."""
        del samples
        cfg, lr = self.cfg, self.cfg.lr * lr_scale
        mean = self.state["mean"].lerp_(grad, 1 - cfg.beta1)
        if curvature is not None:
            self.state["curvature"].lerp_(curvature, 1 - cfg.beta2)
        denominator = (self.state["curvature"] * cfg.gamma).clamp_(min=cfg.eps)
        if cfg.weight_decay:
            parameters.mul_(1 - lr * cfg.weight_decay)
        parameters.add_((mean / denominator).clamp_(-1, 1), alpha=-lr)
