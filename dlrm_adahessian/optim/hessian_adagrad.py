"""Hessian Adagrad on the dense part: Adagrad whose squared gradient is replaced by its expectation.

Under the model the expected squared gradient of a sample is its curvature (Fisher), and that of a batch mean of B
samples is h / B. So s += max(h / B, floor * g^2), w -= lr * g / (sqrt(s) + eps): where Adagrad's first step is the sign
of a gradient, this one's size tells a likely outcome from a surprise. The floor bounds the step, since p (1 - p)
vanishes on confident mistakes while the gradient does not. As on rows (row_hessian_adagrad.py).

With beta1 the step is along AdaHessian's bias-corrected mean of gradients, and the rule is like AdaHessian of power 0.5
(adahessian.py) with a sum over steps where that has a moving average: steps shrink like 1 / sqrt(t).
"""

import torch
from torch import Tensor

from dlrm_adahessian.optim.config import DenseHessianAdagradConfig


class DenseHessianAdagrad:
    """Accumulated curvature over a flat vector."""

    def __init__(self, parameters: Tensor, cfg: DenseHessianAdagradConfig) -> None:
        self.cfg = cfg
        self.state = {"sum": torch.zeros_like(parameters)}
        if cfg.beta1:
            self.state["mean"] = torch.zeros_like(parameters)
            self.state["steps"] = torch.zeros((), dtype=torch.int64)

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: int
    ) -> None:
        """Update `parameters`; see `DenseOptimizer`. A step without curvature accumulates the squared gradient."""
        cfg, total = self.cfg, self.state["sum"]
        expected = grad.square()
        if curvature is not None:
            expected = torch.maximum(curvature.abs() / samples, expected.mul_(cfg.curvature_floor))
        total.add_(expected)
        direction, lr = grad, cfg.lr * lr_scale
        if cfg.beta1:
            direction = self.state["mean"].lerp_(grad, 1 - cfg.beta1)
            lr /= 1 - cfg.beta1 ** int(self.state["steps"].add_(1))
        parameters.addcdiv_(direction, total.sqrt().add_(cfg.eps), value=-lr)
