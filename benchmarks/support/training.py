"""Training steps, one after another, as benchmarks time them."""

from collections.abc import Sequence

import torch

from dlrm_adahessian.config import RunConfig, from_dict
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.loader import Batch
from dlrm_adahessian.presets import optimizer_preset
from dlrm_adahessian.runtime.settings import merged
from dlrm_adahessian.train.state import TrainState
from dlrm_adahessian.train.step import curvature_samples, train_step


class Steps:
    """The steps of one optimizer; needs a process group.

    Attributes:
        config: of the run.
        state: what it trains.
    """

    def __init__(self, config: RunConfig, num_rows: Sequence[int]) -> None:
        self.config = config
        self.state = TrainState(config, CRITEO, num_rows, torch.device("cpu"))
        self._step = 0

    def __call__(self, batch: Batch, following: Batch | None = None) -> None:
        """Learn a batch while the following one's lookups set out.

        A derivative that is not finite raises a RuntimeError, as no benchmark of it means anything.
        """
        samples = curvature_samples(self.config, self._step, batch.share.samples)
        found = train_step(self.state, batch, curvature_samples=samples, lr_scale=1.0, following=following)
        if not found.finite:
            raise RuntimeError(f"step {self._step} of {self.config.optimizer} is not finite")
        self._step += 1


def cycle(config: RunConfig) -> int:
    """Return after how many steps all that does not happen at every step has happened once."""
    return config.curvature_every * getattr(config.optim.dense, "refresh", 1)


def run_config(name: str, batch: int, **changes: object) -> RunConfig:
    """Return the configuration of a preset on generated rows, without a baseline."""
    values = merged(
        optimizer_preset(name), {"dataset": "synthetic", "optimizer": name, "batch_size": batch, **changes}
    )
    return from_dict({**values, "baseline": "none"})
