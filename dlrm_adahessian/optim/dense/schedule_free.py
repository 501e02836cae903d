"""Schedule-Free AdamW on the dense part.

Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky, "The Road Less Scheduled", 2024, algorithm 1. Gradients are computed at
y, the steps of AdamW move z, and their mean x predicts after training:

    z <- z - lr * (g / (sqrt(v) + eps) + weight_decay * y),   x <- (1 - c) x + c z,   y = (1 - beta1) z + beta1 x,

where c is this step's share of the sum of squared learning rates so far. As in the authors' code, each rate is the largest
up to its step, which gives steps of a warm-up less weight. The method needs no learning-rate decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.optim.base import Choice, DenseOptimizer, Range, Tuned, new_counter, rate
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    from torch import Tensor


@settings
class ScheduleFreeConfig:
    """Schedule-Free AdamW on the dense part (Defazio et al. 2024)."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {
        "lr": rate(0.003),
        "beta1": Choice((0.9, 0.95, 0.98)),
        "weight_decay": Range(1e-3, 1.0),
    }
    name: Literal["schedule_free"] = "schedule_free"
    """Name of the rule; presets set it."""
    lr: float = Field(default=0.0025, gt=0)
    """Peak learning rate of the dense part."""
    beta1: float = Field(default=0.9, gt=0, lt=1)
    """Point at which gradients are computed: 0 is the newest step, 1 is the mean of all."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the mean squared gradient, per step."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator, in gradient units."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay: each step shrinks parameters by lr * weight_decay."""

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        """Return the optimizer of a flat vector (P,) that concatenates parameters of these shapes."""
        return ScheduleFree(parameters, self)


class ScheduleFree(DenseOptimizer):
    """Schedule-Free AdamW over a flat vector. Updates y and serves x. Ignores curvature."""

    def __init__(self, parameters: Tensor, cfg: ScheduleFreeConfig) -> None:
        self.cfg = cfg
        self._average = parameters.clone()  # x
        self.state = {
            "newest": parameters.clone(),  # z
            "mean_square": parameters.new_zeros(parameters.shape),
            "steps": new_counter(),
            "largest_rate": new_counter().double(),
            "weights": new_counter().double(),
        }

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: float
    ) -> None:
        """Update `parameters` in place; see `DenseOptimizer.step`."""
        del curvature, samples
        cfg, lr = self.cfg, self.cfg.lr * lr_scale
        newest, mean_square = self.state["newest"], self.state["mean_square"]
        steps = int(self.state["steps"].add_(1))
        largest = float(self.state["largest_rate"].clamp_(min=lr))
        share = largest**2 / float(self.state["weights"].add_(largest**2))
        mean_square.mul_(cfg.beta2).addcmul_(grad, grad, value=1 - cfg.beta2)
        denominator = (mean_square / (1 - cfg.beta2**steps)).sqrt_().add_(cfg.eps)
        newest.addcdiv_(grad, denominator, value=-lr)
        if cfg.weight_decay:
            newest.sub_(parameters, alpha=lr * cfg.weight_decay)
        self._average.lerp_(newest, share)
        self.resume_(parameters)

    def served(self, parameters: Tensor) -> Tensor:
        """Return x."""
        del parameters
        return self._average

    def resume_(self, parameters: Tensor) -> None:
        """Write y to `parameters`."""
        parameters.copy_(self.state["newest"]).lerp_(self._average, self.cfg.beta1)
