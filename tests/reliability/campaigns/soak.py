"""Watch a long run of tiny steps: its memory, open files, and files in the run folder must not grow."""

import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import Single, last_step
from tests.reliability.watch import looks, resident, thinned

_WATCH = 1.0  # seconds
_SAMPLES, _BATCH = 800, 4
_STEPS = _SAMPLES // _BATCH  # per epoch
_CHECKPOINTS = 100  # steps between checkpoints
_SETTLED = 3 * _CHECKPOINTS  # steps until the number of checkpoints is constant, including the best one
_JOB = [
    "--dataset", "synthetic", "--rows", "1400", "--baseline", "none", "--batch-size", str(_BATCH),
    "--data.train-rows", str(_SAMPLES), "--data.synthetic.cardinality-scale", "1e-4", "--data.min-count", "20",
    "--model.bottom", "4", "--model.top", "4", "--model.embedding-dim", "4", "--log-every", "10",
    "--checkpoint-every", str(_CHECKPOINTS), "--eval-every", str(2 * _CHECKPOINTS),
]  # fmt: skip
# The clock keeps the last 100,000 step times, 32 bytes each, and malloc keeps what the largest step needed.
_NOISE = 8 << 20  # bytes
_UNDER_WAY = 8  # additional files of a checkpoint in progress


class Look(NamedTuple):
    """One sample of the process."""

    second: float
    step: int
    memory: int  # resident bytes without mapped files
    descriptors: int
    files: int  # in the run folder


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Train for a given number of steps."""
    with counting(32, "steps of one run: memory, open files, and files of the run folder do not grow") as (
        outcome,
        show,
    ):
        out = folder / "run"
        flags = [*_JOB, "--epochs", str(-(-times // _STEPS)), "--out", str(out)]
        single = Single([*flags, "--data.cache-dir", str(folder / "cache")], folder / "soak")
        seen = list(_seen(single.pid, out))
        if single.wait() != 0:
            raise RuntimeError(f"the run failed: {single.printed()[-2000:]}")
        outcome.times = last_step(out)
        for what in grown(seen):
            outcome.miss(what)
        outcome.figures["samples"] = [
            (round(look.second, 1), look.step, look.memory / 2**20, look.descriptors, look.files)
            for look in thinned(seen)
        ]
        show()
    yield outcome


def grown(seen: Sequence[Look]) -> Iterator[str]:
    """Yield what grew from the second to the last quarter of the samples, beyond noise. A leak grows until the end."""
    quarter = len(seen) // 4
    early, late = seen[quarter : 2 * quarter], seen[-quarter:]
    if not quarter:
        yield f"{len(seen)} samples of the run are too few"
        return
    for name, noise in (("memory", _NOISE), ("descriptors", _UNDER_WAY), ("files", _UNDER_WAY)):
        before, after = (statistics.median(getattr(look, name) for look in part) for part in (early, late))
        if after > before + noise:
            yield f"{name} grew from {before:,.0f} to {after:,.0f}"


def _seen(pid: int, out: Path) -> Iterator[Look]:
    """Sample a run from the moment that it has its maximum number of checkpoints until its end."""
    with suppress(psutil.NoSuchProcess):  # it ends during a sample
        for second, process in looks(pid, _WATCH):
            if (step := last_step(out)) >= _SETTLED:
                files = sum(len(names) for _, _, names in os.walk(out))
                yield Look(second, step, resident(process), process.num_fds(), files)
