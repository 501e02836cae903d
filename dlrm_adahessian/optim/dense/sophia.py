"""Sophia on the dense part.

Liu, Li, Hall, Liang, Ma, "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training", 2023,
algorithm 3: with an estimate D of the Hessian diagonal every few steps,

    m = beta1 m + (1 - beta1) g,   h = beta2 h + (1 - beta2) D,   w -= lr * clip(m / max(gamma h, eps), 1).

No bias correction, as there. Where curvature is small, negative, or not there yet, the clip makes it the sign of m.
"""

import torch
from torch import Tensor

from dlrm_adahessian.optim.config import SophiaConfig


class Sophia:
    """Sophia over a flat vector."""

    def __init__(self, parameters: Tensor, cfg: SophiaConfig) -> None:
        self.cfg = cfg
        self.state = {"mean": torch.zeros_like(parameters), "curvature": torch.zeros_like(parameters)}

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: int
    ) -> None:
        """Update `parameters`; see `DenseOptimizer`."""
        del samples
        cfg, lr = self.cfg, self.cfg.lr * lr_scale
        mean = self.state["mean"].lerp_(grad, 1 - cfg.beta1)
        if curvature is not None:
            self.state["curvature"].lerp_(curvature, 1 - cfg.beta2)
        denominator = (self.state["curvature"] * cfg.gamma).clamp_(min=cfg.eps)
        if cfg.weight_decay:
            parameters.mul_(1 - lr * cfg.weight_decay)
        parameters.add_((mean / denominator).clamp_(-1, 1), alpha=-lr)
