"""torch.optim version of optim/dense/eigenbasis.py: AdaHessian in the Kronecker eigenbasis of each weight matrix.

The optimizer owns the bases. `exact_curvature` takes the optimizer, gets the basis of each weight from it, and stores the
curvature in the basis along with the Kronecker factors, from which `step` updates the basis.
"""

# pyright: basic
# torch's optimizer does not type its groups and states.
from typing import Any, ClassVar, Literal

from torch import nn
from torch.optim.optimizer import ParamsT

from dlrm_adahessian.library.optimizers import CurvatureOptimizer
from dlrm_adahessian.optim.basis import KroneckerBasis, Sides
from dlrm_adahessian.optim.dense.eigenbasis import EigenbasisConfig


class Eigenbasis(CurvatureOptimizer):
    """AdaHessian in a basis in which the Hessian of each weight matrix is nearly diagonal (compare EK-FAC, SOAP).

        optimizer = Eigenbasis(model.parameters(), lr=0.003)
        curvature = exact_curvature(model, every=8, optimizer=optimizer)

    `dlrm_adahessian.optim.dense.eigenbasis` describes the rule. Biases stay in coordinates. `step` removes the curvature of
    weights, because it may change their bases.

    Args:
        params: float32 or float64 parameters, or parameter groups with their own settings.
        lr: learning rate, of the same scale as Adam's.
        betas: decay per step of the gradient mean and of the accumulated values. The second may be 1 for sums only.
        eps: added to the denominator, in gradient units.
        accumulation: "mean" is a moving average, as in Adam; "sum" is a decayed sum, Adagrad's if the decay is 1.
        curvature_floor: lower bound of the accumulated value, as a multiple of the squared gradient.
        sides: sides of a weight matrix (out, in) that get a basis: "both", "output", "input" or "none".
        rank: leading eigenvectors per side.
        refresh: curvature steps between updates of the basis; the first ones come after 1, 2, 4, ...
        factor_decay: decay of the moving averages of the Kronecker factors, per step with curvature.

    `sides`, `rank` and `factor_decay` must not change while a parameter is trained.

    Raises:
        UsageError: a setting is out of range.
    """

    _config: ClassVar[Any] = EigenbasisConfig
    _block: ClassVar[str] = "`with exact_curvature(model, optimizer=optimizer):`, with this optimizer"

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
        """Return the basis in which the optimizer reads a parameter's curvature; None for biases and unknown parameters."""
        for group in self.param_groups:
            if any(parameter is p for p in group["params"]):
                return self._basis(parameter, self._settings(group))
        return None
