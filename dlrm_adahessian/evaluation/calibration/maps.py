"""Monotone maps from the logits of a model to calibrated logits. They never reverse the order of two samples.

Platt's map is a line, s z + i. The isotonic map interpolates linearly between points (t_k, v_k), and is constant beyond the
first and the last. Both map logits, so a map keeps its kind if all logits are shifted by a constant.

If z' = z + d, the map f of z corresponds to the map f'(z') = f(z' - d) + d of z'.
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
"""Thresholds are multiples of 1 / 64 before a shift, so the isotonic map is never steep between two of them."""
REACH = 16
"""Largest threshold. Beyond it, float32 has few probabilities: 1 - 2**-24 has the logit 16.6."""
LARGEST = 1e6
"""Bound for all numbers in a map, so that float64 can represent the result for any float32 logit."""
_ROUNDING = 1e-9  # tolerance for shifted thresholds
_CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)
_Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
_Points = Annotated[Sequence[_Number], Field(min_length=2, max_length=2 * REACH * STEPS + 1)]


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class PlattMap:
    """A rising line. A `slope` above 1 makes predictions more extreme, and `intercept` moves all logits."""

    method: Literal["platt"] = "platt"
    slope: Annotated[float, Field(gt=0, le=LARGEST)]
    intercept: _Number

    def __call__(self, logits: Logits) -> npt.NDArray[np.float64]:
        """Return the calibrated logits (N,) of logits (N,)."""
        return self.slope * logits.astype(np.float64) + self.intercept

    def shifted(self, by: float) -> "PlattMap":
        """Return the equivalent map if logits before and after it are larger by a constant."""
        return PlattMap(slope=self.slope, intercept=self.intercept + by - self.slope * by)

    @property
    def steepest(self) -> float:
        """Largest derivative of the calibrated logit with respect to the logit."""
        return self.slope

    def __str__(self) -> str:
        return f"platt, slope {self.slope:.5f}, intercept {self.intercept:+.5f}"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class IsotonicMap:
    """Nondecreasing points: calibrated logits `values` at logits `thresholds`, which are at least 1 / `STEPS` apart."""

    method: Literal["isotonic"] = "isotonic"
    thresholds: _Points
    values: _Points

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if len(self.thresholds) != len(self.values):
            raise ValueError(
                f"{len(self.thresholds)} thresholds require as many values, found {len(self.values)}"
            )
        if np.diff(self.thresholds).min() < 1 / STEPS - _ROUNDING or np.diff(self.values).min() < 0:
            raise ValueError(f"thresholds must rise by at least 1 / {STEPS}, and values must not fall")
        return self

    def __call__(self, logits: Logits) -> npt.NDArray[np.float64]:
        """Return the calibrated logits (N,) of logits (N,)."""
        return np.interp(logits.astype(np.float64), self.thresholds, self.values)

    def shifted(self, by: float) -> "IsotonicMap":
        """Return the equivalent map if logits before and after it are larger by a constant."""
        return IsotonicMap(
            thresholds=[threshold + by for threshold in self.thresholds],
            values=[value + by for value in self.values],
        )

    @property
    def steepest(self) -> float:
        """Largest derivative of the calibrated logit with respect to the logit."""
        return float((np.diff(self.values) / np.diff(self.thresholds)).max())

    def __str__(self) -> str:
        return f"isotonic, {len(self.thresholds):,} thresholds"


CalibrationMap = Annotated[PlattMap | IsotonicMap, Field(discriminator="method")]
