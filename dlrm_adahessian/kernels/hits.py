"""The rows that a batch touched, each with its derivatives summed over the batch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Hits:
    """Touched rows, each once.

    Attributes:
        rows: (U,) int64, distinct, index into the (R, D) weights.
        grad: (U, D) gradient of the mean loss.
        curvature: (U, D) Hessian diagonal of the mean loss, or its mean over D (U, 1) for a rule with one accumulator
            per row; None on a step without curvature.
        has_curvature: (U,) bool, whether a sample that took part in the curvature hit the row (with
            `curvature_fraction` below 1 not every sample does); None exactly when `curvature` is.
    """

    rows: Tensor
    grad: Tensor
    curvature: Tensor | None = None
    has_curvature: Tensor | None = None

    def curvature_arrays(self) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]:
        """Return `curvature` and `has_curvature` for a kernel; without curvature no row has any, and none is read."""
        if self.curvature is None or self.has_curvature is None:
            return self.grad.numpy(), np.zeros(len(self.rows), np.bool_)
        return self.curvature.numpy(), self.has_curvature.numpy()
