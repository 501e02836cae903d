"""Full-scale rehearsal with all three commands, on generated data of Criteo's size and table sizes.

    python -m benchmarks.rehearsal [--folder F] [--rows N] [--min-count M] [--until STAGE] [--json] [-- FLAGS OF TRAIN]

`prepare` reads text from a pipe that this program fills, so the text needs no disk space. `train` runs one epoch of the
Kaggle architecture, and `evaluate` scores the test samples and compares them with the true probabilities. The folder has a
JSON file for each finished stage. Finished stages are not repeated, and interrupted ones start again. Seconds cover a
stage's process from start to end. Memory is the peak with mapped pages of prepared data, which the operating system may
reclaim (`peak_rss_mib`), and without them (`peak_private_mib`). During preparation, the generator uses part of the
machine.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil

from benchmarks.support.printing import print_rows
from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.criteo.text import format_rows
from dlrm_adahessian.data.split import split_rows
from dlrm_adahessian.data.synthetic.generator import row_blocks
from dlrm_adahessian.data.synthetic.marginals import ROWS
from dlrm_adahessian.metrics.binary import binary_metrics
from dlrm_adahessian.runs.sealed import read_json, write_json

_GENERATOR = SyntheticConfig(cardinality_scale=1.0)
_STAGES = ("prepare", "train", "evaluate")
_WATCH_SECONDS = 0.1  # between samples of a process's memory


class Rehearsal:
    """A folder of stages. Each stage is a method that returns its measurements."""

    def __init__(self, folder: Path, rows: int, min_count: int, flags: list[str]) -> None:
        self._folder, self._rows, self._min_count, self._flags = folder, rows, min_count, flags
        self._run = folder / "run"

    def stages(self, until: str) -> Iterator[dict[str, Any]]:
        """Yield the results of the stages up to `until`, and run those that are not finished."""
        for name in _STAGES[: _STAGES.index(until) + 1]:
            path = self._folder / f"{name}.json"
            if not path.exists():
                write_json(path, {"stage": name, **getattr(self, name)()})
            yield self._read(name)

    def prepare(self) -> dict[str, Any]:
        """Generate samples into the standard input of `prepare`, and keep the true probabilities of the test samples."""
        flags = [
            "--dataset",
            "criteo",
            "--data-path",
            "-",
            "--data.min-count",
            str(self._min_count),
            "--json",
        ]
        cache = ["--data.cache-dir", str(self._folder / "cache")]
        bayes: dict[str, float | None] = {}

        def feed(pipe: IO[bytes]) -> None:
            bayes.update(write_rows(pipe, self._rows))

        out, measured = _run(["prepare", *flags, *cache], feed)
        made = json.loads(out)
        return {
            **_rate(self._rows, measured),
            "min_count": self._min_count,
            "table_rows": made["table_rows"],
            "folder": made["folder"],
            "bayes": bayes,
        }

    def train(self) -> dict[str, Any]:
        """Train one epoch. `model_mib` covers weights and optimizer state, and the step time is the median."""
        rows = self._read("prepare")["folder"]
        shutil.rmtree(self._run, ignore_errors=True)
        flags = ["--dataset", "criteo", "--data-path", rows, "--out", str(self._run), "--batch-size", "2048"]
        _, measured = _run(["train", *flags, "--baseline", "none", "--checkpoint-every", "0", *self._flags])
        summary = json.loads((self._run / "summary.json").read_bytes())
        trained = summary["train"]
        return {
            **_rate(trained["samples"], measured),
            "flags": self._flags,
            "optimizer": summary["optimizer"],
            "batch_size": summary["batch_size"],
            "samples_per_second_in_steps": trained["samples_per_second"],
            "step_ms_median": trained["step_ms_median"],
            "model_mib": trained["model_mib"],
            "progressive_auc": summary["progressive"]["auc"],
            "progressive_logloss": summary["progressive"]["logloss"],
        }

    def evaluate(self) -> dict[str, Any]:
        """Score the test samples. The Bayes metrics are those of the true probabilities of their labels."""
        prepared = self._read("prepare")
        scores = str(self._folder / "predictions.parquet")
        flags = ["--data-path", prepared["folder"], "--part", "test", "--out", scores, "--json"]
        out, measured = _run(["evaluate", "--run", str(self._run), *flags])
        found, bayes = json.loads(out), prepared["bayes"]
        if (found["rows"], found["base_rate"]) != (bayes["rows"], bayes["base_rate"]):
            raise RuntimeError(f"the scored samples differ from the generated ones: {found} and {bayes}")
        figures = {name: found[name] for name in ("auc", "logloss")}
        return {**_rate(found["rows"], measured), **figures, **{f"bayes_{k}": bayes[k] for k in figures}}

    def _read(self, name: str) -> dict[str, Any]:
        found = read_json(self._folder / f"{name}.json")
        asked = {
            "prepare": {"rows": self._rows, "min_count": self._min_count},
            "train": {"flags": self._flags},
        }
        if not isinstance(found, dict) or any(found[k] != v for k, v in asked.get(name, {}).items()):
            sys.exit(
                f"{self._folder}/{name}.json must be of {asked[name]} but is not. Choose another --folder, or delete that "
                "file and those of the later stages."
            )
        return found


def write_rows(pipe: IO[bytes], rows: int) -> dict[str, float | None]:
    """Write generated samples as text, and return the metrics of the true probabilities of the test samples."""
    test, first = split_rows(rows).test, 0
    labels, truth = [], []
    for block in row_blocks(_GENERATOR, rows):
        pipe.write(format_rows(block))
        part = slice(max(test.start - first, 0), max(test.stop - first, 0))
        labels.append(block.labels[part])
        truth.append(block.probability[part])
        first += len(block)
    return binary_metrics(np.concatenate(labels), np.concatenate(truth)).asdict()


def _run(arguments: list[str], feed: Any = None) -> tuple[bytes, dict[str, float]]:
    """Run a command of the program in a separate process.

    Args:
        arguments: arguments of `python -m dlrm_adahessian`.
        feed: called with the standard input, if the command reads it.

    Returns:
        Its standard output, and its seconds, CPU seconds, and peak memory.
    """
    began = time.perf_counter()
    command = [sys.executable, "-m", "dlrm_adahessian", *arguments]
    stdin = subprocess.PIPE if feed else subprocess.DEVNULL
    with (
        ThreadPoolExecutor(1) as pool,
        subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE) as process,
    ):
        private = pool.submit(_peak_private, process.pid)
        if feed:
            with suppress(BrokenPipeError), process.stdin:  # the exit code tells why it stopped reading
                feed(process.stdin)
        out = process.stdout.read()
        # The kernel's peak includes the 300 MiB of this process at the fork, which is less than any stage at full scale.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return out, {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_mib": usage.ru_maxrss / 1024,
        "peak_private_mib": private.result() / 2**20,
    }


def _peak_private(pid: int) -> int:
    """Watch a process until it ends, and return the peak of resident bytes that belong to no mapped file."""
    peak = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.status() != psutil.STATUS_ZOMBIE:
            memory = process.memory_info()
            peak = max(peak, memory.rss - memory.shared)
            time.sleep(_WATCH_SECONDS)
    return peak


def _rate(rows: int, measured: dict[str, float]) -> dict[str, float]:
    return {"rows": rows, **measured, "rows_per_second": rows / measured["seconds"]}


def main() -> None:
    """Print a row for each stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/rehearsal"), help="output folder, 17 GB at full size"
    )
    parser.add_argument("--rows", type=int, default=ROWS, help="generated samples")
    parser.add_argument("--min-count", type=int, default=1, help="rarer tokens share one embedding row")
    parser.add_argument("--until", choices=_STAGES, default=_STAGES[-1], help="last stage to run")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("flags", nargs="*", metavar="FLAGS", help="additional flags of train, after --")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rehearsal = Rehearsal(args.folder, args.rows, args.min_count, args.flags)
    print_rows(list(rehearsal.stages(args.until)), as_json=args.json)


if __name__ == "__main__":
    main()
