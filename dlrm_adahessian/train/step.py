# pyright: basic
"""One training step: look up, differentiate, average over ranks, and update the dense part and the embedding rows."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.curvature.base import Derivatives, Place, all_finite
from dlrm_adahessian.curvature.registry import ONE_PASS
from dlrm_adahessian.data.loader import Batch
from dlrm_adahessian.distributed.dense_exchange import over_ranks
from dlrm_adahessian.metrics.binary import probability_from_logit
from dlrm_adahessian.runs.profile import named
from dlrm_adahessian.runtime.device import matrix_products
from dlrm_adahessian.train.objective import as_mean_of_its_samples, penalized
from dlrm_adahessian.train.state import TrainState


def curvature_samples(config: RunConfig, step: int, samples: int) -> int:
    """Return the number of samples of a batch that the curvature is computed on; 0 on a step without curvature.

    A one-pass estimator that no dense optimizer reads is never due. Its diagonal at the embedding rows is free anyway.

    Args:
        config: settings of the run.
        step: index of the step, from 0.
        samples: number of samples in the batch.
    """
    read = config.curvature != "none" and (
        config.curvature not in ONE_PASS or config.optim.dense.uses_curvature
    )
    due = read and step % config.curvature_every == 0
    return math.ceil(config.curvature_fraction * samples) if due else 0


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Results of a step over all ranks, from before the update.

    Attributes:
        loss: mean over the global batch, weighted if the samples have weights; 0 if all weights are 0. It includes the
            dropout of the step, but no penalties.
        probability: (B,) float32 predictions of the global batch for the population, without dropout. A NaN logit counts
            as 0.
        finite: whether the loss and all derivatives are finite. If not, the step updated nothing.
        derivatives: derivatives of the mean loss over the global batch plus the penalty of the dense part. Those at the
            pooled embeddings belong to this rank's samples.
    """

    loss: float
    probability: npt.NDArray[np.float32]
    finite: bool
    derivatives: Derivatives


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    curvature_samples: int,
    lr_scale: float,
    rows_lr_scale: float | None = None,
    following: Batch | None = None,
    seen: Callable[[Derivatives], None] | None = None,
) -> StepResult:
    """Predict a batch, differentiate its mean loss, and update all parameters. A collective: all ranks call it.

    A sample of weight w counts as w samples. A batch with total weight 0 is predicted, but updates nothing.

    Args:
        state: model and optimizers.
        batch: this rank's share.
        curvature_samples: number of samples, from the start of the global batch, included in the curvature; 0 for none.
        lr_scale: in [0, 1], the schedule's factor for the learning rate of the dense part.
        rows_lr_scale: the same factor for the embedding rows; None for the same value.
        following: the next batch, whose lookups are exchanged during this step.
        seen: called with the derivatives before the update; not called if the step updates nothing.

    Returns:
        Loss and predictions from before the update.
    """
    share, weights = batch.share, batch.relative_weights(state.dtype)
    if not batch.weight_of(curvature_samples):
        curvature_samples = 0
    with named("look up"):
        pooled = state.lookup(batch.kjt)
        if following is not None:
            state.lookup.send(following.kjt)
    dense, own_pooled = batch.dense.to(state.dtype), pooled[: len(batch.dense)]
    drawn = state.masks.drawn(share.samples, share.own)
    with named("differentiate"), matrix_products(state.precision), drawn:
        found = state.estimator(
            state.head,
            dense,
            own_pooled,
            batch.labels.to(state.dtype),
            curvature_samples=share.count_among(curvature_samples),
            place=Place(first=min(share.first, curvature_samples), samples=curvature_samples),
            weights=weights,
        )
    if state.masks:
        with matrix_products(state.precision), torch.no_grad():
            found = replace(found, logits=state.head(dense, own_pooled))
    if state.columns is not None:
        found = replace(found, pooled_factors=state.columns.factors(found.pooled_grad, weights))
    with named("exchange"):
        found = over_ranks(
            found, share, curvature_samples=curvature_samples, basis=state.dense_optimizer.basis
        )
    found = as_mean_of_its_samples(found, batch, curvature_samples)
    found = penalized(found, state.parameters, state.l2_weights)
    finite = all_finite(found)
    # Read these before the update: a GPU then updates while the host prepares the next batch.
    loss = float(found.loss)
    probability = probability_from_logit((torch.nan_to_num(found.logits) + state.logit_shift).cpu().numpy())
    if finite and batch.weight_of(share.samples):
        if seen is not None:
            seen(found)
        _update(state, batch, pooled, found, lr_scale, lr_scale if rows_lr_scale is None else rows_lr_scale)
    return StepResult(loss=loss, probability=probability, finite=finite, derivatives=found)


def _update(
    state: TrainState,
    batch: Batch,
    pooled: Tensor,
    found: Derivatives,
    lr_scale: float,
    rows_lr_scale: float,
) -> None:
    """Update all parameters from derivatives over all ranks; `pooled` is the result of the lookup."""
    samples = batch.weight_of(batch.share.samples)
    with named("dense update"):
        state.dense_optimizer.step(
            state.parameters, found.grad, found.curvature, lr_scale=lr_scale, samples=samples
        )
        if found.factors is not None:
            state.dense_optimizer.observe_(found.factors)
    columns, pooled_grad, pooled_curvature = state.columns, found.pooled_grad, found.pooled_curvature
    with named("row update"):
        if columns is not None and found.pooled_factors is not None:
            columns.observe_(found.pooled_factors)
            pooled_grad, pooled_curvature = columns.turned(pooled_grad, pooled_curvature)
        state.lookup.push(
            pooled,
            pooled_grad,
            pooled_curvature,
            lr_scale=rows_lr_scale,
            samples=samples,
            curvature_samples=found.pooled_samples if found.pooled_samples < batch.share.samples else None,
            weights=batch.weights_of_all_ranks(pooled),
            l2=state.l2_rows,
        )
