"""Send SIGKILL at random moments of training and checkpointing, then resume."""

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import (
    Single,
    beginnings,
    committed,
    differences,
    half_written,
    job,
    last_step,
    uninterrupted,
    wait_until,
)

_OFTEN = 2  # steps between checkpoints, so that many kills interrupt one
_SPAN = 1.5  # seconds after the first step in which the process is killed


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Kill the job repeatedly. Each completed run must equal the undisturbed one."""
    whole = uninterrupted(folder, 1)
    rng = random.Random(times)
    with counting(1, "SIGKILL of a process at a random moment, then --resume", times) as (outcome, show):
        outcome.figures = {"in_checkpointing": 0, "runs_compared": 0}
        number = 0
        while outcome.times < times:
            out = folder / f"run-{number}"
            number += 1
            while _killed(out, rng, outcome, last=outcome.times >= times):
                show()
            _compare(out, whole, outcome)
            shutil.rmtree(out)
    yield outcome


def _killed(out: Path, rng: random.Random, outcome: Outcome, *, last: bool) -> bool:
    """Let the run continue for a while. Return whether it was killed before it finished."""
    before, leftovers = committed(out), half_written(out)
    sitting = Single(job(out, "--resume", "--checkpoint-every", _OFTEN), out.with_suffix(".log"))
    wait_until(lambda: beginnings(sitting.printed()), sitting.alive)
    begun = beginnings(sitting.printed())
    if not begun or begun[0] < before:
        outcome.lose(
            f"checkpoint {before} was committed, but the next start printed {sitting.printed()[-300:]!r}"
        )
    if not last:
        first = begun[0] if begun else 0
        # A third of the kills come before the first step.
        if rng.random() < 0.67:
            wait_until(lambda: last_step(out) > first, sitting.alive)
        time.sleep(rng.uniform(0, _SPAN))
        if sitting.alive():
            sitting.kill()
            sitting.wait()
            outcome.times += 1
            outcome.figures["in_checkpointing"] += bool(half_written(out) - leftovers)
            return True
    code = sitting.wait()
    if code != 0:
        outcome.lose(f"the last start ended with {code}: {sitting.printed()[-300:]!r}")
    return False


def _compare(out: Path, whole: Path, outcome: Outcome) -> None:
    if not (out / "summary.json").exists():
        return
    outcome.figures["runs_compared"] += 1
    if found := differences(out, whole):
        outcome.miss(f"differs from the undisturbed run: {', '.join(found)}")
