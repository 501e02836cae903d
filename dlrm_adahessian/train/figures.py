# pyright: basic
"""Compute the figures of a step for metrics.jsonl: norms by layer, the floored share, and the number of embedding rows.

They are computed only at logged steps, before the update. If an optimizer uses the curvature only every few steps, logged
steps may have none. The log then has the curvature of the last step that computed one.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.curvature.base import Derivatives
from dlrm_adahessian.data.loader import Batch
from dlrm_adahessian.distributed.dense_exchange import distinct_over_ranks

if TYPE_CHECKING:
    from dlrm_adahessian.train.state import TrainState

_FIRST_LOGGED = 20  # number of steps at the start that are all logged
_HISTOGRAM_EVERY = 10  # logged lines per histogram, which takes longer than all other figures of a line
_BITS_OF_ROW = 40  # no table with more embedding rows fits into memory


def is_logged(step: int, *, every: int, last: int) -> bool:
    """Return whether step `step`, from 1, has a line in metrics.jsonl: the first, every `every`-th, and the `last` step."""
    return step <= _FIRST_LOGGED or step % every == 0 or step >= last


class StepFigures:
    """The figures of one step. `train_step` calls it with the derivatives.

    Attributes:
        values: figures by their key in metrics.jsonl; empty between logged steps, and if the step updated nothing.
        curvature: (P,) if a histogram is due; None otherwise.
    """

    def __init__(
        self, config: RunConfig, state: "TrainState", batch: Batch, step: int, last: int, lr: dict[str, float]
    ) -> None:
        """Prepare to take figures.

        Args:
            config: settings of the run.
            state: model and optimizers.
            batch: batch of the step.
            step: number of the step, from 1.
            last: number of the last step of the run.
            lr: learning rates of the step, for the dense part and the embedding rows.
        """
        self.values: dict[str, object] = {}
        self.curvature: Tensor | None = None
        self._config, self._state, self._batch = config, state, batch
        self._step, self._last, self._lr = step, last, lr

    def __call__(self, found: Derivatives) -> None:
        """Compute the figures that are due. A collective: all ranks call it."""
        head = self._state.head
        if self._is_due(of_curvature=False):
            self.values["lr"] = self._lr
            self.values["grad_norm"] = norms_by_layer(head, found.grad)
            self.values["rows_touched"] = rows_touched(self._batch)
        if found.curvature is None or not self._is_due(of_curvature=True):
            return
        self.values["curvature_norm"] = norms_by_layer(head, found.curvature)
        samples = self._batch.weight_of(self._batch.share.samples)
        floored = self._state.dense_optimizer.floored(found.grad, found.curvature, samples=samples)
        if floored is not None:
            self.values["floored_share"] = int(floored.count_nonzero()) / len(floored)
        if self._is_due(of_curvature=True, lines=_HISTOGRAM_EVERY):
            self.curvature = found.curvature

    def _is_due(self, *, of_curvature: bool, lines: int = 1) -> bool:
        """Return whether a step, or any step until the next curvature, is logged; `lines` selects every n-th line."""
        steps = range(self._step, self._step + (self._config.curvature_every if of_curvature else 1))
        every = self._config.log_every * lines
        return any(is_logged(step, every=every, last=self._last) for step in steps)


def norms_by_layer(head: nn.Module, derivative: Tensor) -> dict[str, float]:
    """Return the Euclidean norm of a derivative for each layer, weight and bias together.

    Args:
        head: dense part of a model.
        derivative: (P,) derivative with respect to its trained parameters.

    Returns:
        Norms by the name of the module in the head, such as "top.2".
    """
    sizes: dict[str, int] = {}
    for name, parameter in head.named_parameters():
        if parameter.requires_grad:
            layer = name.rpartition(".")[0] or name
            sizes[layer] = sizes.get(layer, 0) + parameter.numel()
    norms = torch.stack([part.norm() for part in derivative.split(list(sizes.values()))])
    return dict(zip(sizes, norms.tolist(), strict=True))


def rows_touched(batch: Batch) -> int:
    """Return the number of distinct embedding rows in a global batch. A collective: all ranks call it."""
    kjt = batch.kjt
    lengths = torch.tensor(kjt.length_per_key(), dtype=torch.int64)
    tables = torch.arange(len(lengths)).repeat_interleave(lengths).to(kjt.values().device)
    return distinct_over_ranks((tables << _BITS_OF_ROW) + kjt.values())
