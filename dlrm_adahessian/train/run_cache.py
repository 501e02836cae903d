"""Finished runs, found again by what determines their results, so that nothing is trained twice."""

import logging
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path

import xxhash

from dlrm_adahessian.config import RunConfig, asdict
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.runs.run_directory import RunDirectory, packages
from dlrm_adahessian.runs.sealed import exclusive_lock, fingerprint
from dlrm_adahessian.runtime.device import find_device
from dlrm_adahessian.train.loop import finished, fit
from dlrm_adahessian.train.results import RunResult

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parents[1]
# What shapes, scores or reports results, but does not train: a change there keeps the runs.
_AFTER_TRAINING = ("cli.py", "commands", "evaluation", "serving", "compare", "report", "statistics")


def run_path(config: RunConfig, data: PreparedData, root: Path) -> Path:
    """Name the folder of a run after its optimizer and after all that determines its results.

    Args:
        config: of the run.
        data: its rows.
        root: holds a folder per run.

    Returns:
        The folder, which need not exist.
    """
    # A GPU rounds differently, and is compared by its speed too: a run on another kind of device is another run. So do
    # several ranks.
    machine = [find_device(config.device).type, ranks.world_size()]
    key = fingerprint([config.fingerprint(data.fingerprint), *machine, _program()])
    return root / f"{config.optimizer}-{key}"


def find_or_fit(config: RunConfig, data: PreparedData, root: Path, *, title: str | None) -> RunResult | None:
    """Return a finished run, continue one that was cut off, or train it from the beginning; all ranks call it.

    Args:
        config: of the run.
        data: its rows.
        root: holds a folder per run.
        title: of the progress bar; None shows none.

    Returns:
        Its metrics and predictions on the first rank, None on the others; `fit` raises what a run raises.
    """
    run = RunDirectory(run_path(config, data, root))
    found: RunResult | None = None
    with ExitStack() as stack:

        def look() -> str:
            """Say what is to be done: "take" a finished run, "resume" or "begin" one."""
            nonlocal found
            # Processes side by side want the same run: one trains it, the others wait.
            stack.enter_context(exclusive_lock(run.path.with_suffix(".lock"), wait=True))
            if (found := finished(config, data, run)) is not None:
                logger.info("reused the finished run in %s", run.path)
                return "take"
            todo = "resume" if run.metrics.exists() else "begin"
            stack.enter_context(RunDirectory.create(run.path, resume=True))
            run.write_config(asdict(config))
            return todo

        todo = ranks.first_does(look, patient=True)
        if todo == "take":
            return found
        fitted = fit(replace(config, resume=todo == "resume"), data, run, title=title)
        if fitted is not None:
            run.write_summary(fitted.summary.asdict())
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
