"""Adagrad on the dense part.

Duchi, Hazan, Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", 2011:
s += g^2, w -= lr * g / (sqrt(s) + eps). It is torch.optim.Adagrad without learning-rate decay. With beta1, the step follows
the bias-corrected gradient mean, as in Adam; this is hessian_adagrad.py without curvature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.optim.base import DenseOptimizer, Tuned, new_counter, rate
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    from torch import Tensor


@settings
class AdagradConfig:
    """Adagrad on the dense part (Duchi et al. 2011)."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"lr": rate(0.01)}
    name: Literal["adagrad"] = "adagrad"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.02, gt=0)
    """Peak learning rate of the dense part."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the gradient mean (momentum), per step; 0 turns it off."""
    initial_accumulator: float = Field(default=0.0, ge=0)
    """Initial value of s, in squared gradient units. Large values shorten the first steps."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator, in gradient units."""

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        """Return the optimizer of a flat vector (P,) that concatenates parameters of these shapes."""
        return Adagrad(parameters, self)


class Adagrad(DenseOptimizer):
    """Adagrad over a flat vector. Ignores curvature."""

    def __init__(self, parameters: Tensor, cfg: AdagradConfig) -> None:
        import torch
        from torch.optim.adagrad import adagrad

        self.cfg = cfg
        self.state = {"sum": torch.full_like(parameters, cfg.initial_accumulator)}
        if cfg.beta1:
            self.state["mean"] = torch.zeros_like(parameters)
            self.state["steps"] = new_counter()
        self._adagrad = adagrad
        self._steps = torch.zeros(())  # for torch's learning-rate decay, which is 0 here

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: float
    ) -> None:
        """Update `parameters` in place; see `DenseOptimizer.step`."""
        del curvature, samples
        cfg, total = self.cfg, self.state["sum"]
        if cfg.beta1:
            correction = 1 - cfg.beta1 ** int(self.state["steps"].add_(1))
            mean = self.state["mean"].lerp_(grad, 1 - cfg.beta1)
            root = total.addcmul_(grad, grad).sqrt().add_(cfg.eps)
            parameters.addcdiv_(mean, root, value=-cfg.lr * lr_scale / correction)
            return
        self._adagrad(
            [parameters],
            [grad],
            [total],
            [self._steps],
            fused=parameters.device.type == "cpu",  # torch has no fused kernel for GPUs
            lr=cfg.lr * lr_scale,
            lr_decay=0.0,
            weight_decay=0.0,
            eps=cfg.eps,
            maximize=False,
        )
