"""The loss of a step over all ranks: the weighted mean log loss of the batch, and an L2 penalty.

With the model settings lambda = `l2_weights` and mu = `l2_rows`,

    L = sum_b w_b BCE(z_b, y_b) / sum_b w_b + lambda/2 |theta|^2 + mu/2 sum_r |row r|^2

over all weights and biases theta, like `weight_decay` in torch.optim and `net_regularizer` in FuxiCTR, and over the
embedding rows r in the batch, each counted once, like L2 weight decay in FBGEMM. The penalty adds lambda theta to the
gradient and lambda to the diagonal of the Hessian and of the Gauss-Newton matrix, in every orthogonal basis. For embedding
rows, embeddings/local_tables.py adds the penalty to the complete sums.
"""

from dataclasses import replace

import torch
from torch import Tensor

from dlrm_adahessian.curvature.base import Derivatives
from dlrm_adahessian.data.loader import Batch


def as_mean_of_its_samples(found: Derivatives, batch: Batch, curvature_samples: int) -> Derivatives:
    """Rescale the dense curvature of the first samples, whose weights are relative to the mean weight of the whole batch."""
    if batch.weights is None or curvature_samples in (0, batch.share.samples):
        return found
    scale = batch.weight_of(batch.share.samples) / batch.weight_of(curvature_samples)
    scale *= curvature_samples / batch.share.samples
    return replace(
        found,
        curvature=None if found.curvature is None else found.curvature * scale,
        factors=None if found.factors is None else found.factors * scale,
    )


def penalized(found: Derivatives, parameters: Tensor, l2: float) -> Derivatives:
    """Add the penalty l2/2 |parameters|^2 to the dense gradient and curvature, but not to the reported loss."""
    if not l2:
        return found
    return replace(
        found,
        grad=torch.add(found.grad, parameters, alpha=l2),
        curvature=None if found.curvature is None else found.curvature + l2,
    )
