"""AdaHessian in the Kronecker eigenbasis of each weight matrix, as an optimizer of torch over optim/dense/eigenbasis.py.

The optimizer keeps the bases. `exact_curvature` is given it, asks it for the basis of each weight, and leaves there the
curvature in the basis and the Kronecker factors that `step` turns the basis with.
"""

# pyright: basic
# torch's optimizer has no types for its groups and states.
from typing import Any, ClassVar, Literal

from torch import nn
from torch.optim.optimizer import ParamsT

from dlrm_adahessian.library.optimizers import CurvatureOptimizer
from dlrm_adahessian.optim.basis import KroneckerBasis, Sides
from dlrm_adahessian.optim.dense.eigenbasis import EigenbasisConfig


class Eigenbasis(CurvatureOptimizer):
    """AdaHessian in the basis in which the Hessian of each weight matrix is nearly diagonal (relatives: EK-FAC, SOAP).

        optimizer = Eigenbasis(model.parameters(), lr=0.003)
        curvature = exact_curvature(model, every=8, optimizer=optimizer)

    The rule: `dlrm_adahessian.optim.dense.eigenbasis`. Biases stay in coordinates. `step` takes the curvature of weights
    away, since it may turn their bases.

    Args:
        params: float32 or float64 parameters, or groups of them with settings of their own.
        lr: learning rate, as Adam's.
        betas: decay of the mean of gradients, and of what is accumulated, a step; the second is 1 for sums only.
        eps: added to the denominator; gradient units.
        accumulation: "mean" is a moving average, as Adam's; "sum" is a sum, as Adagrad's where it does not decay.
        curvature_floor: what is accumulated is at least this times the squared gradient.
        sides: of a weight matrix (out, in) that get a basis: "both", "output", "input" or "none".
        rank: leading eigenvectors of a side.
        refresh: steps with curvature from one turn of the basis to the next; at first after 1, 2, 4, ... of them.
        factor_decay: of the moving averages of the Kronecker factors, a step with curvature.

    `sides`, `rank` and `factor_decay` stay what they are while a parameter is trained.

    Raises:
        UsageError: a setting is out of its range.
    """

    _config: ClassVar[Any] = EigenbasisConfig
    _block: ClassVar[str] = (
        "`with exact_curvature(model, optimizer=optimizer):`, with the optimizer that steps"
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.004,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-8,
        *,
        accumulation: Literal["mean", "sum"] = "mean",
        curvature_floor: float = 1.0,
        sides: Sides = "both",
        rank: int = 16,
        refresh: int = 8,
        factor_decay: float = 0.9,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "accumulation": accumulation,
                "curvature_floor": curvature_floor,
                "sides": sides,
                "rank": rank,
                "refresh": refresh,
                "factor_decay": factor_decay,
            },
        )

    def basis_of(self, parameter: nn.Parameter) -> KroneckerBasis | None:
        """Return the basis in which it reads the curvature of a parameter; None for biases and what it does not train."""
        for group in self.param_groups:
            if any(parameter is p for p in group["params"]):
                return self._basis(parameter, self._settings(group))
        return None
