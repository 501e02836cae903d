# pyright: basic
"""AdaHessian in the Kronecker eigenbasis of each weight matrix.

The Hessian of a layer is nearly diagonal in the eigenbasis of its Kronecker factors (basis.py), so its diagonal describes it
better there than in coordinates. With G the gradient of a weight matrix, M its mean, and h the exact diagonal in the basis,

    E = max(h / B, floor * (Q_S^T G Q_A)^2),   s <- moving average or sum of E,
    W <- W - lr Q_S [(Q_S^T M Q_A) / (sqrt(s) + eps)] Q_A^T.

Without curvature, E is the squared gradient, whose expectation under the model is h / B (Fisher). Biases stay in
coordinates. Related methods: EK-FAC, which divides by s (George et al. 2018), and SOAP, whose basis comes from gradients
alone (Vyas, Morwani, Zhao, Kwun, Shapira, Brandfonbrener, Janson, Kakade, "SOAP: Improving and Stabilizing Shampoo using
Adam", 2024; Gupta, Koren, Singer, "Shampoo: Preconditioned Stochastic Tensor Optimization", 2018).

Gradient means are stored in the basis. When it changes by R = Q_new^T Q_old, they change with it, and s transforms like the
diagonal of a covariance: s <- (R_S^2) s (R_A^2)^T, with squares entry by entry. This is exact if R is a permutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from dlrm_adahessian.kernels.compiled import numba_kernel
from dlrm_adahessian.optim.base import DenseOptimizer, ParameterViews, Tuned, new_counter, rate
from dlrm_adahessian.optim.basis import KroneckerBasis, Sides
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    import numba
    from torch import Tensor


@settings
class EigenbasisConfig:
    """AdaHessian in the Kronecker eigenbasis of each weight matrix (compare EK-FAC, SOAP); needs curvature exact."""

    uses_curvature: ClassVar[bool] = True
    tuned: ClassVar[Tuned] = {"lr": rate(0.003)}
    name: Literal["eigenbasis"] = "eigenbasis"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.004, gt=0)
    """Peak learning rate of the dense part."""
    beta1: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the gradient mean (momentum), per step."""
    beta2: float = Field(default=0.99, gt=0, le=1)
    """Decay of the accumulated values, per step; 1 is allowed for sums only."""
    accumulation: Literal["mean", "sum"] = "mean"
    """Moving average (mean, as in Adam) or decayed sum (sum, Adagrad's if beta2 is 1)."""
    source: Literal["curvature", "gradient"] = "curvature"
    """Value to accumulate on steps with curvature; other steps use the squared gradient."""
    curvature_floor: float = Field(default=1.0, gt=0)
    """Lower bound of the accumulated curvature, as a multiple of the squared gradient."""
    sides: Sides = "both"
    """Sides of a weight matrix that get a basis; none keeps coordinates."""
    rank: int = Field(default=16, ge=1)
    """Leading eigenvectors per side."""
    refresh: int = Field(default=8, ge=1)
    """Curvature steps between updates of the basis; the first ones come after 1, 2, 4, ..."""
    factor_decay: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the moving averages of the Kronecker factors, per step with curvature."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator, in gradient units of the mean loss."""

    @model_validator(mode="after")
    def _moves(self) -> EigenbasisConfig:
        if self.accumulation == "mean" and self.beta2 == 1:
            raise ValueError(
                "eigenbasis with accumulation mean needs beta2 below 1, because the average would stay 0. Set beta2, "
                "e.g. to 0.99, or accumulation to sum."
            )
        return self

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        """Return the optimizer of a flat vector (P,) that concatenates parameters of these shapes."""
        return Eigenbasis(parameters, self, shapes)


