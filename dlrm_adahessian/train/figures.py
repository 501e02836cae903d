# pyright: basic
"""What metrics.jsonl says of the derivatives of a step: their norms by layer, the floored share, the rows.

They are computed at logged steps alone, before anything is updated. A rule may want the curvature every few steps only, and
then logged steps may all be without: the curvature that is logged is that of the last step with one before each of them.
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

_FIRST_LOGGED = 20  # steps that are all logged
_HISTOGRAM_EVERY = 10  # lines of metrics.jsonl: one takes longer than all figures of a line
_BITS_OF_ROW = 40  # a table of more rows fits into no memory


def is_logged(step: int, *, every: int, last: int) -> bool:
    """Whether step `step`, from 1, has a line in metrics.jsonl: the first ones, each `every`-th, and the `last` one."""
    return step <= _FIRST_LOGGED or step % every == 0 or step >= last


class StepFigures:
    """The figures of one step; `train_step` shows it the derivatives.

    Attributes:
        values: by name, as metrics.jsonl has them; empty between logged steps, and where nothing was updated.
        curvature: (P,) whose histogram is due; None otherwise.
    """

    def __init__(
        self, config: RunConfig, state: "TrainState", batch: Batch, step: int, last: int, lr: dict[str, float]
    ) -> None:
        """Look at no derivatives yet.

        Args:
            config: of the run.
            state: what is trained.
            batch: of the step.
            step: its number, from 1.
            last: the step that the run ends with.
            lr: learning rates of the step, of the dense part and of the rows.
        """
        self.values: dict[str, object] = {}
        self.curvature: Tensor | None = None
        self._config, self._state, self._batch = config, state, batch
        self._step, self._last, self._lr = step, last, lr

    def __call__(self, found: Derivatives) -> None:
        """Take the figures that are due; all ranks call it."""
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
        """Whether a step is logged, or for a curvature one before the next curvature; of every so many lines."""
        steps = range(self._step, self._step + (self._config.curvature_every if of_curvature else 1))
        every = self._config.log_every * lines
        return any(is_logged(step, every=every, last=self._last) for step in steps)


def norms_by_layer(head: nn.Module, derivative: Tensor) -> dict[str, float]:
    """Return the Euclidean norm of a derivative in each layer, of weight and bias together.

    Args:
        head: the dense half of a model.
        derivative: (P,) at its trained parameters.

    Returns:
        By the name of the module in the head, as "top.2".
    """
    sizes: dict[str, int] = {}
    for name, parameter in head.named_parameters():
        if parameter.requires_grad:
            layer = name.rpartition(".")[0] or name
            sizes[layer] = sizes.get(layer, 0) + parameter.numel()
    norms = torch.stack([part.norm() for part in derivative.split(list(sizes.values()))])
    return dict(zip(sizes, norms.tolist(), strict=True))


def rows_touched(batch: Batch) -> int:
    """Return how many different embedding rows a batch of all ranks looks up; all ranks call it."""
    kjt = batch.kjt
    lengths = torch.tensor(kjt.length_per_key(), dtype=torch.int64)
    tables = torch.arange(len(lengths)).repeat_interleave(lengths).to(kjt.values().device)
    return distinct_over_ranks((tables << _BITS_OF_ROW) + kjt.values())
