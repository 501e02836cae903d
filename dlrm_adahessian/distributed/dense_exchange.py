"""Combine the derivatives of each rank's samples into those of the mean loss over the global batch.

One all-reduce sums one flat bucket over the ranks:

    gradient | curvature, or the gradients whose mean square it is | Kronecker factors | factors of the columns |
    logits, each at its position in the global batch | loss and sums of all derivatives, whose total is finite on all
    ranks or on none | number of samples with curvature at the embedding rows

Each rank's derivatives belong to the mean over its own samples, so they are weighted by its share of all samples. This
module takes the mean over ranks, before the optimizers square anything.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from dlrm_adahessian.curvature.base import Derivatives, mean_square, sums_of
from dlrm_adahessian.distributed.ranks import Share
from dlrm_adahessian.optim.basis import KroneckerBasis


def over_ranks(
    found: Derivatives, share: Share, *, curvature_samples: int, basis: KroneckerBasis | None = None
) -> Derivatives:
    """Return derivatives of the mean loss over the global batch. A collective: requires a process group.

    Args:
        found: derivatives of the mean loss over this rank's samples.
        share: the samples of this rank.
        curvature_samples: number of samples, from the start of the global batch, included in the curvature; 0 for none.
        basis: basis in which the curvature was requested.

    Returns:
        `loss`, `grad`, `curvature`, `factors`, `pooled_factors`, `sums`, and the logits (B,) of the global batch, equal
        on all ranks. `pooled_grad` and `pooled_curvature` remain those of this rank's samples, with zeros in the padding
        and in the scale that `Lookup.push` expects. `pooled_samples` counts the global batch.
    """
    if share.world_size == 1:
        return found
    found = _filled(found, curvature_samples, basis)
    weight = share.count / share.samples
    sums = sums_of(found) if found.sums is None else found.sums.clone()
    sums[0] *= weight
    logits = found.logits.new_zeros(share.samples)
    logits[share.first : share.first + share.count] = found.logits[: share.count]
    pooled_samples = min(found.pooled_samples, share.count)
    parts = [found.grad * weight, logits, sums, sums.new_tensor([pooled_samples])]
    if found.pooled_factors is not None:
        parts.append((found.pooled_factors * weight).flatten())
    curvature = found.curvature if found.squares_of is None else found.squares_of
    parts += [
        (part * (share.count_among(curvature_samples) / curvature_samples)).flatten()
        for part in (curvature, found.factors)
        if part is not None
    ]
    bucket = torch.cat(parts)
    dist.all_reduce(bucket)
    grad, logits, sums, pooled_total, *rest = bucket.split([len(part) for part in parts])
    total = int(pooled_total)
    pooled_factors = None if found.pooled_factors is None else rest.pop(0).view_as(found.pooled_factors)
    return replace(
        found,
        loss=sums[0],
        logits=logits,
        grad=grad,
        curvature=None if curvature is None else _curvature(found, rest[0], curvature_samples),
        factors=None if found.factors is None else rest[-1],
        pooled_factors=pooled_factors,
        squares_of=None,
        sums=sums,
        pooled_grad=_padded(found.pooled_grad, share, weight),
        pooled_curvature=None
        if found.pooled_curvature is None
        else _padded(found.pooled_curvature, share, weight),
        pooled_samples=total,
    )


def gathered(values: Tensor, share: Share) -> Tensor:
    """Return one value per sample of the global batch, in its order. A collective: requires a process group.

    Args:
        values: (count,), values of this rank's samples, on the CPU.
        share: the samples of this rank.

    Returns:
        (B,), on every rank.
    """
    if share.world_size == 1:
        return values
    padded = values.new_zeros(share.padded)
    padded[: share.count] = values
    parts = [torch.empty_like(padded) for _ in range(share.world_size)]
    dist.all_gather(parts, padded)
    return torch.cat(parts)[: share.samples]


def mean_over_ranks_(tensors: Sequence[Tensor], group: dist.ProcessGroup) -> None:
    """Replace tensors in place by their mean over the ranks of a group. Shapes must match on all ranks."""
    bucket = torch.cat([tensor.reshape(-1).to(tensors[0].dtype) for tensor in tensors])
    dist.all_reduce(bucket, group=group)
    bucket /= group.size()
    for tensor, part in zip(tensors, bucket.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def total_over_ranks(number: int) -> int:
    """Return the sum of one number per rank. A collective: requires a process group."""
    total = torch.tensor(number)
    dist.all_reduce(total)
    return int(total)


def distinct_over_ranks(numbers: Tensor) -> int:
    """Return how many distinct numbers all ranks have together. A collective: requires a process group.

    Args:
        numbers: (n,) int64, at least 0; n may differ between ranks.
    """
    own = numbers.unique().cpu()
    if dist.get_world_size() == 1:
        return len(own)
    most = torch.tensor(len(own))
    dist.all_reduce(most, dist.ReduceOp.MAX)
    padded = F.pad(own, (0, int(most) - len(own)), value=-1)
    parts = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, padded)
    return int((torch.cat(parts).unique() >= 0).sum())


def _filled(found: Derivatives, curvature_samples: int, basis: KroneckerBasis | None) -> Derivatives:
    """Fill in zeros on a rank without samples in the dense curvature, because all ranks must send the same parts."""
    if curvature_samples == 0 or found.curvature is not None or found.factors is not None:
        return found
    return replace(
        found,
        curvature=torch.zeros_like(found.grad) if basis is None or basis.diagonal else None,
        factors=None if basis is None else torch.zeros_like(basis.state["factors"]),
        sums=None,
    )


def _curvature(found: Derivatives, summed: Tensor, curvature_samples: int) -> Tensor:
    if found.squares_of is None:
        return summed
    return mean_square(summed.view_as(found.squares_of), curvature_samples)


def _padded(local: Tensor, share: Share, weight: float) -> Tensor:
    """Append the padding, and scale so that the mean over ranks equals the sum of the ranks' weighted means."""
    out = local.new_zeros(share.padded, *local.shape[1:])
    torch.mul(local[: share.count], weight * share.world_size, out=out[: share.count])
    return out
