# pyright: basic
"""Distributed Shampoo on the dense part, from the package `pytorch_optimizer` (extra `rivals`).

Anil, Gupta, Koren, Regan, Singer, "Scalable Second Order Optimization for Deep Learning", 2020. It multiplies the gradient
of a weight matrix, in blocks, by inverse fourth roots of its Kronecker factors, which it recomputes every few steps. The
step has the length of Adagrad's (grafting). The first steps are Adagrad's with momentum. Every rank computes all roots.

The package updates its tensors in place, except for the roots. They get names here, so checkpoints can contain them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.optim.base import (
    Choice,
    DenseOptimizer,
    ParameterViews,
    Tuned,
    new_counter,
    rate,
    rival_package,
)
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    from torch import Tensor


@settings
class ShampooConfig:
    """Distributed Shampoo on the dense part (Anil et al. 2020); needs the extra `rivals`."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"lr": rate(0.01), "beta2": Choice((0.95, 0.99, 0.999))}
    name: Literal["shampoo"] = "shampoo"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.01, gt=0)
    """Peak learning rate of the dense part."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the gradient mean (momentum), per step."""
    beta2: float = Field(default=0.999, gt=0, lt=1)
    """Decay of the Kronecker factors, per step."""
    start: int = Field(default=25, ge=1)
    """First step that uses the preconditioner."""
    precondition_every: int = Field(default=20, ge=1)
    """Steps between updates of the inverse roots."""
    block_size: int = Field(default=512, ge=2)
    """Block size; longer sides of a weight matrix are split into blocks."""
    eps: float = Field(default=1e-6, gt=0)
    """Damping of the inverse roots, relative to the largest eigenvalue."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay: each step shrinks parameters by lr * weight_decay."""

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        """Return the optimizer of a flat vector (P,) that concatenates parameters of these shapes."""
        return Shampoo(parameters, self, shapes)


class Shampoo(DenseOptimizer):
    """Shampoo over one flat vector. Ignores curvature."""

    def __init__(self, parameters: Tensor, cfg: ShampooConfig, shapes: Sequence[Sequence[int]]) -> None:
        """Allocate moments and preconditioners.

        Args:
            parameters: (P,).
            cfg: hyper-parameters.
            shapes: shapes of the parameters in order, P entries in total.

        Raises a UsageError if the package is not installed.
        """
        package = rival_package(cfg.name)
        self.cfg = cfg
        self._views = ParameterViews(parameters, shapes, range(len(shapes)))
        self._shampoo = package.shampoo.ScalableShampoo(
            self._views.parameters,
            lr=cfg.lr,
            betas=(cfg.beta1, cfg.beta2),
            moving_average_for_momentum=True,
            weight_decay=cfg.weight_decay,
            decoupled_weight_decay=True,
            start_preconditioning_step=cfg.start,
            preconditioning_compute_steps=cfg.precondition_every,
            block_size=cfg.block_size,
            shape_interpretation=False,  # would make vectors of small matrices, which have no preconditioner
            graft_type=package.utils.graft.LayerWiseGrafting.ADAGRAD,
            matrix_eps=cfg.eps,
        )
        self._views.point_(parameters, parameters)  # any gradient makes the package create its state
        (group,) = self._shampoo.param_groups
        self._shampoo.init_group(group)
        self.state = {"steps": new_counter()}
        for i, parameter in enumerate(self._views.parameters):
            found = self._shampoo.state[parameter]
            graft, factors = found["graft"], found["pre_conditioner"]
            self.state |= {
                f"{i}/momentum": found["momentum"],
                f"{i}/graft_momentum": graft.momentum,
                f"{i}/graft_sum": graft.statistics,
                **{f"{i}/factor/{side}": matrix for side, matrix in enumerate(factors.statistics)},
                **{f"{i}/root/{side}": matrix for side, matrix in enumerate(factors.pre_conditioners)},
            }

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: float
    ) -> None:
        """Update `parameters` in place; see `DenseOptimizer.step`."""
        del curvature, samples
        self._views.point_(parameters, grad)
        (group,) = self._shampoo.param_groups
        group["lr"], group["step"] = self.cfg.lr * lr_scale, int(self.state["steps"])
        self._shampoo.step()
        self.state["steps"].add_(1)
        for i, parameter in enumerate(self._views.parameters):
            roots = self._shampoo.state[parameter]["pre_conditioner"].pre_conditioners
            for side, root in enumerate(roots):
                ours = self.state[f"{i}/root/{side}"]
                if root.data_ptr() != ours.data_ptr():
                    ours.copy_(root)
                    roots[side] = ours
