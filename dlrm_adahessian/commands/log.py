# pyright: basic
"""`log`: copies what a run writes, once or while it trains, to MLflow or Weights & Biases."""

import logging
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from dlrm_adahessian.commands.arguments import parsed
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runs.finished import DIVERGED, SUMMARY
from dlrm_adahessian.runs.logs import read_metrics, scalars
from dlrm_adahessian.runs.run_directory import LOCK, RunDirectory
from dlrm_adahessian.runs.sealed import locked_by_another
from dlrm_adahessian.runtime.settings import settings
from dlrm_adahessian.runtime.terminal import say

logger = logging.getLogger(__name__)

Write = Callable[[Mapping[str, float], int], object]
"""Takes figures by name, and their step."""
_POLL = 2.0  # seconds between two looks at metrics.jsonl
_SILENT = 30.0  # seconds; a run that is resumed takes its lock again within them


@settings
class LogConfig:
    """Copy settings and curves of a run to MLflow or Weights & Biases, as configured there; see docs/logging.md."""

    run: Path
    """Run directory of a training job, finished or not."""
    to: Literal["mlflow", "wandb"]
    """Program that takes the figures; wandb keeps them on this machine unless WANDB_MODE says otherwise."""
    follow: bool = False
    """Go on until the run has finished or stopped."""


def log(arguments: Sequence[str]) -> int:
    """Copy the curves of a run to MLflow or Weights & Biases."""
    args = parsed(LogConfig, arguments, prog="python -m dlrm_adahessian log")
    run, copied = RunDirectory(args.run), 0
    begin = {"mlflow": _mlflow, "wandb": _wandb}[args.to]
    with begin(args.run.absolute().name, run.read_config()) as write:
        for record in _records(run, follow=args.follow):
            write(scalars(record), int(record["step"]))
            copied += 1
    say(f"{copied:,} lines of {run.metrics} copied to {args.to}")
    return 0


def _records(run: RunDirectory, *, follow: bool) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of metrics.jsonl, and with `follow` those that come until the run has finished or stopped."""
    seen, ended, alive = 0, False, time.monotonic()
    while not ended:
        ended = not follow or any((run.path / last).exists() for last in (SUMMARY, DIVERGED))
        records = read_metrics(run.metrics)
        yield from records[seen:]
        # A run on another machine writes lines, though its lock is not seen here.
        if len(records) > seen or locked_by_another(run.path / LOCK):
            alive = time.monotonic()
        seen = max(seen, len(records))  # a resumed run drops lines, and writes the same ones again
        if not ended and time.monotonic() - alive >= _SILENT:
            logger.warning("%s stopped before it finished; continue it with train --resume", run.path)
            ended = True
        if not ended:
            time.sleep(_POLL)


@contextmanager
def _mlflow(name: str, config: Mapping[str, Any]) -> Generator[Write]:
    mlflow = _package("mlflow")
    with mlflow.start_run(run_name=name):
        mlflow.log_params(_flat(config))
        yield lambda figures, step: mlflow.log_metrics(figures, step=step)


@contextmanager
def _wandb(name: str, config: Mapping[str, Any]) -> Generator[Write]:
    mode = os.environ.get("WANDB_MODE", "offline")
    with _package("wandb").init(project="dlrm-adahessian", name=name, config=config, mode=mode) as run:
        yield lambda figures, step: run.log(figures, step=step)


def _package(name: str) -> Any:
    try:
        package = import_module(name)
        # wandb writes to a folder of its own name, which Python takes for a package.
        if getattr(package, "__file__", None) is None:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return package
    except ImportError as error:
        raise UsageError(
            f"log --to {name} needs the package {name}, and importing it failed with {error}; install it with "
            f"pip install -e '.[{name}]'"
        ) from error


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested settings by their flags, as "optim.dense.lr"."""
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
    return flat
