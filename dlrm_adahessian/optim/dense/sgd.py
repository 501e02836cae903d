"""Stochastic gradient descent on the dense part, with momentum and decoupled weight decay.

Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning", 2013, in the form
of torch.optim.SGD, in which the learning rate multiplies the momentum:

    m = beta m + g,   w -= lr * m,   with Nesterov w -= lr * (g + beta m).

With momentum, a step is therefore up to 1 / (1 - beta) times lr * g. Weight decay is decoupled (Loshchilov and Hutter
2019, algorithm 1), while torch adds it to the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from dlrm_adahessian.optim.base import Choice, DenseOptimizer, Tuned, rate
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    from torch import Tensor


@settings
class SGDConfig:
    """Gradient descent on the dense part, with momentum (Sutskever et al. 2013)."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"lr": rate(0.1), "momentum": Choice((0.8, 0.9, 0.95))}
    name: Literal["sgd"] = "sgd"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.1, gt=0)
    """Peak learning rate; multiplies the momentum, a decayed sum of gradients of the mean loss."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum beta; 0 turns it off."""
    nesterov: bool = False
    """Use Nesterov momentum."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay: each step shrinks parameters by lr * weight_decay."""

    @model_validator(mode="after")
    def _has_what_nesterov_needs(self) -> SGDConfig:
        if self.nesterov and not self.momentum:
            raise ValueError(
                "nesterov needs a momentum above 0, but got 0. Set momentum, e.g. to 0.9, or nesterov to false."
            )
        return self

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        """Return the optimizer of a flat vector (P,) that concatenates parameters of these shapes."""
        return SGD(parameters, self)


class SGD(DenseOptimizer):
    """Gradient descent with momentum over a flat vector. Ignores curvature."""

    def __init__(self, parameters: Tensor, cfg: SGDConfig) -> None:
        self.cfg = cfg
        self.state = {"momentum": parameters.new_zeros(parameters.shape)} if cfg.momentum else {}

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: float
    ) -> None:
        """Update `parameters` in place; see `DenseOptimizer.step`."""
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
