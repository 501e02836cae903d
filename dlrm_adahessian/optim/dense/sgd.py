"""Stochastic gradient descent on the dense part, with momentum and decoupled weight decay.

Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning", 2013, in the form
of torch.optim.SGD, in which the learning rate multiplies the momentum:

    m = beta m + g,   w -= lr * m,   with Nesterov w -= lr * (g + beta m).

So with momentum the step is up to 1 / (1 - beta) times lr * g. Weight decay is decoupled (Loshchilov and Hutter 2019,
algorithm 1), where torch adds it to the gradient.
"""

import torch
from torch import Tensor

from dlrm_adahessian.optim.config import SGDConfig


class SGD:
    """Momentum over a flat vector; ignores curvature."""

    def __init__(self, parameters: Tensor, cfg: SGDConfig) -> None:
        self.cfg = cfg
        self.state = {"momentum": torch.zeros_like(parameters)} if cfg.momentum else {}

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: int
    ) -> None:
        """Update `parameters`; see `DenseOptimizer`."""
        del curvature, samples
        cfg, lr = self.cfg, self.cfg.lr * lr_scale
        direction = grad
        if cfg.momentum:
            direction = self.state["momentum"].mul_(cfg.momentum).add_(grad)
            if cfg.nesterov:
                direction = grad.add(direction, alpha=cfg.momentum)
        if cfg.weight_decay:
            parameters.mul_(1 - lr * cfg.weight_decay)
        parameters.add_(direction, alpha=-lr)
