# pyright: basic
"""SOAP on the dense part, from the package `pytorch_optimizer` (extra `rivals`).

Vyas, Morwani, Zhao, Kwun, Shapira, Brandfonbrener, Janson, Kakade, "SOAP: Improving and Stabilizing Shampoo using
Adam", 2024: Adam in the eigenbasis of Shampoo's preconditioner on each weight matrix, and Adam on biases. As in the
authors' code, the first step only sets up the basis.

The package stores its state in lists, numbers and tensors that it replaces. So this module stores the state as named
tensors, which checkpoints can contain, and lends it to the package for each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.errors import UsageError
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

_MOMENTS = ("exp_avg", "exp_avg_sq")  # shaped like the parameter
_SIDES = ("GG", "Q")  # a matrix or an empty list for each dimension of the parameter


@settings
class SOAPConfig:
    """SOAP on the dense part (Vyas et al. 2024); needs the extra `rivals`."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"lr": rate(0.003), "beta2": Choice((0.95, 0.99, 0.999))}
    name: Literal["soap"] = "soap"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.003, gt=0)
    """Peak learning rate of the dense part."""
    beta1: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the gradient mean (momentum), per step."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of Adam's second moment and of the preconditioner, per step."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator, in gradient units."""
    precondition_every: int = Field(default=10, ge=1)
    """Steps between updates of the eigenbasis."""
    max_dim: int = Field(default=10_000, ge=1)
    """Longest side of a weight matrix that is preconditioned."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay: each step shrinks parameters by lr * weight_decay."""

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        """Return the optimizer of a flat vector (P,) that concatenates parameters of these shapes."""
        return SOAP(parameters, self, shapes)


class SOAP(DenseOptimizer):
    """SOAP over one flat vector. Ignores curvature."""

    def __init__(self, parameters: Tensor, cfg: SOAPConfig, shapes: Sequence[Sequence[int]]) -> None:
        """Allocate moments and preconditioners.

        Args:
            parameters: (P,).
            cfg: hyper-parameters.
            shapes: shapes of the parameters in order, P entries in total.

        Raises a UsageError if the package is not installed.
        """
        self.cfg = cfg
        self._views = ParameterViews(parameters, shapes, range(len(shapes)))
        self._soap = rival_package(cfg.name).soap.SOAP(
            self._views.parameters,
            lr=cfg.lr,
            betas=(cfg.beta1, cfg.beta2),
            weight_decay=cfg.weight_decay,
            precondition_frequency=cfg.precondition_every,
            max_precondition_dim=cfg.max_dim,
            eps=cfg.eps,
        )
        self.state = {"steps": new_counter()}
        self._lent: list[dict[str, Any]] = []  # each parameter's state, by the package's names
        for i, parameter in enumerate(self._views.parameters):
            lent: dict[str, Any] = {name: parameter.data.new_zeros(parameter.shape) for name in _MOMENTS}
            lent |= {name: [self._side(parameter, size) for size in parameter.shape] for name in _SIDES}
            self.state |= {f"{i}/{name}": lent[name] for name in _MOMENTS}
            self.state |= {
                f"{i}/{name}/{side}": matrix
                for name in _SIDES
                for side, matrix in enumerate(lent[name])
                if not isinstance(matrix, list)
            }
            self._lent.append(
                {**lent, "precondition_frequency": cfg.precondition_every, "shampoo_beta": cfg.beta2}
            )

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: float
    ) -> None:
        """Update `parameters` in place; see `DenseOptimizer.step`."""
        del curvature, samples
        self._views.point_(parameters, grad)
        done = int(self.state["steps"])
        (group,) = self._soap.param_groups
        group["lr"], group["step"] = self.cfg.lr * lr_scale, done
        for parameter, lent in zip(self._views.parameters, self._lent, strict=True):
            # Without state, the package sets up its own from the first gradient.
            self._soap.state[parameter] = {**lent, **{n: [*lent[n]] for n in _SIDES}} if done else {}
        self._soap.step()
        for parameter, lent in zip(self._views.parameters, self._lent, strict=True):
            _take_back_(lent, self._soap.state[parameter])
        self.state["steps"].add_(1)

    def _side(self, parameter: Tensor, size: int) -> Tensor | list[Tensor]:
        if parameter.dim() == 1 or size > self.cfg.max_dim:
            return []
        return parameter.data.new_zeros(size, size)


def _take_back_(lent: dict[str, Any], returned: dict[str, Any]) -> None:
    """Copy the tensors that the package replaced into ours."""
    if lent.keys() != returned.keys():
        raise UsageError(
            f"soap expects the state {', '.join(lent)}, but this release of pytorch_optimizer has {', '.join(returned)}. "
            "Checkpoints would be incomplete. Install the supported release with pip install -e '.[rivals]'."
        )
    pairs = [(lent[name], returned[name]) for name in _MOMENTS]
    pairs += [pair for name in _SIDES for pair in zip(lent[name], returned[name], strict=True)]
    for ours, theirs in pairs:
        if not isinstance(ours, list) and ours is not theirs:
            ours.copy_(theirs)