class Eigenbasis(DenseOptimizer):
    """The eigenbasis rule over a flat vector. `mean` and `square` are stored in the basis."""

    def __init__(self, parameters: Tensor, cfg: EigenbasisConfig, shapes: Sequence[Sequence[int]]) -> None:
        """Start with zero moments, in coordinates.

        Args:
            parameters: (P,).
            cfg: hyper-parameters.
            shapes: shapes of the parameters in order, P entries in total.
        """
        self.cfg = cfg
        self.basis = self._basis = KroneckerBasis(
            parameters,
            shapes,
            sides=cfg.sides,
            rank=cfg.rank,
            decay=cfg.factor_decay,
            diagonal=cfg.source == "curvature",
        )
        self.state = {
            "mean": parameters.new_zeros(parameters.shape),
            "square": parameters.new_zeros(parameters.shape),
            "steps": new_counter(),
            **self._basis.state,
        }
        self._views = ParameterViews(parameters, shapes, list(self._basis.matrices))
        self._direction = parameters.new_empty(parameters.shape)  # in the basis; recomputed at each step

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: float
    ) -> None:
        """Update `parameters` in place; see `DenseOptimizer.step`. `curvature` is in the basis."""
        cfg, direction = self.cfg, self._direction
        steps = int(self.state["steps"].add_(1))
        direction.copy_(grad)
        matrices = self._matrices(direction)
        for basis, matrix in matrices:
            basis.turn_(matrix)
        scale = 1 - cfg.beta2**steps if cfg.accumulation == "mean" else 1.0
        update = self.update_numba_ if parameters.device.type == "cpu" else self.update_torch_
        lr = cfg.lr * lr_scale / (1 - cfg.beta1**steps)
        update(direction, curvature, lr=lr, scale=scale, samples=samples)
        for basis, matrix in matrices:
            basis.turn_back_(matrix)
        parameters.sub_(direction)

    def floored(self, grad: Tensor, curvature: Tensor, *, samples: float) -> Tensor:
        """Return the entries in the basis whose curvature is below the floor; see `DenseOptimizer.floored`."""
        turned = grad.clone()
        for basis, matrix in self._matrices(turned):
            basis.turn_(matrix)
        return curvature.abs() / samples < self.cfg.curvature_floor * turned.square()

    def observe_(self, factors: Tensor) -> None:
        """Add a batch's Kronecker factors to the moving averages, and update the basis if it is due."""
        seen = self._basis.observe_(factors)
        settled = seen & (seen - 1)  # 0 at powers of two, because the first averages change most
        if settled and seen % self.cfg.refresh:
            return
        means, squares = (self._matrices(self.state[name]) for name in ("mean", "square"))
        for (basis, mean), (_, square) in zip(means, squares, strict=True):
            basis.turn_back_(mean)
            for side, rows in ((basis.input, square), (basis.output, square.T)):
                if side is not None:
                    before = side.matrix()
                    side.refresh_(first=seen == 1)
                    rows.copy_(rows @ side.turn(before.T).square_())
            basis.turn_(mean)

    def update_torch_(
        self, direction: Tensor, curvature: Tensor | None, *, lr: float, scale: float, samples: float
    ) -> None:
        """Update the moments and turn the gradient in `direction` into a step, on any device. Serves as the oracle.

        Args:
            direction: (P,) gradient in the basis, overwritten with lr * mean / (sqrt(square / scale) + eps).
            curvature: (P,) in the basis, or None.
            lr: learning rate with all factors included.
            scale: bias correction of the moving average.
            samples: samples in the batch.
        """
        cfg, square = self.cfg, self.state["square"]
        expected = direction.square()
        if curvature is not None:
            expected = (curvature.abs() / samples).maximum(expected.mul_(cfg.curvature_floor))
        square.mul_(cfg.beta2).add_(expected, alpha=self._weight)
        mean = self.state["mean"].lerp_(direction, 1 - cfg.beta1)
        direction.copy_(lr * mean / (square / scale).sqrt_().add_(cfg.eps))

    def update_numba_(
        self, direction: Tensor, curvature: Tensor | None, *, lr: float, scale: float, samples: float
    ) -> None:
        """Compute `update_torch_` in one compiled pass on the CPU."""
        cfg, d = self.cfg, direction.numpy()
        real = d.dtype.type
        _update(
            d,
            self.state["square"].numpy(),
            self.state["mean"].numpy(),
            d if curvature is None else curvature.numpy(),
            curvature is not None,
            real(lr),
            real(1 - cfg.beta1),
            real(cfg.beta2),
            real(self._weight),
            real(1 / scale),
            real(cfg.eps),
            real(cfg.curvature_floor),
            real(1 / samples),
        )

    @property
    def _weight(self) -> float:
        return 1 - self.cfg.beta2 if self.cfg.accumulation == "mean" else 1.0

    def _matrices(self, vector: Tensor) -> list[Any]:
        """Return the basis of each weight matrix with a view of the matrix into a vector (P,)."""
        return list(zip(self._basis.matrices.values(), self._views.of(vector), strict=True))


@partial(numba_kernel, error_model="numpy")
def _update(
    d: Any, s: Any, m: Any, h: Any, has_h: bool, lr: Any, weight1: Any, beta2: Any, weight2: Any, per_scale: Any, eps: Any,
    floor: Any, per_sample: Any,
) -> None:  # fmt: skip
    for i in numba.prange(d.shape[0]):
        gradient = d[i]
        expected = gradient * gradient
        if has_h:
            expected = max(abs(h[i]) * per_sample, floor * expected)
        s[i] = beta2 * s[i] + weight2 * expected
        m[i] += weight1 * (gradient - m[i])
        d[i] = lr * m[i] / (np.sqrt(s[i] * per_scale) + eps)
