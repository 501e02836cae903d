"""Adagrad on the dense part.

Duchi, Hazan, Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", 2011:
s += g^2, w -= lr * g / (sqrt(s) + eps). As torch.optim.Adagrad without its learning-rate decay.
"""

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad

from dlrm_adahessian.optim.config import AdagradConfig


class Adagrad:
    """Adagrad over a flat vector; ignores curvature."""

    def __init__(self, parameters: Tensor, cfg: AdagradConfig) -> None:
        self.cfg = cfg
        self.state = {"sum": torch.zeros_like(parameters)}

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: int
    ) -> None:
        """Update `parameters`; see `DenseOptimizer`."""
        del curvature, samples
        adagrad(
            [parameters],
            [grad],
            [self.state["sum"]],
            [torch.zeros(())],  # counts steps, for a learning-rate decay that is 0
            fused=parameters.device.type == "cpu",  # torch has no fused kernel for GPUs
            lr=self.cfg.lr * lr_scale,
            lr_decay=0.0,
            weight_decay=0.0,
            eps=self.cfg.eps,
            maximize=False,
        )
