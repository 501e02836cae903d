"""Muon on the hidden weight matrices, Adam on the rest.

Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024: momentum whose singular values are all moved
towards 1 by Newton-Schulz iterations, torch.optim.Muon. As its author recommends, biases, the first layer (of the raw
dense inputs) and the last (to the logit) are left to another optimizer, here Adam. Updates are scaled by
0.2 sqrt(max(rows, columns)), so that they have the size of Adam's and one learning rate serves both (Liu et al., "Muon
is Scalable for LLM Training", 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.optim.base import Choice, DenseOptimizer, ParameterViews, Tuned, rate
from dlrm_adahessian.optim.dense.adam import Adam, AdamConfig
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    from torch import Tensor


@settings
class MuonConfig:
    """Muon on hidden weight matrices (Jordan 2024), Adam on the first and last layer and on biases."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"lr": rate(0.002), "momentum": Choice((0.9, 0.95))}
    name: Literal["muon"] = "muon"
    """Which rule; a preset names it."""
    lr: float = Field(default=0.002, gt=0)
    """Of both; Muon's updates are scaled to the size of Adam's."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Muon's decay of the mean of gradients, a step."""
    nesterov: bool = True
    """Muon looks ahead by a step of the momentum."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Adam's."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam's."""
    eps: float = Field(default=1e-8, ge=0)
    """Adam's, added to the denominator; gradient units."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled: parameters shrink by lr * weight_decay a step."""

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        """Return the optimizer of a flat (P,) vector, in which parameters of these shapes lie one after another."""
        return Muon(parameters, self, shapes)


class Muon(DenseOptimizer):
    """Muon and Adam over one flat vector; ignores curvature."""

    def __init__(self, parameters: Tensor, cfg: MuonConfig, shapes: Sequence[Sequence[int]]) -> None:
        """Divide the parameters.

        Args:
            parameters: (P,).
            cfg: hyper-parameters.
            shapes: of the parameters in order, first layer first; P entries in all.

        Raises:
            UsageError: there is no hidden matrix.
        """
        import torch

        self.cfg = cfg
        matrices = [i for i, shape in enumerate(shapes) if len(shape) == 2]
        hidden = matrices[1:-1]
        if not hidden:
            raise UsageError(
                f"muon needs a weight matrix between the first and the last, and the model has {len(matrices)} "
                "in all; give it hidden layers, e.g. --model.top 256, or choose another optimizer"
            )
        self._views = ParameterViews(parameters, shapes, hidden)
        self._muon = torch.optim.Muon(
            self._views.parameters,
            lr=cfg.lr,
            weight_decay=cfg.weight_decay,
            momentum=cfg.momentum,
            nesterov=cfg.nesterov,
            adjust_lr_fn="match_rms_adamw",
        )
        momentum = torch.zeros_like(parameters)
        for parameter, view in zip(self._views.parameters, self._views.of(momentum), strict=True):
            self._muon.state[parameter]["momentum_buffer"] = view
        rest = torch.ones_like(parameters, dtype=torch.bool)
        for view in self._views.of(rest):
            view.fill_(False)
        self._rest = rest.nonzero().squeeze(1)
        adam = AdamConfig(
            lr=cfg.lr, beta1=cfg.beta1, beta2=cfg.beta2, eps=cfg.eps, weight_decay=cfg.weight_decay
        )
        self._adam = Adam(parameters[self._rest], adam)
        self.state = {"momentum": momentum, **self._adam.state}

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: float
    ) -> None:
        """Update `parameters`; see `DenseOptimizer`."""
        self._views.point_(parameters, grad)
        for group in self._muon.param_groups:
            group["lr"] = self.cfg.lr * lr_scale
        self._muon.step()
        rest = parameters[self._rest]
        self._adam.step(rest, grad[self._rest], curvature, lr_scale=lr_scale, samples=samples)
        parameters[self._rest] = rest
