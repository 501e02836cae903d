"""Hyper-parameters of the dense optimizers. Imports no torch.

A learning rate is what the rule multiplies its direction with; the schedule scales all of them alike.
"""

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AdaHessianConfig:
    """AdaHessian on the dense part (Yao et al. 2020)."""

    uses_curvature: ClassVar[bool] = True
    name: Literal["adahessian"] = "adahessian"
    lr: float = Field(default=0.01, gt=0)
    """eta; the fraction of a diagonal Newton step when `power` is 1."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients, a step."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the mean of squared curvature, a curvature update."""
    eps: float = Field(default=1e-4, ge=0)
    """Added to the denominator after the power; curvature units."""
    power: float = Field(default=1.0, ge=0, le=1)
    """k, the Hessian power; 0 makes it momentum."""
    block_size: int = Field(default=1, ge=1)
    """b, consecutive entries of a parameter whose curvature is averaged (spatial averaging); 1 is none."""
    curvature_floor: float = Field(default=1.0, ge=0)
    """Curvature is at least this times batch size times squared gradient, its expectation under the model; 0 is off."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled: parameters shrink by lr * weight_decay a step."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AdagradConfig:
    """Adagrad on the dense part (Duchi et al. 2011)."""

    uses_curvature: ClassVar[bool] = False
    name: Literal["adagrad"] = "adagrad"
    lr: float = Field(default=0.02, gt=0)
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AdamConfig:
    """Adam on the dense part, with decoupled weight decay (Loshchilov and Hutter 2019)."""

    uses_curvature: ClassVar[bool] = False
    name: Literal["adam"] = "adam"
    lr: float = Field(default=0.001, gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units."""
    weight_decay: float = Field(default=0.0, ge=0)
