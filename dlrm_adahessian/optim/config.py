"""How all parameters are updated: a dense optimizer, a row rule, and their common schedule. Imports no torch."""

from typing import ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.optim.base import Choice, Range, Tuned
from dlrm_adahessian.optim.columns import ColumnsConfig
from dlrm_adahessian.optim.dense import AdaHessianConfig, DenseConfig
from dlrm_adahessian.optim.rows import HessianAdagradConfig, RowConfig
from dlrm_adahessian.runtime.settings import settings


@settings
class ScheduleConfig:
    """Factor on every learning rate; the same choices for every optimizer."""

    tuned: ClassVar[Tuned] = {
        "warmup": Choice((0.0, 0.05, 0.1)),
        "decay": Choice(("none", "linear", "inverse_sqrt")),
        "rows": Choice(("same", "constant")),
    }
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of all steps over which the factor grows linearly from 0 to 1."""
    decay: Literal["none", "linear", "inverse_sqrt"] = "none"
    """After warm-up: stay at 1, fall linearly to 0 at the last step, or fall as 1 / sqrt(1 + t / t0) after t steps."""
    t0: float = Field(default=0.2, gt=0)
    """Of inverse_sqrt, as a share of all steps: after so many the factor is 1 / sqrt(2)."""
    rows: Literal["same", "constant"] = "same"
    """Whether the rows' rate falls too. Accumulators that only grow, as Adagrad's, make steps shrink by themselves."""

    @property
    def shares(self) -> list[str]:
        """The settings that are shares of all steps; without any, a step's rate does not depend on how many follow."""
        found = {"warmup": self.warmup, "decay": self.decay}
        return [f"optim.schedule.{name} {value}" for name, value in found.items() if value not in (0, "none")]


@settings
class OptimConfig:
    """One rule for the dense part, one for the rows, a preconditioner of their columns, and a common schedule."""

    dense: DenseConfig = Field(default=AdaHessianConfig(), discriminator="name")
    rows: RowConfig = Field(default=HessianAdagradConfig(), discriminator="name")
    columns: ColumnsConfig = ColumnsConfig()
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


def lr_scale(
    step: int, total_steps: int, cfg: ScheduleConfig, part: Literal["dense", "rows"] = "dense"
) -> float:
    """Return the factor in (0, 1] for a step.

    Args:
        step: counts from 1 to `total_steps`.
        total_steps: of the whole run.
        cfg: shape of the schedule.
        part: whose rate it is for.

    Returns:
        The factor; linear decay ends at 1 / (decaying steps), not at 0, so that the last step still counts.
    """
    warmup = round(cfg.warmup * total_steps)
    if step <= warmup:
        return step / warmup
    if cfg.decay == "none" or (part == "rows" and cfg.rows == "constant"):
        return 1.0
    if cfg.decay == "inverse_sqrt":
        return (1 + (step - warmup - 1) / (cfg.t0 * total_steps)) ** -0.5
    decaying = total_steps - warmup
    return (total_steps - step + 1) / decaying
