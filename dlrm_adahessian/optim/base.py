"""Interfaces of dense optimizers and row rules, and the ranges that a search tunes. Does not import torch.

Both kinds are plain tensor code: no autograd, no collectives, no logging. Derivatives are those of the mean loss over
`samples` samples. If samples have weights, they are those of the weighted mean and `samples` is the sum of the weights: a
sample of weight 2 counts as two. A step without curvature passes None. Bias correction counts curvature updates for
moments of curvature, and steps for moments of gradients.

Settings are in the same files as the rules, and `--help` reads them. These files therefore import torch only inside
functions, and rarely need it: tensor methods do almost everything.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from dlrm_adahessian.kernels.row_sums import Hits
    from dlrm_adahessian.optim.basis import KroneckerBasis

PooledCurvature = Literal["none", "entries", "mean"]
"""The pooled curvature that a row rule needs: none, entries (B, F, D), or their mean over D (B, F, 1)."""


class DenseOptimizer(ABC):
    """Optimizer that updates one flat vector of all dense parameters in place."""

    state: dict[str, Tensor]
    """Named tensors. Moments have the parameters' shape; counters and sums are 0-dim int64 or float64 on the CPU. Loading a
    checkpoint copies into them."""
    basis: KroneckerBasis | None = None
    """Basis for the curvature of weight matrices; None for coordinates."""

    @abstractmethod
    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: float
    ) -> None:
        """Update `parameters`; all tensors are (P,). `lr_scale` in [0, 1] is the schedule's factor on the learning rate."""

    def floored(self, grad: Tensor, curvature: Tensor, *, samples: float) -> Tensor | None:
        """Return a mask (P,) bool of the entries whose curvature is below the rule's floor; None if the rule has no floor.

        The arguments are those of the next `step`.
        """
        return None

    def observe_(self, factors: Tensor) -> None:  # noqa: B027 -- most rules have no basis
        """Add a batch's Kronecker factors (K,) to `basis`, after the step with its curvature. The default has no basis."""

    def num_bytes(self, parameters: Tensor) -> int:
        """Return the bytes of the state, plus those of the served parameters if they are a separate copy."""
        served = self.served(parameters)
        copies = 0 if served is parameters else served.nbytes
        return copies + sum(tensor.nbytes for tensor in self.state.values())

    def served(self, parameters: Tensor) -> Tensor:
        """Return the parameters (P,) that predict after training: the trained ones unless the rule keeps better ones."""
        return parameters

    def resume_(self, parameters: Tensor) -> None:  # noqa: B027 -- most rules serve the parameters they train
        """Write to `parameters` those that training continues from, after state and served parameters were loaded."""


class RowRule(ABC):
    """Rule that updates the rows of a batch in one (R, D) weight matrix in place. It has hyper-parameters but no state."""

    cfg: Any
    """Hyper-parameters of the rule: a frozen dataclass with a learning rate `lr`."""
    sums: ClassVar[tuple[str, ...]] = ()
    """Names of the states that sum over all steps, which makes steps ever smaller."""

    @abstractmethod
    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the initial state for `weight` (R, D): tensors (R, D) or (R,), in which entry r belongs to row r."""

    def update_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update the rows of `hits` in `weight` and `state`, and no others."""
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
        samples: float,
        weights: Tensor | None = None,
        l2: float = 0.0,
    ) -> None:
        """Find the rows of a batch, sum over their hits, and update them on the GPU; see `update_rows_triton_`."""
        # Triton is not available on every platform.
        from dlrm_adahessian.kernels.triton_rows import update_rows_triton_

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
            weights=weights,
            l2=l2,
        )

    @property
    def mixes_columns(self) -> bool:
        """Whether the update of an entry depends on the other entries of its row, so that columns cannot be split."""
        import torch

        # A mean over entries is stored as one floating-point number per row. Counters are integers, equal in every split.
        state = self.new_state(torch.empty(1, 2, device="meta"))
        return any(tensor.dim() == 1 and tensor.is_floating_point() for tensor in state.values())

    @property
    @abstractmethod
    def direction_triton(self) -> Any:
        """The rule as a function that the kernels in `triton_rows` inline. That module documents its arguments."""

    @abstractmethod
    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update with tensor operations. Works on any device and serves as the oracle of the kernels."""

    @abstractmethod
    def update_numba_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """Update in one compiled pass over the rows of the batch, on the CPU."""


def new_counter() -> Tensor:
    """Return a zero counter for the state of a dense optimizer, 0-dim int64 on the CPU."""
    import torch

    return torch.zeros((), dtype=torch.int64)


def new_counters(weight: Tensor) -> Tensor:
    """Return a zero counter for each row of `weight` (R, D): (R,) int32."""
    import torch

    return weight.new_zeros(len(weight), dtype=torch.int32)


def rival_package(rule: str) -> Any:
    """Return the optimizers of `pytorch_optimizer` for the named rule. Raises a UsageError if the package is missing."""
    from importlib import import_module

    from dlrm_adahessian.errors import UsageError

    try:
        return import_module("pytorch_optimizer.optimizer")
    except ImportError as error:
        raise UsageError(
            f"{rule} needs the package pytorch_optimizer, but importing it failed: {error}. "
            "Install it with pip install -e '.[rivals]', or choose another optimizer."
        ) from error


class ParameterViews:
    """Parameters for a `torch.optim` optimizer: views, in their own shapes, into parts of a flat vector."""

    def __init__(self, vector: Tensor, shapes: Sequence[Sequence[int]], picked: Sequence[int]) -> None:
        """Create views into `vector`.

        Args:
            vector: (P,).
            shapes: shapes of all parameters in order, P entries in total.
            picked: positions in `shapes` to view.
        """
        from torch.nn import Parameter

        self._sizes = [math.prod(shape) for shape in shapes]
        self._shapes, self._picked = shapes, picked
        self.parameters = [Parameter(view) for view in self.of(vector)]

    def of(self, vector: Tensor) -> list[Tensor]:
        """Return the views into a vector (P,)."""
        parts = vector.split(self._sizes)
        return [parts[i].view(*self._shapes[i]) for i in self._picked]

    def point_(self, vector: Tensor, grad: Tensor) -> None:
        """Make the parameters views into `vector` and their gradients views into `grad`, both (P,)."""
        for parameter, view, slope in zip(self.parameters, self.of(vector), self.of(grad), strict=True):
            parameter.data, parameter.grad = view, slope


@dataclass(frozen=True)
class Range:
    """Real numbers from `low` to `high`, sampled uniformly on a logarithmic scale."""

    low: float
    high: float

    @property
    def decades(self) -> float:
        """Width in powers of ten."""
        return math.log10(self.high / self.low)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """A set of values, sampled with equal probability."""

    values: tuple[float | str, ...]

    def __contains__(self, value: float | str) -> bool:
        return value in self.values


Tuned = Mapping[str, Range | Choice]
"""Search space by hyper-parameter name. A search skips those that a configuration turns off with 0."""


def rate(center: float) -> Range:
    """Return the search range of a learning rate. It spans three decades for every optimizer, to treat all alike."""
    return Range(center / 10**1.5, center * 10**1.5)
