"""torch.optim versions of AdaHessian and Hessian Adagrad, built on the rules of optim/dense.

Each parameter has its own rule over its flattened entries, so state has torch's layout. The rules read `p.curvature` and
`p.curvature_samples`, set by `exact_curvature`, `hutchinson_curvature` or the user.
"""

# pyright: basic
# torch's optimizer does not type its groups and states.
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
    """Base class of optimizers with curvature. It builds a rule for each parameter at its first update.

    `zero_grad` also removes `p.curvature`. Steps without curvature use the state from earlier steps. Settings in
    `param_groups` may change between steps, as schedulers do. A run resumed from `state_dict` is bit-identical.
    """

    _config: ClassVar[Any]
    """Settings class of the rule. A group uses the same names, except for `betas`."""
    _block: ClassVar[str] = "`with exact_curvature(model):`, or `hutchinson_curvature`"
    """Code that computes the curvature, for error messages."""

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self._rules: dict[nn.Parameter, DenseOptimizer] = {}
        super().__init__(params, defaults)

    def _settings(self, group: dict[str, Any]) -> Any:
        """Return the settings of the rule with a learning rate of 1, which the group's learning rate scales."""
        values = {field.name: group[field.name] for field in fields(self._config) if field.name in group}
        if "betas" in group:
            values["beta1"], values["beta2"] = group["betas"]
        return validated(self._config, {**values, "lr": 1.0})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with its own settings or the defaults. A setting out of range raises a UsageError.

        Raises:
            ValueError: the learning rate is negative, or a parameter is neither float32 nor float64, or is not contiguous.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        self._settings(group)
        if not float(group["lr"]) >= 0:
            raise ValueError(f"lr must not be negative, but got lr={group['lr']}. Use a value such as 0.01.")
        for p in group["params"]:
            if p.dtype not in _TYPES or not p.is_contiguous():
                raise ValueError(
                    f"{type(self).__name__} trains contiguous parameters of float32 or float64, but got one of {p.dtype} "
                    f"with strides {p.stride()}. Use torch.autocast for narrower dtypes."
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient. A first update without curvature raises a RuntimeError.

        Args:
            closure: recomputes the loss and the derivatives; rarely needed.

        Returns:
            The result of the closure, or None.
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
        """Remove gradients and curvature.

        Args:
            set_to_none: whether gradients become None or zeros. Curvature always becomes None.
        """
        super().zero_grad(set_to_none)
        for group in self.param_groups:
            clear_curvature(group["params"])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._rules = {}  # rebuilt from the loaded state

    def _update_(self, p: nn.Parameter, settings: Any, lr: float) -> None:
        curvature, grad = curvature_of(p), p.grad
        if curvature is None and not self.state.get(p):
            raise RuntimeError(
                f"{type(self).__name__} needs p.curvature in the first step of each parameter, but one of shape "
                f"{tuple(p.shape)} has none. Run the backward pass within {self._block}."
            )
        if grad is None or grad.is_sparse:
            raise RuntimeError("Optimizers with curvature need dense gradients. Use sparse=False.")
        rule: Any = self._rule(p, settings)
        rule.cfg = settings
        if curvature is not None and basis_of(p) is not self._basis(p, settings):
            raise RuntimeError(
                f"{type(self).__name__} found p.curvature of shape {tuple(p.shape)} in another basis than its own. "
                f"Run the backward pass within {self._block}."
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
            clear_curvature([p])  # its basis may have changed

    def _basis(self, p: nn.Parameter, settings: Any) -> KroneckerBasis | None:
        """Return the basis in which a parameter's rule reads its curvature; None for coordinates."""
        basis = self._rule(p, settings).basis
        return basis if basis is not None and basis.matrices else None

    def _rule(self, p: nn.Parameter, settings: Any) -> DenseOptimizer:
        """Return the rule of a parameter, and load its state if there is one."""
        if p not in self._rules:
            rule = self._rules[p] = settings.build(p.detach().view(-1), [p.shape])
            loaded: dict[str, Tensor] = self.state.get(p, {})
            for name, tensor in loaded.items():
                rule.state[name].copy_(tensor)  # torch converts counters to float; ours are integers
            self.state[p] = rule.state
        return self._rules[p]


class AdaHessian(CurvatureOptimizer):
    """AdaHessian (Yao et al. 2020): Adam with curvature in place of the gradient in the second moment.

        optimizer = AdaHessian(model.parameters(), lr=0.05)

    `dlrm_adahessian.optim.dense.adahessian` describes the rule and its departures from the paper.

    Args:
        params: float32 or float64 parameters, or parameter groups with their own settings.
        lr: learning rate: the fraction of a diagonal Newton step if `power` is 1.
        betas: decay of the gradient mean per step, and of the mean squared curvature per step with curvature.
        eps: added to the denominator after the power, in curvature units.
        weight_decay: decoupled weight decay; each step shrinks parameters by lr * weight_decay.
        power: Hessian power in [0, 1]; 1 divides by the curvature, 0.5 by its square root.
        block_size: number of consecutive entries of a parameter whose curvature is averaged; 1 turns it off.
        average_rows: whether to average the curvature over each row of a weight matrix.
        curvature_floor: lower bound of the curvature, as a multiple of samples * squared gradient; 0 is off.

    Raises:
        UsageError: a setting is out of range.
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
    """Adagrad with the squared gradient replaced by its expectation, the curvature divided by the samples.

        optimizer = HessianAdagrad(model.parameters(), lr=0.01)

    `dlrm_adahessian.optim.dense.hessian_adagrad` describes the rule.

    Args:
        params: float32 or float64 parameters, or parameter groups with their own settings.
        lr: learning rate, of the same scale as Adagrad's.
        beta1: decay of the gradient mean (momentum), per step; 0 turns it off. A parameter's beta1 must not change between
            0 and above 0.
        eps: added to the denominator, in gradient units.
        curvature_floor: lower bound of the accumulated value, as a multiple of the squared gradient.

    Raises:
        UsageError: a setting is out of range.
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
