"""Settings of all parameter updates: a dense optimizer, a row rule, and a shared schedule. Does not import torch."""

from typing import ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.optim.base import Choice, Range, Tuned
from dlrm_adahessian.optim.columns import ColumnsConfig
from dlrm_adahessian.optim.dense import AdaHessianConfig, DenseConfig
from dlrm_adahessian.optim.rows import HessianAdagradConfig, RowConfig
from dlrm_adahessian.runtime.settings import settings


@settings
class ScheduleConfig:
    """Learning-rate schedule, applied to every optimizer."""

    tuned: ClassVar[Tuned] = {
        "warmup": Choice((0.0, 0.05, 0.1)),
        "decay": Choice(("none", "linear", "inverse_sqrt")),
        "rows": Choice(("same", "constant")),
    }
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of all steps with linear warm-up from 0 to 1."""
    decay: Literal["none", "linear", "inverse_sqrt"] = "none"
    """After warm-up: none (constant), linear (to 0 at the last step), or inverse_sqrt (1 / sqrt(1 + t / t0))."""
    t0: float = Field(default=0.2, gt=0)
    """Time constant of inverse_sqrt, as a share of all steps; the factor is 1 / sqrt(2) after it."""
    rows: Literal["same", "constant"] = "same"
    """Schedule of embedding rows; constant suits rules such as Adagrad, whose steps shrink anyway."""

    @property
    def shares(self) -> list[str]:
        """List the settings that are shares of all steps. If empty, learning rates do not depend on how long a run is."""
        found = {"warmup": self.warmup, "decay": self.decay}
        return [f"optim.schedule.{name} {value}" for name, value in found.items() if value not in (0, "none")]


@settings
class OptimConfig:
    """Dense optimizer, row rule, column preconditioner, and learning-rate schedule."""

    dense: DenseConfig = Field(default=AdaHessianConfig(), discriminator="name")
    rows: RowConfig = Field(default=HessianAdagradConfig(), discriminator="name")
    columns: ColumnsConfig = ColumnsConfig()
    schedule: ScheduleConfig = ScheduleConfig()

    @property
    def uses_curvature(self) -> bool:
        """Whether the dense optimizer or the row rule reads the Hessian diagonal."""
        return self.dense.uses_curvature or self.rows.pooled_curvature != "none"

    @property
    def search_space(self) -> dict[str, Range | Choice]:
        """Hyper-parameters that a search tunes, by dotted name such as `dense.lr`, except those that a rule has at 0."""
        space = {f"schedule.{name}": found for name, found in self.schedule.tuned.items()}
        for part, rule in (("dense", self.dense), ("rows", self.rows)):
            space |= {f"{part}.{n}": found for n, found in rule.tuned.items() if getattr(rule, n) != 0}
        return space


def lr_scale(
    step: int, total_steps: int, cfg: ScheduleConfig, part: Literal["dense", "rows"] = "dense"
) -> float:
    """Return the schedule's factor in (0, 1] for a step.

    Args:
        step: step number, from 1 to `total_steps`.
        total_steps: number of steps in the whole run.
        cfg: settings of the schedule.
        part: the part of the model that the learning rate belongs to.

    Returns:
        The factor. Linear decay ends at 1 / (decaying steps), not at 0, so the last step still has an effect.
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
