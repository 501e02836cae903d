"""A process that trains one run after another."""

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import torch

from dlrm_adahessian.compare.curvature import curvature_by_band
from dlrm_adahessian.config import from_dict
from dlrm_adahessian.data.prepared.folder import PreparedData, open_prepared
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import DivergedError
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.runs.sealed import write_json
from dlrm_adahessian.runtime.device import find_device
from dlrm_adahessian.runtime.process import keep_freed_memory
from dlrm_adahessian.train.run_cache import find_or_fit, run_path

CURVATURE = "curvature.json"
"""What `curvature_by_band` found, in the run directory."""
_data: PreparedData | None = None  # of this process; set once, before its first run


def begin(folder: Path, threads: int, parent: int) -> None:
    """Prepare a process for its runs.

    Args:
        folder: prepared rows, verified here.
        threads: of each run.
        parent: process that this one ends with; not asked for here, where it may be gone already.
    """
    global _data
    logging.getLogger("dlrm_adahessian").setLevel(logging.ERROR)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    keep_freed_memory()
    _data = open_prepared(folder)


def train(values: dict[str, Any], root: Path, *, diagnose: bool) -> None:
    """Train a run unless it is finished or known to diverge.

    Args:
        values: its configuration.
        root: holds a folder per run.
        diagnose: measure the curvature of the trained model.

    Raises:
        RuntimeError: the process was not begun.
    """
    if _data is None:
        raise RuntimeError("a worker must be begun before its first run; call begin")
    config = from_dict(values)
    device = find_device(config.device)
    with init_process_group(device, config.timeout):
        run = RunDirectory(run_path(config, _data, root, device))
        if run.diverged:
            return
        try:
            find_or_fit(config, _data, root, device, title=None)
            if diagnose and not (run.path / CURVATURE).exists():
                write_json(run.path / CURVATURE, curvature_by_band(config, _data, run, device))
        except DivergedError as error:
            run.write_divergence(str(error))
    # Predictions and metrics are all that a comparison reads; the tables of every run would fill the disk.
    run.drop_checkpoints()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a killed comparison leaves nothing behind that trains on."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
