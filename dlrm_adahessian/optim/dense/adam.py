"""Adam on the dense part, with decoupled weight decay.

Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1; Loshchilov and Hutter, "Decoupled
Weight Decay Regularization", 2019, algorithm 2.
"""

import torch
from torch import Tensor

from dlrm_adahessian.optim.config import AdamConfig


class Adam:
    """Adam over a flat vector; ignores curvature."""

    def __init__(self, parameters: Tensor, cfg: AdamConfig) -> None:
        self.cfg = cfg
        self.state = {
            "mean": torch.zeros_like(parameters),
            "mean_square": torch.zeros_like(parameters),
            "steps": torch.zeros((), dtype=torch.int64),
        }

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: int
    ) -> None:
        """Update `parameters`; see `DenseOptimizer`."""
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
