"""The rows that a batch touched, each with its derivatives summed over the batch."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Hits:
    """Touched rows, each once.

    Attributes:
        rows: (U,) int64, distinct, index into the (R, D) weights.
        grad: (U, D) gradient of the mean loss.
        curvature: (U, D) Hessian diagonal of the mean loss; None on a step without curvature.
        has_curvature: (U,) bool, whether a sample that took part in the curvature hit the row (with
            `curvature_fraction` below 1 not every sample does); None exactly when `curvature` is.
    """

    rows: Tensor
    grad: Tensor
    curvature: Tensor | None = None
    has_curvature: Tensor | None = None
