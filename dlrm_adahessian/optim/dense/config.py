"""Hyper-parameters of the dense optimizers. Imports no torch.

A learning rate is what the rule multiplies its direction with; the schedule scales all of them alike. `tuned`
is what a search draws from.
"""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from dlrm_adahessian.optim.search_space import Choice, Range, Tuned, rate
from dlrm_adahessian.runtime.settings import settings


@settings
class AdaHessianConfig:
    """AdaHessian on the dense part (Yao et al. 2020)."""

    uses_curvature: ClassVar[bool] = True
    tuned: ClassVar[Tuned] = {"lr": rate(0.05)}
    name: Literal["adahessian"] = "adahessian"
    lr: float = Field(default=0.05, gt=0)
    """eta; the fraction of a diagonal Newton step when `power` is 1."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients, a step."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the mean of squared curvature, a curvature update."""
    eps: float = Field(default=1e-5, ge=0)
    """Added to the denominator after the power; curvature units."""
    power: float = Field(default=0.5, ge=0, le=1)
    """k, the Hessian power: 1 divides by the curvature, 0.5 by its root, as Adam does by that of the squared gradient."""
    block_size: int = Field(default=1, ge=1)
    """b, consecutive entries of a parameter whose curvature is averaged (spatial averaging); 1 is none."""
    curvature_floor: float = Field(default=1.0, ge=0)
    """Curvature is at least this times batch size times squared gradient, its expectation under the model; 0 is off."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled: parameters shrink by lr * weight_decay a step."""


@settings
class AdagradConfig:
    """Adagrad on the dense part (Duchi et al. 2011)."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"lr": rate(0.01)}
    name: Literal["adagrad"] = "adagrad"
    lr: float = Field(default=0.02, gt=0)
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units."""


@settings
class DenseHessianAdagradConfig:
    """Adagrad on the dense part whose squared gradient is replaced by its expectation, the curvature."""

    uses_curvature: ClassVar[bool] = True
    tuned: ClassVar[Tuned] = {"lr": rate(0.01)}
    name: Literal["hessian_adagrad"] = "hessian_adagrad"
    lr: float = Field(default=0.01, gt=0)
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the mean of gradients, a step; 0 keeps none."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units of the mean loss, as Adagrad's."""
    curvature_floor: float = Field(default=1.0, gt=0)
    """What is accumulated is at least this times the squared gradient, which bounds a step by lr / sqrt(floor)."""


@settings
class AdamConfig:
    """Adam on the dense part, with decoupled weight decay (Loshchilov and Hutter 2019)."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"lr": rate(0.003), "weight_decay": Range(1e-3, 1.0)}
    name: Literal["adam"] = "adam"
    lr: float = Field(default=0.001, gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units."""
    weight_decay: float = Field(default=0.0, ge=0)


@settings
class SGDConfig:
    """Gradient descent on the dense part, with momentum (Sutskever et al. 2013)."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"lr": rate(0.1), "momentum": Choice((0.8, 0.9, 0.95))}
    name: Literal["sgd"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    """Multiplies the momentum, which sums gradients of the mean loss."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """beta; 0 keeps none."""
    nesterov: bool = False
    """Look ahead by a step of the momentum."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled: parameters shrink by lr * weight_decay a step."""

    @model_validator(mode="after")
    def _has_what_nesterov_needs(self) -> "SGDConfig":
        if self.nesterov and not self.momentum:
            raise ValueError(
                "nesterov needs a momentum above 0, got 0; set momentum, e.g. 0.9, or nesterov false"
            )
        return self


@settings
class SophiaConfig:
    """Sophia on the dense part (Liu et al. 2023); defaults as there, but for the learning rate and weight decay."""

    uses_curvature: ClassVar[bool] = True
    tuned: ClassVar[Tuned] = {"lr": rate(0.001), "gamma": Range(0.005, 0.5)}
    name: Literal["sophia"] = "sophia"
    lr: float = Field(default=0.001, gt=0)
    """eta; the largest step of a parameter."""
    beta1: float = Field(default=0.96, ge=0, lt=1)
    """Decay of the mean of gradients, a step."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the mean of curvature, a curvature update."""
    gamma: float = Field(default=0.05, gt=0)
    """Scale of the curvature; the smaller, the more entries are clipped."""
    eps: float = Field(default=1e-12, gt=0)
    """Least scaled curvature, of the mean loss."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled: parameters shrink by lr * weight_decay a step."""


@settings
class MuonConfig:
    """Muon on hidden weight matrices (Jordan 2024), Adam on the first and last layer and on biases."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"lr": rate(0.002), "momentum": Choice((0.9, 0.95))}
    name: Literal["muon"] = "muon"
    lr: float = Field(default=0.002, gt=0)
    """Of both; Muon's updates are scaled to the size of Adam's."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Muon's decay of the mean of gradients, a step."""
    nesterov: bool = True
    """Muon looks ahead by a step of the momentum."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Adam's."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam's."""
    eps: float = Field(default=1e-8, ge=0)
    """Adam's, added to the denominator; gradient units."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled: parameters shrink by lr * weight_decay a step."""


@settings
class SOAPConfig:
    """SOAP on the dense part (Vyas et al. 2024); needs the extra `rivals`."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"lr": rate(0.003), "beta2": Choice((0.95, 0.99, 0.999))}
    name: Literal["soap"] = "soap"
    lr: float = Field(default=0.003, gt=0)
    beta1: float = Field(default=0.95, ge=0, lt=1)
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
