"""Finished runs, found again by what determines their results, so that nothing is trained twice."""

import logging
from dataclasses import replace
from functools import cache
from pathlib import Path

import xxhash

from dlrm_adahessian.artifacts import RunDirectory, packages
from dlrm_adahessian.config import RunConfig, asdict
from dlrm_adahessian.data.prepared import PreparedData
from dlrm_adahessian.device import find_device
from dlrm_adahessian.storage import exclusive_lock, fingerprint
from dlrm_adahessian.trainer import Fitted, finished, fit

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parent
# What shapes, scores or reports results, but does not train: a change there keeps the runs.
_AFTER_TRAINING = (
    "cli.py",
    "job.py",
    "tables.py",
    "doctor.py",
    "evaluate.py",
    "compare",
    "report",
    "statistics",
)


def run_path(config: RunConfig, data: PreparedData, root: Path) -> Path:
    """Name the folder of a run after its optimizer and after all that determines its results.

    Args:
        config: of the run.
        data: its rows.
        root: holds a folder per run.

    Returns:
        The folder, which need not exist.
    """
    # A GPU rounds differently, and is compared by its speed too: a run on another kind of device is another run.
    device = find_device(config.device).type
    key = fingerprint([config.fingerprint(data.fingerprint), device, _program()])
    return root / f"{config.optimizer}-{key}"


def find_or_fit(config: RunConfig, data: PreparedData, root: Path, *, title: str | None) -> Fitted:
    """Return a finished run, continue one that was cut off, or train it from the beginning.

    Args:
        config: of the run.
        data: its rows.
        root: holds a folder per run.
        title: of the progress bar; None shows none.

    Returns:
        Its metrics and predictions; `fit` raises what a run raises.
    """
    run = RunDirectory(run_path(config, data, root))
    # Processes side by side want the same run: one trains it, the others wait.
    with exclusive_lock(run.path.with_suffix(".lock"), wait=True):
        if (found := finished(config, data, run)) is not None:
            logger.info("reused the finished run in %s", run.path)
            return found
        config = replace(config, resume=run.metrics.exists())
        with RunDirectory.create(run.path, resume=True) as run:
            run.write_config(asdict(config))
            fitted = fit(config, data, run, title=title)
            run.write_summary(fitted.summary)
            return fitted


@cache
def _program() -> str:
    """Identify the code that trains: its sources and the versions below it, as this process found them first."""
    sources = [
        path
        for path in sorted(_PACKAGE.rglob("*.py"))
        if path.relative_to(_PACKAGE).parts[0] not in _AFTER_TRAINING
    ]
    return fingerprint([packages(), [xxhash.xxh3_64_hexdigest(path.read_bytes()) for path in sources]])
