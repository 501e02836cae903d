"""Adagrad on the dense part.

Duchi, Hazan, Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", 2011:
s += g^2, w -= lr * g / (sqrt(s) + eps). As torch.optim.Adagrad without its learning-rate decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.optim.base import DenseOptimizer, Tuned, rate
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    from torch import Tensor


@settings
class AdagradConfig:
    """Adagrad on the dense part (Duchi et al. 2011)."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"lr": rate(0.01)}
    name: Literal["adagrad"] = "adagrad"
    lr: float = Field(default=0.02, gt=0)
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units."""

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        """Return the optimizer of a flat (P,) vector, in which parameters of these shapes lie one after another."""
        return Adagrad(parameters, self)


class Adagrad(DenseOptimizer):
    """Adagrad over a flat vector; ignores curvature."""

    def __init__(self, parameters: Tensor, cfg: AdagradConfig) -> None:
        import torch
        from torch.optim.adagrad import adagrad

        self.cfg = cfg
        self.state = {"sum": torch.zeros_like(parameters)}
        self._adagrad = adagrad
        self._steps = torch.zeros(())  # of a learning-rate decay that is 0

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: int
    ) -> None:
        """Update `parameters`; see `DenseOptimizer`."""
        del curvature, samples
        self._adagrad(
            [parameters],
            [grad],
            [self.state["sum"]],
            [self._steps],
            fused=parameters.device.type == "cpu",  # torch has no fused kernel for GPUs
            lr=self.cfg.lr * lr_scale,
            lr_decay=0.0,
            weight_decay=0.0,
            eps=self.cfg.eps,
            maximize=False,
        )
