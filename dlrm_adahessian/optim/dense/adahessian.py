"""AdaHessian on the dense part.

Yao, Gholami, Shen, Mustafa, Keutzer, Mahoney, "ADAHESSIAN: An Adaptive Second Order Optimizer for Machine Learning",
2020, algorithm 1: Adam with the spatially averaged Hessian diagonal D in place of the gradient in the second moment,
w -= lr * m_hat / (v_hat^(k/2) + eps). Departures: bias correction of the second moment counts curvature updates, since
not every step needs to compute curvature. The curvature has a floor, B g^2, which is its expectation under the model
(Fisher), since p (1 - p) vanishes on confident mistakes but the gradient does not. Defaults differ too.
`average_rows`, power 1, eps 1e-4 and floor 0 give the authors' code with the settings that they recommend
(github.com/amirgholami/adahessian, instruction/adahessian.py). The preset adahessian_paper has these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.optim.base import DenseOptimizer, Tuned, new_counter, rate
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    from torch import Tensor


@settings
class AdaHessianConfig:
    """AdaHessian on the dense part (Yao et al. 2020)."""

    uses_curvature: ClassVar[bool] = True
    tuned: ClassVar[Tuned] = {"lr": rate(0.05)}
    name: Literal["adahessian"] = "adahessian"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.05, gt=0)
    """Peak learning rate eta: the fraction of a diagonal Newton step if `power` is 1."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the gradient mean (momentum), per step."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the mean squared curvature, per curvature update."""
    eps: float = Field(default=1e-5, ge=0)
    """Added to the denominator after the power, in curvature units."""
    power: float = Field(default=0.5, ge=0, le=1)
    """Hessian power k: 1 divides by the curvature, 0.5 by its square root (compare Adam)."""
    block_size: int = Field(default=1, ge=1)
    """Block size b of spatial averaging, in consecutive entries of a parameter; 1 turns it off."""
    average_rows: bool = False
    """Average the absolute curvature over each row of a weight matrix (one value per output)."""
    curvature_floor: float = Field(default=1.0, ge=0)
    """Lower bound of the curvature, as a multiple of batch size * squared gradient (its expectation); 0 is off."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay: each step shrinks parameters by lr * weight_decay."""

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        """Return the optimizer of a flat vector (P,) that concatenates parameters of these shapes."""
        return AdaHessian(parameters, self, shapes)


class AdaHessian(DenseOptimizer):
    """AdaHessian over a flat vector of concatenated parameters."""

    def __init__(self, parameters: Tensor, cfg: AdaHessianConfig, shapes: Sequence[Sequence[int]]) -> None:
        """Start with zero moments.

        Args:
            parameters: (P,).
            cfg: hyper-parameters.
            shapes: shapes of the parameters in order, P entries in total. Averages of curvature stay within a parameter.
        """
        self.cfg = cfg
        self._shapes = shapes
        self._sizes = [math.prod(shape) for shape in shapes]
        self.state = {
            "mean": parameters.new_zeros(parameters.shape),
            "mean_square": parameters.new_zeros(parameters.shape),
            "steps": new_counter(),
            "curvature_updates": new_counter(),
        }

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: float
    ) -> None:
        """Update `parameters` in place; see `DenseOptimizer.step`. They do not change before the first curvature."""
        cfg, lr = self.cfg, self.cfg.lr * lr_scale
        mean, mean_square = self.state["mean"], self.state["mean_square"]
        steps = int(self.state["steps"].add_(1))
        mean.lerp_(grad, 1 - cfg.beta1)
        if curvature is not None:
            self.state["curvature_updates"].add_(1)
            curvature = self._averaged(curvature)
            if cfg.curvature_floor:
                curvature = curvature.maximum(grad.square().mul_(cfg.curvature_floor * samples))
            mean_square.mul_(cfg.beta2).addcmul_(curvature, curvature, value=1 - cfg.beta2)
        updates = int(self.state["curvature_updates"])
        if updates == 0:
            return
        denominator = (mean_square / (1 - cfg.beta2**updates)).sqrt_()
        if cfg.power != 1:  # a general power costs as much as ten square roots
            denominator.pow_(cfg.power)
        denominator.add_(cfg.eps)
        if cfg.weight_decay:
            parameters.mul_(1 - lr * cfg.weight_decay)
        parameters.addcdiv_(mean, denominator, value=-lr / (1 - cfg.beta1**steps))

    def floored(self, grad: Tensor, curvature: Tensor, *, samples: float) -> Tensor | None:
        """Return the entries whose curvature is below the floor; see `DenseOptimizer.floored`."""
        if not self.cfg.curvature_floor:
            return None
        return self._averaged(curvature) < grad.square() * (self.cfg.curvature_floor * samples)

    def _averaged(self, curvature: Tensor) -> Tensor:
        if self.cfg.block_size > 1:
            curvature = block_mean(curvature, self._sizes, self.cfg.block_size)
        if not self.cfg.average_rows:
            return curvature
        averaged = curvature.abs()
        for part, shape in zip(averaged.split(self._sizes), self._shapes, strict=True):
            if len(shape) == 2:
                rows = part.view(*shape)
                rows.copy_(rows.mean(1, keepdim=True).expand_as(rows))
        return averaged


def block_mean(curvature: Tensor, sizes: list[int], block_size: int) -> Tensor:
    """Replace each block of consecutive entries by the absolute value of its mean (spatial averaging, equation 10).

    Args:
        curvature: (P,), concatenated parameters.
        sizes: entries of each parameter. The last block of a parameter may be shorter.
        block_size: b.

    Returns:
        (P,), nonnegative.
    """
    import torch

    means: list[Tensor] = []
    for part in curvature.split(sizes):
        whole = len(part) - len(part) % block_size
        blocks = part[:whole].view(-1, block_size).mean(1).repeat_interleave(block_size)
        tail = part[whole:]
        means += [blocks, tail.mean().expand_as(tail)] if len(tail) else [blocks]
    return torch.cat(means).abs_()
