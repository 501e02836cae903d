# pyright: basic
"""Measure the duration of a training step on a machine that trains nothing else.

Final runs of a comparison with `--parallel` share the cores, and slow each other down by different amounts. Step times
measured there can rank optimizers wrongly, so each entrant repeats its first steps alone, for the measurement only.
"""

import time

import torch

from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.data.loader import on_device, with_following
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.optim.config import lr_scale
from dlrm_adahessian.train.progress import StepClock
from dlrm_adahessian.train.samples import training_loader
from dlrm_adahessian.train.state import TrainState
from dlrm_adahessian.train.step import curvature_samples, train_step

_WARM_UP, _STEPS = 64, 320  # 320 is five windows of 64 steps, over which `StepClock` takes means


def step_ms(config: RunConfig, data: PreparedData, device: torch.device) -> float:
    """Train the first steps of a run, and time them. Requires a process group.

    Args:
        config: configuration of the run.
        data: training samples.
        device: device to compute on.

    Returns:
        Step time in milliseconds, the median of `StepClock`: over 320 steps after 64 warm-up steps, or over the last four
        fifths of a shorter epoch.
    """
    state = TrainState(
        config,
        data.preprocessing.schema,
        data.preprocessing.num_rows,
        device,
        values_per_bag=data.values_per_bag,
    )
    loader = training_loader(config, data, pinned=device.type == "cuda")
    total, schedule = loader.batches_per_epoch * config.epochs, config.optim.schedule
    last = min(_WARM_UP + _STEPS, loader.batches_per_epoch)
    warm_up = min(_WARM_UP, last // 5)
    clock = StepClock()
    batches = on_device(loader.batches(0), device)
    for step, (batch, following) in enumerate(with_following(batches), 1):
        began = time.perf_counter()
        found = train_step(
            state,
            batch,
            curvature_samples=curvature_samples(config, step - 1, batch.share.samples),
            lr_scale=lr_scale(step, total, schedule, "dense"),
            rows_lr_scale=lr_scale(step, total, schedule, "rows"),
            following=following,
        )
        if step > warm_up:
            clock.add(time.perf_counter() - began, len(found.probability))
        if step == last:
            break
    return clock.summary()["step_ms_median"]
