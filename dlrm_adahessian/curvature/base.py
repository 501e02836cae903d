"""What an estimator is asked and returns, and the gradient that all of them share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlrm_adahessian.optim.base import PooledCurvature


@dataclass(frozen=True, kw_only=True)
class Derivatives:
    """Derivatives of the mean loss at the dense parameters and at the pooled embeddings.

    Where samples have weights, all means over samples are weighted.

    Attributes:
        loss: () mean binary cross-entropy over the batch.
        logits: (B,), detached.
        grad: (P,) at the parameters of the head that require a gradient, one after another in the order of `trained(head)`;
            frozen ones have no place in it.
        pooled_grad: (B, F, D).
        curvature: (P,) Hessian diagonal, or None on a step without curvature of the dense part.
        pooled_curvature: (B, F, D), or its mean over D (B, F, 1), as the estimator was asked: of each sample its part of
            the mean loss over B; zero for samples that took no part; None on a step without curvature of the rows.
        pooled_samples: how many samples, the first ones, took part in `pooled_curvature`.
        factors: (K,) Kronecker factors of the weight matrices, for an optimizer with a basis, which `curvature` is then in.
        pooled_factors: (F, D, D) mean over the samples of the outer product of their gradients, for `optim/columns.py`.
        squares_of: (n, P) where `curvature` is `mean_square` of them; a mean over ranks must be taken of these.
        sums: what `sums_of` says of the rest, where it came with it; None otherwise.
    """

    loss: Tensor
    logits: Tensor
    grad: Tensor
    pooled_grad: Tensor
    curvature: Tensor | None = None
    pooled_curvature: Tensor | None = None
    pooled_samples: int = 0
    factors: Tensor | None = None
    pooled_factors: Tensor | None = None
    squares_of: Tensor | None = None
    sums: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the samples of a rank stand among those of all ranks that the curvature is taken of.

    Attributes:
        first: how many samples the ranks before it have.
        samples: how many all ranks have; 0 on a step without curvature.
    """

    first: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class Request:
    """What derivatives are wanted of; `Estimator.__call__` explains each."""

    head: nn.Module
    dense: Tensor
    pooled: Tensor
    labels: Tensor
    curvature_samples: int
    place: Place
    weights: Tensor | None


class Estimator(ABC):
    """Computes the derivatives of one batch.

    Attributes:
        state: what makes the next estimate reproducible: generator states, (n,) uint8. Empty for deterministic ones.
    """

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def __call__(
        self,
        head: nn.Module,
        dense: Tensor,
        pooled: Tensor,
        labels: Tensor,
        *,
        curvature_samples: int,
        place: Place | None = None,
        weights: Tensor | None = None,
    ) -> Derivatives:
        """Return the derivatives of the mean loss.

        Args:
            head: maps `dense` and `pooled` to logits (B,).
            dense: (B, K) float.
            pooled: (B, F, D) float, where autograd is cut.
            labels: (B,) float, 0 or 1, or a probability between them.
            curvature_samples: the first samples whose mean loss the curvature is taken of; 0 for none on the dense part.
                What rows get at 0 samples, or of the other samples, is the estimator's: nothing, or what costs nothing.
            place: of these samples among all ranks', so that what is drawn at random for a sample does not depend on
                the ranks; None where there is one rank.
            weights: (B,) float, a factor on each sample's loss: its weight over the mean weight of the batch of all ranks,
                so that the plain mean over samples is the weighted one; None for 1 each.
        """
        return self.derivatives(
            Request(
                head=head,
                dense=dense,
                pooled=pooled,
                labels=labels,
                curvature_samples=curvature_samples,
                place=place or Place(first=0, samples=curvature_samples),
                weights=weights,
            )
        )

    @abstractmethod
    def derivatives(self, request: Request) -> Derivatives:
        """Return the derivatives; what an estimator is about."""

    def load_state(self) -> None:  # noqa: B027 -- most have none
        """Take up what was copied into `state`."""


class NoCurvature(Estimator):
    """The gradient by autograd alone, for first-order optimizers."""

    def derivatives(self, request: Request) -> Derivatives:
        """Return the gradient."""
        return gradient(request.head, request.dense, request.pooled, request.labels, request.weights)


