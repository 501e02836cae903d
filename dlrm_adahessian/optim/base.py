"""What the trainer expects of a dense optimizer and of a row rule.

Both are plain tensor code: no autograd, no collectives, no logging. Derivatives are those of the mean
loss over `samples` samples. A step without curvature passes None. Corrections of second moments count curvature
updates, those of means steps.
"""

from abc import ABC, abstractmethod
from typing import Any, Protocol

from torch import Tensor

from dlrm_adahessian.kernels.hits import Hits


class DenseOptimizer(Protocol):
    """Updates one flat vector of all dense parameters in place."""

    state: dict[str, Tensor]
    """Named tensors: moments like the parameters, counters 0-dim int64 on the CPU. Loading copies into them."""

    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: int
    ) -> None:
        """Update `parameters`, all (P,); `lr_scale` in [0, 1] is the schedule's factor on the learning rate."""
        ...


class RowRule(ABC):
    """Updates touched rows of one (R, D) weight matrix in place; holds hyper-parameters, no state."""

    cfg: Any
    """Hyper-parameters of the rule: a frozen dataclass, with a learning rate `lr`."""

    @abstractmethod
    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return zero state for `weight` (R, D): tensors of shape (R, D) or (R,), row r belonging to row r."""

    def update_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: int
    ) -> None:
        """Update the rows of `hits` in `weight` and `state`, and nothing else."""
        update = self.update_numba_ if weight.device.type == "cpu" else self.update_torch_
        update(weight, state, hits, lr_scale=lr_scale, samples=samples)

    def update_triton_(
        self,
        weight: Tensor,
        state: dict[str, Tensor],
        rows: Tensor,
        bags: Tensor,
        grad: Tensor,
        curvature: Tensor | None,
        *,
        sampled: Tensor | None,
        lr_scale: float,
        samples: int,
    ) -> None:
        """Find the touched rows, sum over their hits and update them, on the GPU; arguments as `sum_hits` has them."""
        # Triton is not installed everywhere.
        from dlrm_adahessian.kernels.triton_hits import update_rows_triton_

        update_rows_triton_(
            weight,
            state,
            rows,
            bags,
            grad,
            curvature,
            sampled=sampled,
            rule=self.direction_triton,
            cfg=self.cfg,
            lr=self.cfg.lr * lr_scale,
            samples=samples,
        )

    @property
    @abstractmethod
    def direction_triton(self) -> Any:
        """The rule as a function that the kernels of `triton_hits` inline; that module says what it gets and returns."""

    @abstractmethod
    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: int
    ) -> None:
        """`update_` in tensor operations: for any device, and the oracle of the kernels."""

    @abstractmethod
    def update_numba_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: int
    ) -> None:
        """`update_` as one compiled pass over the touched rows, on the CPU."""
