"""What the file of an optimizer builds on: what the trainer expects of it, and what a search may draw. Imports no torch.

Dense optimizers and row rules are plain tensor code: no autograd, no collectives, no logging. Derivatives are those of the
mean loss over `samples` samples; where samples have weights, those of the weighted mean, and `samples` is the sum of the
weights, so that a sample of weight 2 counts as two. A step without curvature passes None. Corrections of second moments
count curvature updates, those of means steps.

Their settings are in the same files, which `--help` reads. So these files import torch only inside functions, and rarely:
methods of tensors do almost everything.
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
"""What rows want of the curvature at the pooled embeddings: nothing, (B, F, D), or its mean over D, (B, F, 1)."""


class DenseOptimizer(ABC):
    """Updates one flat vector of all dense parameters in place."""

    state: dict[str, Tensor]
    """Named tensors: moments like the parameters; counters and sums 0-dim int64 or float64 on the CPU. Loading copies into
    them."""
    basis: KroneckerBasis | None = None
    """In which it wants the curvature of weight matrices; None is coordinates."""

    @abstractmethod
    def step(
        self, parameters: Tensor, grad: Tensor, curvature: Tensor | None, *, lr_scale: float, samples: float
    ) -> None:
        """Update `parameters`, all (P,); `lr_scale` in [0, 1] is the schedule's factor on the learning rate."""

    def floored(self, grad: Tensor, curvature: Tensor, *, samples: float) -> Tensor | None:
        """Return which entries, (P,) bool, take the rule's floor for their curvature; None for a rule without a floor.

        Arguments are those of the coming `step`.
        """
        return None

    def observe_(self, factors: Tensor) -> None:  # noqa: B027 -- most have no basis
        """Take up the Kronecker factors (K,) of a batch, after the step with its curvature; only with a `basis`."""

    def num_bytes(self, parameters: Tensor) -> int:
        """Return the memory of its state, and of the parameters that it serves where they are not those that it trains."""
        served = self.served(parameters)
        copies = 0 if served is parameters else served.nbytes
        return copies + sum(tensor.nbytes for tensor in self.state.values())

    def served(self, parameters: Tensor) -> Tensor:
        """Return the parameters (P,) that predict after training: those that are trained, unless a rule has better ones."""
        return parameters

    def resume_(self, parameters: Tensor) -> None:  # noqa: B027 -- most serve what they train
        """Put into `parameters` those that training goes on from; state and served parameters were loaded before."""


class RowRule(ABC):
    """Updates touched rows of one (R, D) weight matrix in place; holds hyper-parameters, no state."""

    cfg: Any
    """Hyper-parameters of the rule: a frozen dataclass, with a learning rate `lr`."""
    sums: ClassVar[tuple[str, ...]] = ()
    """The states that add up over all steps, so that steps become ever smaller."""

    @abstractmethod
    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the state of untouched rows for `weight` (R, D): tensors (R, D) or (R,), row r belonging to row r."""

    def update_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
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
        samples: float,
        weights: Tensor | None = None,
        l2: float = 0.0,
    ) -> None:
        """Find the touched rows, sum over their hits and update them, on the GPU; see `update_rows_triton_`."""
        # Triton is not installed everywhere.
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
        """Whether a row's entries need each other, so that a part of the columns cannot be updated alone."""
        import torch

        # A mean over the entries is kept as a real number a row. Counters are integers, the same in every part.
        state = self.new_state(torch.empty(1, 2, device="meta"))
        return any(tensor.dim() == 1 and tensor.is_floating_point() for tensor in state.values())

    @property
    @abstractmethod
    def direction_triton(self) -> Any:
        """The rule as a function that the kernels of `triton_rows` inline; that module says what it gets and returns."""

    @abstractmethod
    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """`update_` in tensor operations: for any device, and the oracle of the kernels."""

    @abstractmethod
    def update_numba_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: float
    ) -> None:
        """`update_` as one compiled pass over the touched rows, on the CPU."""


def new_counter() -> Tensor:
    """Return a counter at zero for the state of a dense optimizer, 0-dim int64 on the CPU."""
    import torch

    return torch.zeros((), dtype=torch.int64)


def new_counters(weight: Tensor) -> Tensor:
    """Return a counter at zero for each row of `weight` (R, D): (R,) int32."""
    import torch

    return weight.new_zeros(len(weight), dtype=torch.int32)


def rival_package(rule: str) -> Any:
    """Return the optimizers of `pytorch_optimizer`, for a rule of this name; without the package, a UsageError."""
    from importlib import import_module

    from dlrm_adahessian.errors import UsageError

    try:
        return import_module("pytorch_optimizer.optimizer")
    except ImportError as error:
        raise UsageError(
            f"{rule} needs the package pytorch_optimizer, and importing it failed with {error}; "
            "install it with pip install -e '.[rivals]', or choose another optimizer"
        ) from error


class ParameterViews:
    """Parameters for a `torch.optim` optimizer: some of those that lie one after another in a vector, each in its shape."""

    def __init__(self, vector: Tensor, shapes: Sequence[Sequence[int]], picked: Sequence[int]) -> None:
        """View into `vector`.

        Args:
            vector: (P,).
            shapes: of all parameters in order, P entries in all.
            picked: positions in `shapes`.
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
        """Let the parameters be views into `vector`, and their gradients into `grad`, both (P,)."""
        for parameter, view, slope in zip(self.parameters, self.of(vector), self.of(grad), strict=True):
            parameter.data, parameter.grad = view, slope


@dataclass(frozen=True)
class Range:
    """Real numbers from `low` to `high`, drawn evenly on a logarithmic scale."""

    low: float
    high: float

    @property
    def decades(self) -> float:
        """Width on the logarithmic scale."""
        return math.log10(self.high / self.low)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of some values, each as likely."""

    values: tuple[float | str, ...]

    def __contains__(self, value: float | str) -> bool:
        return value in self.values


Tuned = Mapping[str, Range | Choice]
"""By the name of a hyper-parameter. One that a configuration has at 0, which turns it off, is not drawn."""


def rate(centre: float) -> Range:
    """Return the range of a learning rate: three decades for every optimizer, so that none is searched more narrowly."""
    return Range(centre / 10**1.5, centre * 10**1.5)
