"""Maps from the logits of a model to calibrated ones. They rise, so no sample overtakes another.

Platt's is a line, s z + i. The isotonic one goes through points (t_k, v_k), with straight lines between them, and is
constant beyond the first and the last. Both are of logits, so a map stays of its kind where all logits move by a constant.

With a shift d between two kinds of logits, z' = z + d, the map f of z does to z' what f'(z') = f(z' - d) + d says.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

Method = Literal["platt", "isotonic"]
Logits = npt.NDArray[np.float32] | npt.NDArray[np.float64]

STEPS = 64
"""Thresholds of an isotonic map are multiples of 1 / 64 before they are shifted: it is never steep between two of them."""
REACH = 16
"""Largest threshold: float32 has few probabilities beyond it, as 1 - 2**-24 has the logit 16.6."""
LARGEST = 1e6
"""Of any number in a map, so that float64 holds what it makes of any float32 logit."""
_ROUNDING = 1e-9  # of thresholds that were shifted
_CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)
_Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
_Points = Annotated[Sequence[_Number], Field(min_length=2, max_length=2 * REACH * STEPS + 1)]


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class PlattMap:
    """A line that rises: `slope` above 1 makes predictions surer, below 1 less sure; `intercept` moves all logits."""

    method: Literal["platt"] = "platt"
    slope: Annotated[float, Field(gt=0, le=LARGEST)]
    intercept: _Number

    def __call__(self, logits: Logits) -> npt.NDArray[np.float64]:
        """Return the calibrated logits (N,) of logits (N,)."""
        return self.slope * logits.astype(np.float64) + self.intercept

    def shifted(self, by: float) -> "PlattMap":
        """Return the map of logits that are larger by a constant before and after it."""
        return PlattMap(slope=self.slope, intercept=self.intercept + by - self.slope * by)

    @property
    def steepest(self) -> float:
        """Largest change of a calibrated logit over that of the logit."""
        return self.slope

    def __str__(self) -> str:
        return f"platt, slope {self.slope:.5f}, intercept {self.intercept:+.5f}"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class IsotonicMap:
    """Points that do not fall: `values`, calibrated logits, at `thresholds`, logits at least 1 / `STEPS` apart."""

    method: Literal["isotonic"] = "isotonic"
    thresholds: _Points
    values: _Points

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if len(self.thresholds) != len(self.values):
            raise ValueError(f"{len(self.thresholds)} thresholds have as many values, got {len(self.values)}")
        if np.diff(self.thresholds).min() < 1 / STEPS - _ROUNDING or np.diff(self.values).min() < 0:
            raise ValueError(f"thresholds must rise by 1 / {STEPS} at least, and values must not fall")
        return self

    def __call__(self, logits: Logits) -> npt.NDArray[np.float64]:
        """Return the calibrated logits (N,) of logits (N,)."""
        return np.interp(logits.astype(np.float64), self.thresholds, self.values)

    def shifted(self, by: float) -> "IsotonicMap":
        """Return the map of logits that are larger by a constant before and after it."""
        return IsotonicMap(
            thresholds=[threshold + by for threshold in self.thresholds],
            values=[value + by for value in self.values],
        )

    @property
    def steepest(self) -> float:
        """Largest change of a calibrated logit over that of the logit."""
        return float((np.diff(self.values) / np.diff(self.thresholds)).max())

    def __str__(self) -> str:
        return f"isotonic, {len(self.thresholds):,} thresholds"


CalibrationMap = Annotated[PlattMap | IsotonicMap, Field(discriminator="method")]
