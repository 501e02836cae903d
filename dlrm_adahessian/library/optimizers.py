"""AdaHessian and Hessian Adagrad as optimizers of torch, over the rules of optim/dense.

Each parameter has a rule of its own, over its entries in a row, so that state is kept as torch keeps it. Curvature is what
`exact_curvature`, `hutchinson_curvature` or the user left in `p.curvature`; the rules read `p.curvature_samples` too.
"""

# pyright: basic
# torch's optimizer has no types for its groups and states.
from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from dlrm_adahessian.library.attached import basis_of, clear_curvature, curvature_of, factors_of, samples_of
from dlrm_adahessian.optim.base import DenseOptimizer
from dlrm_adahessian.optim.basis import KroneckerBasis
from dlrm_adahessian.optim.dense.adahessian import AdaHessianConfig
from dlrm_adahessian.optim.dense.hessian_adagrad import DenseHessianAdagradConfig
from dlrm_adahessian.runtime.settings import validated

_TYPES = (torch.float32, torch.float64)


class CurvatureOptimizer(Optimizer):
    """What optimizers with curvature share: a rule for each parameter, built when the parameter is first updated.

    `zero_grad` takes `p.curvature` away too. Steps without curvature go on with what was seen before. Settings may change
    between steps in `param_groups`, as schedulers do. `state_dict` resumes to the bit.
    """

    _config: ClassVar[Any]
    """Settings of the rule; those in a group have the same names there, `betas` apart."""
    _block: ClassVar[str] = "`with exact_curvature(model):`, or `hutchinson_curvature`"
    """In which its curvature is made, for messages."""

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self._rules: dict[nn.Parameter, DenseOptimizer] = {}
        super().__init__(params, defaults)

    def _settings(self, group: dict[str, Any]) -> Any:
        """Return the settings of the rule, with a learning rate of 1, which the group's own then scales."""
        values = {field.name: group[field.name] for field in fields(self._config) if field.name in group}
        if "betas" in group:
            values["beta1"], values["beta2"] = group["betas"]
        return validated(self._config, {**values, "lr": 1.0})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with settings of its own or the defaults; a setting out of its range is a UsageError.

        Raises:
            ValueError: the learning rate is negative, or a parameter is of another type than float32 and float64, or not
                contiguous.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        self._settings(group)
        if not float(group["lr"]) >= 0:
            raise ValueError(f"a learning rate is not negative, got lr={group['lr']}; use one like 0.01")
        for p in group["params"]:
            if p.dtype not in _TYPES or not p.is_contiguous():
                raise ValueError(
                    f"{type(self).__name__} trains contiguous parameters of float32 or float64, got one of {p.dtype} "
                    f"with strides {p.stride()}; let torch.autocast make what is narrower"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient; a RuntimeError where one has no curvature at its first update.

        Args:
            closure: computes the loss and the derivatives anew; rarely of use.

        Returns:
            What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            settings, lr = self._settings(group), float(group["lr"])
            for p in group["params"]:
                if p.grad is not None:
                    self._update_(p, settings, lr)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Take gradients and curvature away.

        Args:
            set_to_none: whether gradients become None, or zeros; curvature becomes None in any case.
        """
        super().zero_grad(set_to_none)
        for group in self.param_groups:
            clear_curvature(group["params"])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._rules = {}  # they are made anew of what was loaded

    def _update_(self, p: nn.Parameter, settings: Any, lr: float) -> None:
        curvature, grad = curvature_of(p), p.grad
        if curvature is None and not self.state.get(p):
            raise RuntimeError(
                f"{type(self).__name__} needs p.curvature at the first step of each parameter, and one of shape "
                f"{tuple(p.shape)} has none; run the backward pass within {self._block}"
            )
        if grad is None or grad.is_sparse:
            raise RuntimeError("optimizers with curvature take dense gradients; use sparse=False")
        rule: Any = self._rule(p, settings)
        rule.cfg = settings
        if curvature is not None and basis_of(p) is not self._basis(p, settings):
            raise RuntimeError(
                f"{type(self).__name__} found p.curvature of shape {tuple(p.shape)} in another basis than the one that it "
                f"reads it in; run the backward pass within {self._block}"
            )
        rule.step(
            p.detach().view(-1),
            grad.reshape(-1),
            None if curvature is None else curvature.reshape(-1),
            lr_scale=lr,
            samples=1.0 if curvature is None else samples_of(p),
        )
        factors = factors_of(p)
        if factors is not None:
            rule.observe_(factors)
            clear_curvature([p])  # the basis that it is in may have turned

    def _basis(self, p: nn.Parameter, settings: Any) -> KroneckerBasis | None:
        """Return the basis in which the rule of a parameter reads its curvature, None for coordinates."""
        basis = self._rule(p, settings).basis
        return basis if basis is not None and basis.matrices else None

    def _rule(self, p: nn.Parameter, settings: Any) -> DenseOptimizer:
        """Return the rule of a parameter, which takes up what was loaded for it."""
        if p not in self._rules:
            rule = self._rules[p] = settings.build(p.detach().view(-1), [p.shape])
            loaded: dict[str, Tensor] = self.state.get(p, {})
            for name, tensor in loaded.items():
                rule.state[name].copy_(tensor)  # torch makes counters floats, which these are not
            self.state[p] = rule.state
        return self._rules[p]


class AdaHessian(CurvatureOptimizer):
    """AdaHessian (Yao et al. 2020): Adam with the curvature in the place of the gradient in the second moment.

        optimizer = AdaHessian(model.parameters(), lr=0.05)

    The rule, and where it departs from the paper: `dlrm_adahessian.optim.dense.adahessian`.

    Args:
        params: float32 or float64 parameters, or groups of them with settings of their own.
        lr: the fraction of a diagonal Newton step where `power` is 1.
        betas: decay of the mean of gradients, a step, and of the mean of squared curvature, a step with curvature.
        eps: added to the denominator after the power; curvature units.
        weight_decay: decoupled; parameters shrink by lr * weight_decay a step.
        power: in [0, 1]; 1 divides by the curvature, 0.5 by its root.
        block_size: consecutive entries of a parameter whose curvature is averaged; 1 is none.
        average_rows: whether a row of a weight matrix shares the mean of its curvature.
        curvature_floor: curvature is at least this times samples times squared gradient; 0 is off.

    Raises:
        UsageError: a setting is out of its range.
    """

    _config: ClassVar[Any] = AdaHessianConfig

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        *,
        power: float = 0.5,
        block_size: int = 1,
        average_rows: bool = False,
        curvature_floor: float = 1.0,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "power": power,
                "block_size": block_size,
                "average_rows": average_rows,
                "curvature_floor": curvature_floor,
            },
        )


class HessianAdagrad(CurvatureOptimizer):
    """Adagrad whose squared gradient is replaced by its expectation, the curvature over the samples.

        optimizer = HessianAdagrad(model.parameters(), lr=0.01)

    The rule: `dlrm_adahessian.optim.dense.hessian_adagrad`.

    Args:
        params: float32 or float64 parameters, or groups of them with settings of their own.
        lr: learning rate; Adagrad's, times an AdaHessian-like momentum where `beta1` is not 0.
        beta1: decay of the mean of gradients, a step; 0 keeps none. It stays 0, or above 0, while a parameter is trained.
        eps: added to the denominator; gradient units.
        curvature_floor: what is accumulated is at least this times the squared gradient.

    Raises:
        UsageError: a setting is out of its range.
    """

    _config: ClassVar[Any] = DenseHessianAdagradConfig

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        beta1: float = 0.0,
        eps: float = 1e-8,
        *,
        curvature_floor: float = 1.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "beta1": beta1, "eps": eps, "curvature_floor": curvature_floor})