class Seeded(Estimator):
    """An estimator that draws at random; the state of its generator belongs to a checkpoint.

    Each rank draws for the samples of all ranks and takes those of its own: so N ranks draw what one process draws, and
    their generators stay equal.
    """

    def __init__(
        self, draws: int, seed: int, device: torch.device, pooled: PooledCurvature = "entries"
    ) -> None:
        """Seed the generator.

        Args:
            draws: of a curvature step, at least 1.
            seed: of what is drawn.
            device: of the derivatives.
            pooled: what is wanted of the curvature at the pooled embeddings.
        """
        super().__init__()
        self.draws = draws
        self._pooled: PooledCurvature = pooled
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self.state["generator"] = self._generator.get_state()

    def load_state(self) -> None:
        """Take up what was copied into `state`."""
        self._generator.set_state(self.state["generator"])

    def _keep_state(self) -> None:
        self.state["generator"].copy_(self._generator.get_state())


def with_curvature(
    first: Derivatives, diagonal: Sequence[Tensor], curvature_samples: int, pooled: PooledCurvature
) -> Derivatives:
    """Add a curvature to the derivatives of a batch.

    Args:
        first: without curvature.
        diagonal: at each parameter of the head, last at the pooled embeddings of the first samples.
        curvature_samples: how many samples those are.
        pooled: what is wanted of the last.

    Returns:
        All derivatives; the pooled curvature of the other samples is zero.
    """
    found = replace(first, curvature=flat(diagonal[:-1]))
    if pooled == "none":
        return found
    part = diagonal[-1].mean(2, keepdim=True) if pooled == "mean" else diagonal[-1]
    whole = part.new_zeros(len(first.pooled_grad), *part.shape[1:])
    # From a mean over those samples to one over all.
    whole[:curvature_samples] = part * (curvature_samples / len(whole))
    return replace(found, pooled_curvature=whole, pooled_samples=curvature_samples)


def mean_square(gradients: Tensor, samples: int) -> Tensor:
    """Return the mean over n of (n, P) squares, times `samples`: (P,)."""
    total = torch.zeros_like(gradients[0])
    for gradient in gradients:
        total.addcmul_(gradient, gradient, value=samples / len(gradients))
    return total


def sums_of(found: Derivatives) -> Tensor:
    """Return the loss and the sum of each derivative there is, (n,); one is not finite unless all entries are."""
    # The sum of finite entries may overflow too, which is as bad.
    of_parameters = (found.grad, found.curvature, found.factors)
    of_rows = (found.pooled_grad, found.pooled_curvature, found.pooled_factors)
    return torch.stack([found.loss, *(part.sum() for part in (*of_parameters, *of_rows) if part is not None)])


def all_finite(found: Derivatives) -> bool:
    """Whether the loss and all derivatives are finite; waits for the device."""
    sums = sums_of(found) if found.sums is None else found.sums
    return all(math.isfinite(x) for x in sums.tolist())


def trained(head: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that require a gradient, in the order of `head.parameters()`.

    Args:
        head: the dense half of a model.

    Returns:
        One parameter at least; frozen ones are constants of the head.

    Raises:
        ValueError: all are frozen, or there are none.
    """
    found = [parameter for parameter in head.parameters() if parameter.requires_grad]
    if not found:
        raise ValueError(
            f"a head has derivatives at parameters that require a gradient, and {type(head).__name__} has none; "
            "set requires_grad_() on one, or use torch.autograd.grad for the pooled embeddings alone"
        )
    return found


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Return all entries one after another, (P,)."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def gradient(
    head: nn.Module, dense: Tensor, pooled: Tensor, labels: Tensor, weights: Tensor | None = None
) -> Derivatives:
    """Return the derivatives of a batch without curvature; shapes as in `Estimator.__call__`."""
    leaf = pooled.detach().requires_grad_()
    logits = head(dense, leaf)
    loss = F.binary_cross_entropy_with_logits(logits, labels, weights)
    grads = torch.autograd.grad(loss, [*trained(head), leaf])
    return Derivatives(
        loss=loss.detach(), logits=logits.detach(), grad=flat(grads[:-1]), pooled_grad=grads[-1]
    )
