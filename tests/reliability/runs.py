"""The job under attack, a small run on generated data with frequent checkpoints, and comparisons of its results."""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import psutil

from dlrm_adahessian import cli
from dlrm_adahessian.checkpoint.reader import latest
from dlrm_adahessian.runs.sealed import read_json
from tests.processes import worlds
from tests.processes.program import Command

ROOT = Path(__file__).resolve().parents[2]
_MARK = "RELIABILITY_RUN"  # environment variable that identifies all processes of a launcher
_CLOCK = {"seconds", "samples_per_second", "step_ms_median", "waited_share", "resumed_from_step"}
# Number of bytes and digest of lines that contain times.
_CLOCK_STATE = {"timing", "metrics_bytes", "metrics_xxh3_128"}
_BEGUN = re.compile(r"resumed from step (\d+)|starting from the beginning")

JOB = [
    "--dataset", "synthetic", "--rows", "7000", "--batch-size", "64", "--epochs", "3", "--baseline", "none",
    "--model.bottom", "16", "--model.top", "16", "--model.embedding-dim", "4", "--data.train-rows", "2560",
    "--data.min-count", "20", "--checkpoint-every", "8", "--log-every", "1", "--curvature", "exact",
]  # fmt: skip
"""120 steps of a few milliseconds, with 15 checkpoints."""


def job(out: Path, *more: object) -> list[str]:
    """Return the flags of the job that writes to `out`. Jobs in the same parent folder share prepared data."""
    return [*JOB, "--out", str(out), "--data.cache-dir", str(out.parent / "cache"), *map(str, more)]


class Single(Command):
    """The job in a single process."""

    def __init__(self, flags: list[str], log: Path) -> None:
        """Start the job. Output goes to `log`."""
        super().__init__("train", *flags, log=log)


def torchrun(ranks: int, restarts: int = 0, script: Path = ROOT / "train.py") -> list[str]:
    """Return the command, without its flags, that runs a script on several ranks under torchrun."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(ranks), "--max-restarts", str(restarts), str(script)),
    ]


class Launched:
    """A command and all its descendants."""

    def __init__(self, command: list[str], log: Path) -> None:
        """Start the command. All output goes to `log`."""
        self._log, self._mark = log, uuid.uuid4().hex
        environment = {**os.environ, _MARK: self._mark, "PYTHONPATH": str(ROOT)}
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)

    def alive(self) -> bool:
        """Whether the launcher is running."""
        return self.process.poll() is None

    def wait(self, seconds: float = 120) -> int | None:
        """Return the launcher's exit code, or None if it does not end in time and is killed."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            return None

    def end(self) -> None:
        """Kill all processes."""
        for process in self.left():
            process.kill()
        self.process.wait()

    def printed(self) -> str:
        """Return all output so far."""
        return self._log.read_text(errors="replace")

    def left(self) -> list[psutil.Process]:
        """Return all descendants, even if their parents have ended."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def rank(self, number: int) -> psutil.Process | None:
        """Return the process of a rank, or None if it does not exist yet."""
        for process in self.left():
            try:
                if process.environ().get("RANK") == str(number):
                    return process
            except psutil.NoSuchProcess:
                continue
        return None


def beginnings(printed: str) -> list[int]:
    """Return the first step after each start."""
    return [int(found[1] or 0) for found in _BEGUN.finditer(printed)]


def last_step(run: Path) -> int:
    """Return the last step in metrics.jsonl, or 0 if there is none."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return 0
    whole = path.read_bytes().rpartition(b"\n")[0]
    return int(json.loads(whole.rpartition(b"\n")[2])["step"]) if whole else 0


def committed(run: Path) -> int:
    """Return the step of the checkpoint in `latest`, or 0 if there is none."""
    path = latest(run / "checkpoints")
    return int(path.name.split("-")[1]) if path else 0


def wait_until(true: Callable[[], Any], alive: Callable[[], bool], seconds: float = 60) -> bool:
    """Wait for a condition. Return whether it became true before the process ended or the time was over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        if not alive():
            return bool(true())
        time.sleep(0.005)
    return False


def uninterrupted(folder: Path, ranks: int) -> Path:
    """Run the job without disturbance."""
    out = folder / f"whole-{ranks}"
    log = folder / f"whole-{ranks}.log"
    codes = worlds.wait(worlds.start(ranks, cli.main, ["train", *job(out)], log=log))
    if any(codes):
        raise RuntimeError(f"the undisturbed job failed: {worlds.printed(log, 0)[-2000:]}")
    return out


def differences(run: Path, other: Path, *, ignored: Collection[str] = ()) -> list[str]:
    """Return the names of bitwise differences between two finished runs, apart from times.

    Args:
        run: the first run.
        other: the second run.
        ignored: names of counters that may differ. Lines of metrics.jsonl with such a counter may be missing.
    """
    return [name for name, a, b in _pairs(run, other, ignored) if a != b]


def _pairs(run: Path, other: Path, ignored: Collection[str]) -> Iterator[tuple[str, object, object]]:
    mine, others = latest(run / "checkpoints"), latest(other / "checkpoints")
    if mine is None or others is None:
        yield "checkpoint", mine, others
        return
    for name in sorted({path.name for folder in (mine, others) for path in folder.glob("*.safetensors")}):
        yield f"checkpoint/{name}", _bytes(mine / name), _bytes(others / name)
    yield "checkpoint/state.json", _state(mine, ignored), _state(others, ignored)
    for name in ("progressive.f32", "test.f32"):
        yield name, _bytes(run / name), _bytes(other / name)
    yield (
        "summary.json",
        _without(_CLOCK | {*ignored}, read_json(run / "summary.json")),
        _without(_CLOCK | {*ignored}, read_json(other / "summary.json")),
    )
    yield "metrics.jsonl", _metrics(run, ignored), _metrics(other, ignored)


def without_clock(summary: object) -> object:
    """Return a summary without times and without the step of the resume."""
    return _without(_CLOCK, summary)


def _without(names: Collection[str], value: object) -> object:
    """Return a JSON document without some keys, at any depth."""
    if isinstance(value, dict):
        return {k: _without(names, v) for k, v in value.items() if k not in names}
    return value


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _state(folder: Path, ignored: Collection[str]) -> object:
    return _without(_CLOCK_STATE | {*ignored}, read_json(folder / "state.json"))


def _metrics(run: Path, ignored: Collection[str]) -> object:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [_without({"timing"}, line) for line in lines if not line.keys() & {*ignored}]


def half_written(run: Path) -> set[Path]:
    """Return the folders of incomplete checkpoints, including those of a killed process."""
    return set((run / "checkpoints").glob(".step-*[0-9].tmp"))
