# pyright: basic
"""AdaHessian in the Kronecker eigenbasis of each weight matrix.

The Hessian of a layer is nearly diagonal in the eigenbasis of its Kronecker factors (basis.py), so that a diagonal says more
there than in coordinates. With G the gradient of a weight matrix, M its mean and h the exact diagonal in the basis,

    E = max(h / B, floor * (Q_S^T G Q_A)^2),   s <- moving average or sum of E,
    W <- W - lr Q_S [(Q_S^T M Q_A) / (sqrt(s) + eps)] Q_A^T.

A step without curvature takes the squared gradient for E, whose expectation under the model is h / B (Fisher). Biases
stay in coordinates. Relatives: EK-FAC, which divides by s (George et al. 2018), and SOAP, whose basis is of gradients
alone (Vyas, Morwani, Zhao, Kwun, Shapira, Brandfonbrener, Janson, Kakade, "SOAP: Improving and Stabilizing Shampoo using
Adam", 2024; Gupta, Koren, Singer, "Shampoo: Preconditioned Stochastic Tensor Optimization", 2018).

Gradient means are held in the basis. When it turns by R = Q_new^T Q_old they turn with it, and so does s as the diagonal
of a covariance does: s <- (R_S^2) s (R_A^2)^T, squares entry by entry, which is exact where R permutes.
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
    """AdaHessian in the Kronecker eigenbasis of each weight matrix (relatives: EK-FAC, SOAP); needs curvature exact."""

    uses_curvature: ClassVar[bool] = True
    tuned: ClassVar[Tuned] = {"lr": rate(0.003)}
    name: Literal["eigenbasis"] = "eigenbasis"
    """Which rule; a preset names it."""
    lr: float = Field(default=0.004, gt=0)
    """Learning rate."""
    beta1: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the mean of gradients, a step."""
    beta2: float = Field(default=0.99, gt=0, le=1)
    """Decay of what is accumulated, a step; 1 is for sums only."""
    accumulation: Literal["mean", "sum"] = "mean"
    """A moving average, as Adam's, or a decayed sum s <- beta2 * s + E, which at beta2 1 is Adagrad's."""
    source: Literal["curvature", "gradient"] = "curvature"
    """What E is on steps with curvature: the exact diagonal in the basis, or the squared gradient as on other steps."""
    curvature_floor: float = Field(default=1.0, gt=0)
    """E is at least this times the squared gradient, which bounds a step."""
    sides: Sides = "both"
    """Of a weight matrix that get a basis; none leaves coordinates."""
    rank: int = Field(default=16, ge=1)
    """Leading eigenvectors of a side."""
    refresh: int = Field(default=8, ge=1)
    """Steps with curvature from one turn of the basis to the next; at first after 1, 2, 4, ... of them."""
    factor_decay: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the moving averages of the Kronecker factors, a step with curvature."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units of the mean loss."""

    @model_validator(mode="after")
    def _moves(self) -> EigenbasisConfig:
        if self.accumulation == "mean" and self.beta2 == 1:
            raise ValueError(
                "eigenbasis with accumulation mean needs beta2 below 1: an average that never moves stays 0; set beta2, "
                "e.g. 0.99, or accumulation sum"
            )
        return self

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        """Return the optimizer of a flat (P,) vector, in which parameters of these shapes lie one after another."""
        return Eigenbasis(parameters, self, shapes)


class Eigenbasis(DenseOptimizer):
    """The rule over a flat vector; `mean` and `square` are held in the basis."""

    def __init__(self, parameters: Tensor, cfg: EigenbasisConfig, shapes: Sequence[Sequence[int]]) -> None:
        """Start with zero moments, in coordinates.

        Args:
            parameters: (P,).
            cfg: hyper-parameters.
            shapes: of the parameters in order; P entries in all.
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
        self._direction = parameters.new_empty(parameters.shape)  # in the basis; made anew at each step

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: float
    ) -> None:
        """Update `parameters`; see `DenseOptimizer`. `curvature` is in the basis."""
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
        """Return which entries take the floor, in the basis; see `DenseOptimizer`."""
        turned = grad.clone()
        for basis, matrix in self._matrices(turned):
            basis.turn_(matrix)
        return curvature.abs() / samples < self.cfg.curvature_floor * turned.square()

    def observe_(self, factors: Tensor) -> None:
        """Take up the Kronecker factors of a batch, and turn the basis when it is due."""
        seen = self._basis.observe_(factors)
        settled = seen & (seen - 1)  # 0 at powers of two: the first means move most
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
        """Update the moments, and make the gradient in `direction` a step; for any device, and the oracle.

        Args:
            direction: (P,) gradient in the basis, overwritten with lr * mean / (sqrt(square / scale) + eps).
            curvature: (P,) in the basis, or None.
            lr: with all factors in it.
            scale: correction of the moving average.
            samples: of the batch.
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
        """Do as `update_torch_` in one compiled pass, on the CPU."""
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
        """Return the basis of each weight matrix, and the view of it in a vector (P,)."""
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
