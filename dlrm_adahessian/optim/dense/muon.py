"""Muon on the hidden weight matrices and Adam on the rest.

Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024: momentum whose singular values Newton-Schulz
iterations move towards 1, as in torch.optim.Muon. As its author recommends, another optimizer (here Adam) updates biases,
the first layer (of the raw dense inputs), and the last layer (to the logit). Updates are multiplied by
0.2 sqrt(max(rows, columns)), which gives them the size of Adam's, so one learning rate serves both (Liu et al., "Muon
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
    """Muon on hidden weight matrices (Jordan 2024); Adam on the first and last layer and on biases."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"lr": rate(0.002), "momentum": Choice((0.9, 0.95))}
    name: Literal["muon"] = "muon"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.002, gt=0)
    """Peak learning rate of both; Muon's updates are scaled to the size of Adam's."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Muon's decay of the gradient mean (momentum), per step."""
    nesterov: bool = True
    """Use Nesterov momentum in Muon."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Adam's decay of the gradient mean, per step."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam's decay of the mean squared gradient, per step."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to Adam's denominator, in gradient units."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay: each step shrinks parameters by lr * weight_decay."""

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        """Return the optimizer of a flat vector (P,) that concatenates parameters of these shapes."""
        return Muon(parameters, self, shapes)


class Muon(DenseOptimizer):
    """Muon and Adam over one flat vector. Ignores curvature."""

    def __init__(self, parameters: Tensor, cfg: MuonConfig, shapes: Sequence[Sequence[int]]) -> None:
        """Assign the parameters to Muon and Adam.

        Args:
            parameters: (P,).
            cfg: hyper-parameters.
            shapes: shapes of the parameters in order, first layer first, P entries in total.

        Raises:
            UsageError: the model has no hidden matrix.
        """
        import torch

        self.cfg = cfg
        matrices = [i for i, shape in enumerate(shapes) if len(shape) == 2]
        hidden = matrices[1:-1]
        if not hidden:
            raise UsageError(
                f"muon needs a weight matrix between the first and the last, but the model has {len(matrices)} in total. "
                "Add hidden layers, e.g. --model.top 256, or choose another optimizer."
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
        """Update `parameters` in place; see `DenseOptimizer.step`."""
        self._views.point_(parameters, grad)
        for group in self._muon.param_groups:
            group["lr"] = self.cfg.lr * lr_scale
        self._muon.step()
        rest = parameters[self._rest]
        self._adam.step(rest, grad[self._rest], curvature, lr_scale=lr_scale, samples=samples)
        parameters[self._rest] = rest
