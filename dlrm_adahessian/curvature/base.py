"""Interface of the curvature estimators, and the gradient that all of them share."""

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

    If samples have weights, all means over samples are weighted.

    Attributes:
        loss: () mean binary cross-entropy over the batch.
        logits: (B,), detached.
        grad: (P,) at the parameters of the head that require a gradient, concatenated in the order of `trained(head)`.
            Frozen parameters are left out.
        pooled_grad: (B, F, D).
        curvature: (P,) Hessian diagonal, or None on a step without curvature of the dense part.
        pooled_curvature: (B, F, D), or its mean over D (B, F, 1), as the estimator's settings say. It is each sample's part
            of the mean loss over B, zero for samples outside the estimate, and None without curvature of the embedding rows.
        pooled_samples: number of samples, from the first on, that `pooled_curvature` covers.
        factors: (K,) Kronecker factors of the weight matrices, for an optimizer with a basis. `curvature` is then in the
            basis.
        pooled_factors: (F, D, D) mean over the samples of the outer products of their gradients, for `optim/columns.py`.
        squares_of: (n, P) if `curvature` is their `mean_square`. A mean over ranks must average these instead.
        sums: `sums_of` the other fields if it was computed with them; None otherwise.
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
    """Position of a rank's samples among the samples of all ranks that the curvature uses.

    Attributes:
        first: number of samples on the ranks before it.
        samples: number of samples on all ranks; 0 on a step without curvature.
    """

    first: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class Request:
    """Inputs of an estimate. `Estimator.__call__` explains each field."""

    head: nn.Module
    dense: Tensor
    pooled: Tensor
    labels: Tensor
    curvature_samples: int
    place: Place
    weights: Tensor | None


class Estimator(ABC):
    """Base class of estimators, which compute the derivatives of one batch.

    Attributes:
        state: (n,) uint8 generator states that make the next estimate reproducible. Empty for deterministic estimators.
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
            pooled: (B, F, D) float; autograd stops here.
            labels: (B,) float, 0 or 1, or a probability between them.
            curvature_samples: number of samples, from the first on, whose mean loss defines the curvature; 0 for no
                curvature of the dense part. With 0, or for other samples, the estimator gives rows nothing, or what is free.
            place: position of these samples among those of all ranks, so that random numbers of a sample do not depend on
                the number of ranks; None for one rank.
            weights: (B,) float factors on each sample's loss: its weight divided by the mean weight over the batch of all
                ranks. The plain mean over samples is then the weighted mean. None for 1 each.
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
        """Return the derivatives. Each estimator implements this method."""

    def load_state(self) -> None:  # noqa: B027 -- most estimators have no state
        """Use the generator state that was copied to `state`."""


class NoCurvature(Estimator):
    """Estimator of the gradient only, for first-order optimizers."""

    def derivatives(self, request: Request) -> Derivatives:
        """Return the gradient."""
        return gradient(request.head, request.dense, request.pooled, request.labels, request.weights)


class Seeded(Estimator):
    """Base class of random estimators, whose generator state is part of a checkpoint.

    Each rank generates random numbers for the samples of all ranks and uses those of its own samples. N ranks therefore use
    the same numbers as one process, and their generators stay equal.
    """

    def __init__(
        self, draws: int, seed: int, device: torch.device, pooled: PooledCurvature = "entries"
    ) -> None:
        """Seed the generator.

        Args:
            draws: number of random draws per curvature step, at least 1.
            seed: seed of the generator.
            device: device of the derivatives.
            pooled: the pooled curvature to compute.
        """
        super().__init__()
        self.draws = draws
        self._pooled: PooledCurvature = pooled
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self.state["generator"] = self._generator.get_state()

    def load_state(self) -> None:
        """Use the generator state that was copied to `state`."""
        self._generator.set_state(self.state["generator"])

    def _keep_state(self) -> None:
        self.state["generator"].copy_(self._generator.get_state())


def with_curvature(
    first: Derivatives, diagonal: Sequence[Tensor], curvature_samples: int, pooled: PooledCurvature
) -> Derivatives:
    """Add curvature to the derivatives of a batch.

    Args:
        first: derivatives without curvature.
        diagonal: curvature of each parameter of the head, followed by that of the pooled embeddings of the first samples.
        curvature_samples: number of those samples.
        pooled: the pooled curvature to return.

    Returns:
        All derivatives. The pooled curvature of the other samples is zero.
    """
    found = replace(first, curvature=flat(diagonal[:-1]))
    if pooled == "none":
        return found
    part = diagonal[-1].mean(2, keepdim=True) if pooled == "mean" else diagonal[-1]
    whole = part.new_zeros(len(first.pooled_grad), *part.shape[1:])
    # Convert a mean over those samples to a mean over all.
    whole[:curvature_samples] = part * (curvature_samples / len(whole))
    return replace(found, pooled_curvature=whole, pooled_samples=curvature_samples)


def mean_square(gradients: Tensor, samples: int) -> Tensor:
    """Return the mean over n of (n, P) squares, times `samples`: (P,)."""
    total = torch.zeros_like(gradients[0])
    for gradient in gradients:
        total.addcmul_(gradient, gradient, value=samples / len(gradients))
    return total


def sums_of(found: Derivatives) -> Tensor:
    """Return the loss and the sum of each available derivative, (n,). A sum is finite only if all entries are."""
    # The sum of finite entries may overflow too, which is equally bad.
    of_parameters = (found.grad, found.curvature, found.factors)
    of_rows = (found.pooled_grad, found.pooled_curvature, found.pooled_factors)
    return torch.stack([found.loss, *(part.sum() for part in (*of_parameters, *of_rows) if part is not None)])


def all_finite(found: Derivatives) -> bool:
    """Return whether the loss and all derivatives are finite. Waits for the device."""
    sums = sums_of(found) if found.sums is None else found.sums
    return all(math.isfinite(x) for x in sums.tolist())


def trained(head: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that require a gradient, in the order of `head.parameters()`.

    Args:
        head: the dense half of a model.

    Returns:
        At least one parameter. Frozen parameters are constants of the head.

    Raises:
        ValueError: no parameter requires a gradient.
    """
    found = [parameter for parameter in head.parameters() if parameter.requires_grad]
    if not found:
        raise ValueError(
            f"A head needs parameters that require a gradient, but {type(head).__name__} has none. "
            "Call requires_grad_() on one, or use torch.autograd.grad for the pooled embeddings alone."
        )
    return found


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate all entries, (P,)."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def gradient(
    head: nn.Module, dense: Tensor, pooled: Tensor, labels: Tensor, weights: Tensor | None = None
) -> Derivatives:
    """Return the derivatives of a batch without curvature. Shapes are those of `Estimator.__call__`."""
    leaf = pooled.detach().requires_grad_()
    logits = head(dense, leaf)
    loss = F.binary_cross_entropy_with_logits(logits, labels, weights)
    grads = torch.autograd.grad(loss, [*trained(head), leaf])
    return Derivatives(
        loss=loss.detach(), logits=logits.detach(), grad=flat(grads[:-1]), pooled_grad=grads[-1]
    )
