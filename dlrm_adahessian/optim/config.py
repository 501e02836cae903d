"""How all parameters are updated: a dense optimizer, a row rule, and their common schedule. Imports no torch."""

from typing import ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.optim.dense.config import (
    AdagradConfig,
    AdaHessianConfig,
    AdamConfig,
    DenseHessianAdagradConfig,
    MuonConfig,
    SGDConfig,
    SOAPConfig,
    SophiaConfig,
)
from dlrm_adahessian.optim.rows.config import (
    HessianAdagradConfig,
    RowAdagradConfig,
    RowAdaHessianConfig,
    RowAdamConfig,
    RowSGDConfig,
    RowSophiaConfig,
    RowwiseAdagradConfig,
)
from dlrm_adahessian.optim.search_space import Choice, Range, Tuned
from dlrm_adahessian.runtime.settings import settings

DenseConfig = (
    AdaHessianConfig
    | AdagradConfig
    | AdamConfig
    | DenseHessianAdagradConfig
    | MuonConfig
    | SGDConfig
    | SOAPConfig
    | SophiaConfig
)
RowConfig = (
    HessianAdagradConfig
    | RowAdaHessianConfig
    | RowAdagradConfig
    | RowAdamConfig
    | RowSGDConfig
    | RowSophiaConfig
    | RowwiseAdagradConfig
)


@settings
class ScheduleConfig:
    """Factor on every learning rate; the same choices for every optimizer."""

    tuned: ClassVar[Tuned] = {"warmup": Choice((0.0, 0.1)), "decay": Choice(("none", "linear"))}
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of all steps over which the factor grows linearly from 0 to 1."""
    decay: Literal["none", "linear"] = "none"
    """After warm-up: stay at 1, or fall linearly to 0 at the last step."""


@settings
class OptimConfig:
    """One rule for the dense part, one for the rows, and their common schedule."""

    dense: DenseConfig = Field(default=AdaHessianConfig(), discriminator="name")
    rows: RowConfig = Field(default=HessianAdagradConfig(), discriminator="name")
    schedule: ScheduleConfig = ScheduleConfig()

    @property
    def uses_curvature(self) -> bool:
        """Whether either rule reads the Hessian diagonal."""
        return self.dense.uses_curvature or self.rows.pooled_curvature != "none"

    @property
    def search_space(self) -> dict[str, Range | Choice]:
        """What a search draws: by dotted name, e.g. `dense.lr`; what is turned off in a rule stays off."""
        space = {f"schedule.{name}": found for name, found in self.schedule.tuned.items()}
        for part, rule in (("dense", self.dense), ("rows", self.rows)):
            space |= {f"{part}.{n}": found for n, found in rule.tuned.items() if getattr(rule, n) != 0}
        return space
