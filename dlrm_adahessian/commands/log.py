# pyright: basic
"""Implement `log`: copy the metrics of a run to MLflow or Weights & Biases, once or while it trains."""

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
"""Function that takes metrics by name, and their step."""
_POLL = 2.0  # seconds between two reads of metrics.jsonl
_SILENT = 30.0  # seconds; a resumed run takes its lock again within this time


@settings
class LogConfig:
    """Copy the settings and curves of a run to MLflow or Weights & Biases (docs/logging.md)."""

    run: Path
    """Run directory, finished or in training."""
    to: Literal["mlflow", "wandb"]
    """Destination; wandb stays offline unless WANDB_MODE is set."""
    follow: bool = False
    """Keep copying until the run finishes or stops."""


def log(arguments: Sequence[str]) -> int:
    """Copy the curves of a run to MLflow or Weights & Biases."""
    args = parsed(LogConfig, arguments, prog="python -m dlrm_adahessian log")
    run, copied = RunDirectory(args.run), 0
    begin = {"mlflow": _mlflow, "wandb": _wandb}[args.to]
    with begin(args.run.absolute().name, run.read_config()) as write:
        for record in _records(run, follow=args.follow):
            write(scalars(record), int(record["step"]))
            copied += 1
    say(f"Copied {copied:,} lines of {run.metrics} to {args.to}.")
    return 0


def _records(run: RunDirectory, *, follow: bool) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of metrics.jsonl. With `follow`, also yield new lines until the run finishes or stops."""
    seen, ended, alive = 0, False, time.monotonic()
    while not ended:
        ended = not follow or any((run.path / last).exists() for last in (SUMMARY, DIVERGED))
        records = read_metrics(run.metrics)
        yield from records[seen:]
        # The lock of a run on another machine is not visible here, but its new lines are.
        if len(records) > seen or locked_by_another(run.path / LOCK):
            alive = time.monotonic()
        seen = max(seen, len(records))  # a resumed run drops lines, and writes them again
        if not ended and time.monotonic() - alive >= _SILENT:
            logger.warning("%s stopped before it finished. Continue it with train --resume.", run.path)
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
        # wandb writes to a folder named wandb, which Python would import as a namespace package.
        if getattr(package, "__file__", None) is None:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return package
    except ImportError as error:
        raise UsageError(
            f"log --to {name} needs the package {name}, but importing it failed: {error}. Install it with "
            f"pip install -e '.[{name}]'."
        ) from error


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Flatten nested settings to names such as "optim.dense.lr"."""
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
    return flat
