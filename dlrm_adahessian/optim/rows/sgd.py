# pyright: basic
"""Gradient descent on embedding rows: w -= lr * g, with g the gradient of the mean loss, as in torch.optim.SGD.

A row that one of B samples looks up gets 1/B of that sample's gradient. Embedding rows therefore need a larger learning
rate than the dense part, and one that grows with the batch size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.kernels.compiled import numba_kernel, triton_kernel
from dlrm_adahessian.optim.base import PooledCurvature, RowRule, Tuned, rate
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    import numba
    from torch import Tensor

    from dlrm_adahessian.kernels.row_sums import Hits


@settings
class RowSGDConfig:
    """Gradient descent on embedding rows."""

    pooled_curvature: ClassVar[PooledCurvature] = "none"
    tuned: ClassVar[Tuned] = {"lr": rate(30.0)}
    name: Literal["sgd"] = "sgd"
    """Name of the rule; presets set it."""
    lr: float = Field(default=30.0, gt=0)
    """Learning rate of the embedding rows; increase it with the batch size (see `rows/sgd.py`)."""

    def build(self) -> RowRule:
        """Return the row rule with these settings."""
        return RowSGD(self)


class RowSGD(RowRule):
    """Gradient descent without state. Ignores curvature."""

    def __init__(self, cfg: RowSGDConfig) -> None:
        self.cfg = cfg

    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return an empty state."""
        del weight
        return {}

    @property
    def direction_triton(self) -> Any:
        """The rule as a Triton function that the GPU kernels inline."""
        return _direction.compiled

    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update with tensor operations."""
        del state, samples
        weight[hits.rows] -= self.cfg.lr * lr_scale * hits.grad

    def update_numba_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update in one compiled pass on the CPU."""
        del state, samples
        w = weight.numpy()
        _update(w, hits.rows.numpy(), hits.grad.numpy(), w.dtype.type(self.cfg.lr * lr_scale))


@numba_kernel
def _update(w, rows, g, lr):
    for i in numba.prange(len(rows)):
        r = rows[i]
        for d in range(w.shape[1]):
            w[r, d] -= lr * g[i, d]


@triton_kernel
def _direction(
    states, weight, row, entry, touched, here, grad, curvature, has_curvature, count, samples, cfg, width
):
    return grad
