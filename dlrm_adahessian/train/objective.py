"""What a step minimizes, over all ranks: the weighted mean log loss of its batch, and an L2 penalty.

With lambda and mu the settings `l2_weights` and `l2_rows` of the model,

    L = sum_b w_b BCE(z_b, y_b) / sum_b w_b + lambda/2 |theta|^2 + mu/2 sum_r |row r|^2

over all weights and biases theta, as in torch.optim's `weight_decay` and FuxiCTR's `net_regularizer`, and over the rows r
that the batch looks up, each once, as in FBGEMM's L2 weight decay. The penalty adds lambda theta to the gradient, and lambda
to the diagonal of the Hessian: in every orthogonal basis, and to that of the Gauss-Newton matrix. The rows add theirs where
their sums are complete (embeddings/local_tables.py).
"""

from dataclasses import replace

import torch
from torch import Tensor

from dlrm_adahessian.curvature.base import Derivatives
from dlrm_adahessian.data.loader import Batch


def as_mean_of_its_samples(found: Derivatives, batch: Batch, curvature_samples: int) -> Derivatives:
    """Scale the dense curvature of the first samples: their weights are relative to the mean weight of the whole batch."""
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
    """Add the penalty l2/2 |parameters|^2 to gradient and curvature of the dense part, not to the loss that is reported."""
    if not l2:
        return found
    return replace(
        found,
        grad=torch.add(found.grad, parameters, alpha=l2),
        curvature=None if found.curvature is None else found.curvature + l2,
    )
