# pyright: basic
"""One training step: look up, differentiate, mean over ranks, update the dense part, send derivatives to owners of rows."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    pass


def curvature_samples(config: RunConfig, step: int, samples: int) -> int:
    """Return how many of the samples of a batch the curvature is computed on; 0 on a step without curvature.

    The diagonal of one pass on rows costs nothing and is not meant: without a reader on the dense part it is never due.

    Args:
        config: of the run.
        step: number of the step, from 0.
        samples: of the batch.
    """
    read = config.curvature != "none" and (
        config.curvature not in ONE_PASS or config.optim.dense.uses_curvature
    )
    due = read and step % config.curvature_every == 0
    return math.ceil(config.curvature_fraction * samples) if due else 0


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step found before it updated anything, over all ranks.

    Attributes:
        loss: mean over the global batch, weighted where samples have weights; 0 where none of them has any. With the dropout
            of the step, without penalties.
        probability: (B,) float32 predictions of the global batch, for the population, without dropout; of a logit 0 where it
            is not a number.
        finite: whether loss and derivatives were; otherwise nothing was updated.
        derivatives: of the mean loss over the global batch and the penalty of the dense part; at the pooled embeddings, of
            this rank's samples.
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
    """Predict a batch, differentiate its mean loss over all ranks, and update all parameters; all ranks call it.

    A sample of weight w counts as w samples. A batch without any weight is predicted, and updates nothing.

    Args:
        state: what is trained.
        batch: this rank's share.
        curvature_samples: the first samples of the global batch that the curvature is taken of; 0 for none.
        lr_scale: in [0, 1], the schedule's factor on the learning rate of the dense part.
        rows_lr_scale: that on the rate of the rows; None for the same.
        following: the next batch, whose lookups travel to the rows' owners meanwhile.
        seen: called with the derivatives before they update anything; not called on a step that updates nothing.

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
    # Read before the update is launched: a GPU updates while the host goes on to the next batch.
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
    """Update all parameters from derivatives over all ranks; `pooled` is what the lookup returned."""
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
