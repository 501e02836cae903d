"""Muon on the hidden weight matrices, Adam on the rest.

Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024: momentum whose singular values are all moved
towards 1 by Newton-Schulz iterations, torch.optim.Muon. As its author recommends, biases, the first layer (of the raw
dense inputs) and the last (to the logit) are left to another optimizer, here Adam. Updates are scaled by
0.2 sqrt(max(rows, columns)), so that they have the size of Adam's and one learning rate serves both (Liu et al., "Muon
is Scalable for LLM Training", 2025).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.optim.config import AdamConfig, MuonConfig
from dlrm_adahessian.optim.dense.adam import Adam
from dlrm_adahessian.optim.dense.views import ParameterViews


class Muon:
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
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: int
    ) -> None:
        """Update `parameters`; see `DenseOptimizer`."""
        self._views.point_(parameters, grad)
        for group in self._muon.param_groups:
            group["lr"] = self.cfg.lr * lr_scale
        self._muon.step()
        rest = parameters[self._rest]
        self._adam.step(rest, grad[self._rest], curvature, lr_scale=lr_scale, samples=samples)
        parameters[self._rest] = rest
