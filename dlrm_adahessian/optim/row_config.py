"""Hyper-parameters of the row rules. Imports no torch.

A learning rate is what the rule multiplies its direction with; the schedule scales all of them alike.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RowAdaHessianConfig:
    """AdaHessian on the touched rows, in units of the summed loss."""

    uses_curvature: ClassVar[bool] = True
    name: Literal["adahessian"] = "adahessian"
    lr: float = Field(default=0.02, gt=0)
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the mean of gradients, a touch of the row; 0 keeps no momentum and no state for it."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the mean of squared curvature, a curvature update of the row."""
    eps: float = Field(default=1e-2, ge=0)
    """Added to the denominator after the power; curvature units of one sample."""
    power: float = Field(default=1.0, ge=0, le=1)
    """k, the Hessian power."""
    rowwise: bool = False
    """One curvature per row, the mean over its entries: the paper's spatial average with the row as block."""
    curvature_floor: float = Field(default=1.0, ge=0)
    """Curvature is at least this times the squared gradient, its expectation under the model; 0 is off."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest size of an entry of the direction, before the learning rate."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class HessianAdagradConfig:
    """Adagrad whose squared gradient is replaced by its expectation, the curvature."""

    uses_curvature: ClassVar[bool] = True
    name: Literal["hessian_adagrad"] = "hessian_adagrad"
    lr: float = Field(default=0.02, gt=0)
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units of the mean loss, as Adagrad's."""
    curvature_floor: float = Field(default=1.0, ge=0)
    """What is accumulated is at least this times the squared gradient; 0 is off, and then `clip` is needed."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest size of an entry of the direction, before the learning rate."""

    @model_validator(mode="after")
    def _guarded(self) -> "HessianAdagradConfig":
        # p(1-p) vanishes on confident mistakes while the gradient does not.
        if self.curvature_floor == 0 and self.clip is None:
            raise ValueError(
                "hessian_adagrad with curvature_floor 0 needs a clip: an unguarded step has no bound; set clip, e.g. 1.0"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RowAdagradConfig:
    """Adagrad on the touched rows, one accumulator per entry."""

    uses_curvature: ClassVar[bool] = False
    name: Literal["adagrad"] = "adagrad"
    lr: float = Field(default=0.02, gt=0)
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RowwiseAdagradConfig:
    """Adagrad on the touched rows, one accumulator per row: the mean of its squared gradients."""

    uses_curvature: ClassVar[bool] = False
    name: Literal["rowwise_adagrad"] = "rowwise_adagrad"
    lr: float = Field(default=0.02, gt=0)
    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; gradient units."""
