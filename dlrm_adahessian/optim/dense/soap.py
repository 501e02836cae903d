# pyright: basic
"""SOAP on the dense part, from the package `pytorch_optimizer` (extra `rivals`).

Vyas, Morwani, Zhao, Kwun, Shapira, Brandfonbrener, Janson, Kakade, "SOAP: Improving and Stabilizing Shampoo using
Adam", 2024: Adam in the eigenbasis of Shampoo's preconditioner, on each weight matrix; Adam on biases. The first step
only sets up the basis, as in the authors' code.

The package keeps lists, numbers and tensors that it replaces. So the state lives here, as named tensors that a
checkpoint holds, and is lent to the package for each step.
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

_MOMENTS = ("exp_avg", "exp_avg_sq")  # like the parameter
_SIDES = ("GG", "Q")  # a matrix, or an empty list, for each dimension of the parameter


@settings
class SOAPConfig:
    """SOAP on the dense part (Vyas et al. 2024); needs the extra `rivals`."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"lr": rate(0.003), "beta2": Choice((0.95, 0.99, 0.999))}
    name: Literal["soap"] = "soap"
    """Which rule; a preset names it."""
    lr: float = Field(default=0.003, gt=0)
    """Learning rate."""
    beta1: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the mean of gradients, a step."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of Adam's second moment and of the preconditioner, a step."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units."""
    precondition_every: int = Field(default=10, ge=1)
    """Steps from one update of the eigenbasis to the next."""
    max_dim: int = Field(default=10_000, ge=1)
    """Longer sides of a weight matrix are not preconditioned."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled: parameters shrink by lr * weight_decay a step."""

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        """Return the optimizer of a flat (P,) vector, in which parameters of these shapes lie one after another."""
        return SOAP(parameters, self, shapes)


class SOAP(DenseOptimizer):
    """SOAP over one flat vector; ignores curvature."""

    def __init__(self, parameters: Tensor, cfg: SOAPConfig, shapes: Sequence[Sequence[int]]) -> None:
        """Allocate moments and preconditioners.

        Args:
            parameters: (P,).
            cfg: hyper-parameters.
            shapes: of the parameters in order; P entries in all.

        Where the package is not installed, that is a UsageError.
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
        self._lent: list[dict[str, Any]] = []  # what the package calls its state of each parameter
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
        """Update `parameters`; see `DenseOptimizer`."""
        del curvature, samples
        self._views.point_(parameters, grad)
        done = int(self.state["steps"])
        (group,) = self._soap.param_groups
        group["lr"], group["step"] = self.cfg.lr * lr_scale, done
        for parameter, lent in zip(self._views.parameters, self._lent, strict=True):
            # Without any state the package sets up its own from the first gradient.
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
    """Copy into our tensors what the package put in their place."""
    if lent.keys() != returned.keys():
        raise UsageError(
            f"soap keeps {', '.join(lent)}, and this release of pytorch_optimizer keeps {', '.join(returned)}, which "
            "a checkpoint would lack; install the release that pyproject.toml names with pip install -e '.[rivals]'"
        )
    pairs = [(lent[name], returned[name]) for name in _MOMENTS]
    pairs += [pair for name in _SIDES for pair in zip(lent[name], returned[name], strict=True)]
    for ours, theirs in pairs:
        if not isinstance(ours, list) and ours is not theirs:
            ours.copy_(theirs)
