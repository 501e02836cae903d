"""Hyper-parameters of the row rules. Imports no torch.

A learning rate is what the rule multiplies its direction with; the schedule scales all of them alike. `tuned`
is what a search draws from.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from dlrm_adahessian.curvature.config import PooledCurvature
from dlrm_adahessian.optim.search_space import Range, Tuned, rate
from dlrm_adahessian.runtime.settings import settings


@settings
class RowAdaHessianConfig:
    """AdaHessian on the touched rows, in units of the summed loss."""

    tuned: ClassVar[Tuned] = {"lr": rate(0.02)}
    name: Literal["adahessian"] = "adahessian"
    lr: float = Field(default=0.02, gt=0)
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the mean of gradients, a touch of the row; 0 keeps no momentum and no state for it."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the mean of squared curvature, a curvature update of the row."""
    eps: float = Field(default=1e-3, ge=0)
    """Added to the denominator after the power; curvature units of one sample."""
    power: float = Field(default=0.5, ge=0, le=1)
    """k, the Hessian power; see the dense rule."""
    rowwise: bool = False
    """One curvature per row, the mean over its entries: the paper's spatial average with the row as block."""
    curvature_floor: float = Field(default=1.0, ge=0)
    """Curvature is at least this times the squared gradient, its expectation under the model; 0 is off."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest size of an entry of the direction, before the learning rate."""

    @property
    def pooled_curvature(self) -> PooledCurvature:
        """What the rule reads: one value per accumulator."""
        return "mean" if self.rowwise else "entries"


@settings
class HessianAdagradConfig:
    """Adagrad whose squared gradient is replaced by its expectation, the curvature."""

    tuned: ClassVar[Tuned] = {"lr": rate(0.05)}
    name: Literal["hessian_adagrad"] = "hessian_adagrad"
    lr: float = Field(default=0.02, gt=0)
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units of the mean loss, as Adagrad's."""
    rowwise: bool = False
    """One accumulator per row, of the mean over its entries: a state of R numbers instead of R * D."""
    curvature_floor: float = Field(default=1.0, ge=0)
    """What is accumulated is at least this times the squared gradient; 0 is off, and then `clip` is needed."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest size of an entry of the direction, before the learning rate."""

    @property
    def pooled_curvature(self) -> PooledCurvature:
        """What the rule reads: one value per accumulator."""
        return "mean" if self.rowwise else "entries"

    @model_validator(mode="after")
    def _guarded(self) -> "HessianAdagradConfig":
        # p(1-p) vanishes on confident mistakes while the gradient does not.
        if self.curvature_floor == 0 and self.clip is None:
            raise ValueError(
                "hessian_adagrad with curvature_floor 0 needs a clip: an unguarded step has no bound; set clip, e.g. 1.0"
            )
        return self


@settings
class RowAdagradConfig:
    """Adagrad on the touched rows, one accumulator per entry."""

    pooled_curvature: ClassVar[PooledCurvature] = "none"
    tuned: ClassVar[Tuned] = {"lr": rate(0.05)}
    name: Literal["adagrad"] = "adagrad"
    lr: float = Field(default=0.02, gt=0)
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units."""


@settings
class RowwiseAdagradConfig:
    """Adagrad on the touched rows, one accumulator per row: the mean of its squared gradients."""

    pooled_curvature: ClassVar[PooledCurvature] = "none"
    tuned: ClassVar[Tuned] = {"lr": rate(0.05)}
    name: Literal["rowwise_adagrad"] = "rowwise_adagrad"
    lr: float = Field(default=0.02, gt=0)
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units."""


@settings
class RowAdamConfig:
    """Lazy Adam on the touched rows, with decoupled weight decay."""

    pooled_curvature: ClassVar[PooledCurvature] = "none"
    tuned: ClassVar[Tuned] = {"lr": rate(0.005), "weight_decay": Range(1e-3, 1.0)}
    name: Literal["adam"] = "adam"
    lr: float = Field(default=0.005, gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients, a touch of the row."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the mean of squared gradients, a touch of the row."""
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled: a row shrinks by lr * weight_decay a touch."""


@settings
class RowSGDConfig:
    """Gradient descent on the touched rows."""

    pooled_curvature: ClassVar[PooledCurvature] = "none"
    tuned: ClassVar[Tuned] = {"lr": rate(30.0)}
    name: Literal["sgd"] = "sgd"
    lr: float = Field(default=30.0, gt=0)
    """Multiplies the gradient of the mean loss; the larger the batch, the larger it must be (see `rows/sgd.py`)."""


@settings
class RowSophiaConfig:
    """Sophia on the touched rows, in units of the summed loss."""

    pooled_curvature: ClassVar[PooledCurvature] = "entries"
    tuned: ClassVar[Tuned] = {"lr": rate(0.003), "gamma": Range(0.005, 0.5)}
    name: Literal["sophia"] = "sophia"
    lr: float = Field(default=0.003, gt=0)
    """eta; the largest step of an entry."""
    beta1: float = Field(default=0.96, ge=0, lt=1)
    """Decay of the mean of gradients, a touch of the row."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the mean of curvature, a curvature update of the row."""
    gamma: float = Field(default=0.05, gt=0)
    """Scale of the curvature; the smaller, the more entries are clipped."""
    eps: float = Field(default=1e-12, gt=0)
    """Least scaled curvature, of one sample."""
