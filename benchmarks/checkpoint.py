"""Measure how much checkpoints slow training, in the background and synchronously.

    python -m benchmarks.checkpoint [--json] [--rounds N] [--cardinality-scale S ...] [--folder DIR]

The Kaggle model trains with hybrid on random batches of 2048, with the table sizes of Criteo Kaggle times a scale. A round
has three parts: steps alone, then steps during a background checkpoint until it is committed and the replaced one removed,
then the same number of steps alone. `background_loss` is the time of the middle part, including snapshot and commit, over
that of the steps alone (mean of before and after), minus 1. `lost_seconds` is the same as a difference, which does not
shrink if a slow disk prolongs the checkpoint. `synchronous_seconds` is the duration of a synchronous checkpoint, and
`synchronous_loss` its cost over the same number of steps. All values are medians over rounds, after one round that allocates
memory. Pass a folder on the disk to measure.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from benchmarks.support.kaggle import batches, table_sizes
from benchmarks.support.printing import print_rows
from benchmarks.support.training import Steps, run_config
from dlrm_adahessian.checkpoint.background import IDLE, BackgroundSaver
from dlrm_adahessian.data.loader import Batch
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.runtime.process import keep_freed_memory

_BATCH = 2048
_SCALES = (0.3,)  # factors for the published cardinalities
_DRAWN = 64  # batches, drawn once and repeated
_KEEP = 2


class _Rounds:
    """Train and save checkpoints. Steps are counted in complete cycles of the curvature schedule."""

    def __init__(self, scale: float, folder: Path, saver: BackgroundSaver) -> None:
        config = run_config("hybrid", _BATCH)
        self.training = Steps(config, table_sizes(scale))
        self._cycle, self._folder, self._saver = config.curvature_every, folder, saver
        drawn = batches(_BATCH, scale, np.random.default_rng(0))
        self._batches = _repeated([next(drawn) for _ in range(_DRAWN)])
        self._saved = 0

    def __call__(self) -> dict[str, float]:
        self._steps(self._cycle)
        began = time.perf_counter()
        self._save(self._saver)
        snapshot = time.perf_counter() - began
        written, commit, steps = self._steps_until_removed()
        background = time.perf_counter() - began
        after = self._steps(steps)
        began = time.perf_counter()
        self._save(None)
        synchronous = time.perf_counter() - began
        self._steps(self._cycle)
        alone = (after + self._steps(steps)) / 2
        return {
            "steps": steps,
            "step_ms": 1e3 * alone / steps,
            "background_loss": background / alone - 1,
            "lost_seconds": background - alone,
            "snapshot_seconds": snapshot,
            "written_seconds": written,
            "commit_seconds": commit,
            "synchronous_seconds": synchronous,
            "synchronous_loss": synchronous / alone,
        }

    def warm_up(self) -> None:
        """Train on each batch once."""
        self._steps(_DRAWN)

    def _steps_until_removed(self) -> tuple[float, float, int]:
        """Train until the thread is idle. Return the time when all was written, the seconds of the commit, and the steps."""
        began, steps = time.perf_counter(), 0
        written = commit = 0.0
        while True:
            for _ in range(self._cycle):
                self._steps(1)
                steps += 1
                if (status := self._saver.status()) == IDLE and not commit:
                    written = time.perf_counter() - began
                    self._saver.proceed(status)
                    commit = time.perf_counter() - began - written
            if commit and self._saver.status() == IDLE:
                return written, commit, steps

    def _steps(self, number: int) -> float:
        began = time.perf_counter()
        for _ in range(number):
            self.training(next(self._batches))
        return time.perf_counter() - began

    def _save(self, saver: BackgroundSaver | None) -> None:
        self._saved += 1
        self.training.state.save(self._folder, self._saved, {}, "benchmark", keep=_KEEP, background=saver)


def measure(scale: float, rounds: int, folder: Path) -> dict[str, float]:
    """Return the medians for one scale of the tables."""
    process = psutil.Process()
    with BackgroundSaver() as saver:
        run = _Rounds(scale, folder, saver)
        run.warm_up()
        before = process.memory_info().rss
        run()
        extra = process.memory_info().rss - before
        found = [run() for _ in range(rounds)]
        copied = saver.memory.num_bytes()
    medians = {name: statistics.median(each[name] for each in found) for name in found[0]}
    return {
        "table_rows": float(sum(table_sizes(scale))),
        "checkpoint_bytes": float(copied),
        "extra_memory_bytes": float(extra),
        **medians,
        "background_mb_per_second": copied / medians["written_seconds"] / 1e6,
        "synchronous_mb_per_second": copied / medians["synchronous_seconds"] / 1e6,
        "rounds": float(rounds),
    }


def _repeated(drawn: list[Batch]) -> Iterator[Batch]:
    while True:
        yield from drawn


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds per scale of the tables")
    parser.add_argument("--cardinality-scale", type=float, nargs="+", default=_SCALES)
    parser.add_argument(
        "--folder", type=Path, help="folder on the disk to measure (default: temporary folder)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args()
    keep_freed_memory()  # as in training
    found: list[dict[str, float]] = []
    with init_process_group():
        for scale in args.cardinality_scale:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                found.append(measure(scale, args.rounds, Path(folder)))
    print_rows(found, as_json=args.json)


if __name__ == "__main__":
    main()
