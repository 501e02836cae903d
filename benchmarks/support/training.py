"""Training steps for benchmarks."""

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
    """Consecutive steps of one optimizer. Needs a process group.

    Attributes:
        config: settings of the run.
        state: model and optimizers.
    """

    def __init__(self, config: RunConfig, num_rows: Sequence[int]) -> None:
        self.config = config
        self.state = TrainState(config, CRITEO, num_rows, torch.device("cpu"))
        self._step = 0

    def __call__(self, batch: Batch, following: Batch | None = None) -> None:
        """Train on a batch while the lookups of the following one are exchanged.

        A derivative that is not finite raises a RuntimeError, because the benchmark would be meaningless.
        """
        samples = curvature_samples(self.config, self._step, batch.share.samples)
        found = train_step(self.state, batch, curvature_samples=samples, lr_scale=1.0, following=following)
        if not found.finite:
            raise RuntimeError(f"step {self._step} of {self.config.optimizer} is not finite")
        self._step += 1


def cycle(config: RunConfig) -> int:
    """Return the number of steps in a cycle that includes everything done only every few steps."""
    return config.curvature_every * getattr(config.optim.dense, "refresh", 1)


def run_config(name: str, batch: int, **changes: object) -> RunConfig:
    """Return the settings of a preset on generated data, without a baseline."""
    values = merged(
        optimizer_preset(name), {"dataset": "synthetic", "optimizer": name, "batch_size": batch, **changes}
    )
    return from_dict({**values, "baseline": "none"})
