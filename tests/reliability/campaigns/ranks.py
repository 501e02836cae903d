"""One of two ranks under torchrun is killed or stopped at random moments; torchrun restarts, and the run goes on."""

import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import (
    Launched,
    beginnings,
    committed,
    differences,
    half_written,
    job,
    last_step,
    torchrun,
    uninterrupted,
    wait_until,
)

_LIMIT = 20.0  # seconds from a kill to the first step after it
_TIMEOUT = 5  # seconds, as --timeout
# A stopped rank is given up after the timeout, and torchrun, whose SIGTERM it does not hear, kills it 30 s later.
_STOPPED_LIMIT = _LIMIT + _TIMEOUT + 30
_OFTEN = 2  # steps from one checkpoint to the next, so that many blows fall into one
_BLOWS = 5  # restarts of one launcher
_SPAN = 2.0  # seconds after the first step of a sitting within which the blow falls


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Kill a random rank so many times."""
    yield _campaign(5, "SIGKILL of a random rank of 2 under torchrun", times, folder, signal.SIGKILL, _LIMIT)


def stops(times: int, folder: Path) -> Iterator[Outcome]:
    """Stop a random rank so many times; it hangs, which only the timeout tells."""
    tried = f"SIGSTOP of a random rank of 2 under torchrun, --timeout {_TIMEOUT}"
    yield _campaign(5, tried, times, folder, signal.SIGSTOP, _STOPPED_LIMIT)


def _campaign(line: int, tried: str, times: int, folder: Path, blow: signal.Signals, limit: float) -> Outcome:
    whole = uninterrupted(folder, 2)
    rng = random.Random(times)
    with counting(line, tried, times) as (outcome, show):
        outcome.figures = {"recovery_seconds": [], "in_checkpointing": 0, "runs_compared": 0, "orphans": 0}
        number = 0
        while outcome.times < times:
            out = folder / f"run-{number}"
            number += 1
            blows = min(_BLOWS, times - outcome.times)
            flags = job(out, "--resume", "--timeout", _TIMEOUT, "--checkpoint-every", _OFTEN)
            launched = Launched([*torchrun(2, blows), *flags], out.with_suffix(".log"))
            try:
                for _ in range(blows):
                    if not _struck(launched, out, rng, outcome, blow, limit):
                        break
                    show()
                _finish(launched, out, whole, outcome)
            finally:
                launched.end()
            shutil.rmtree(out)
    return outcome


def _struck(
    launched: Launched, out: Path, rng: random.Random, outcome: Outcome, blow: signal.Signals, limit: float
) -> bool:
    """Strike a rank once and wait for the recovery; return whether it came, and the run had not finished before."""
    sittings = len(beginnings(launched.printed()))
    if not sittings and not _stepping(launched, out, 1):
        return False
    time.sleep(rng.uniform(0, _SPAN))
    victim, before = launched.rank(rng.randrange(2)), committed(out)
    if victim is None or not launched.alive():
        return False
    sittings = len(beginnings(launched.printed()))
    began = time.monotonic()
    try:
        victim.send_signal(blow)
    except psutil.NoSuchProcess:
        return False
    outcome.times += 1
    outcome.figures["in_checkpointing"] += bool(half_written(out))
    if not _stepping(launched, out, sittings + 1, limit + 30):
        if launched.alive() or (out / "summary.json").exists() is False:
            outcome.lose(f"no recovery: {launched.printed()[-600:]!r}")
        else:  # the last step was done before the blow took effect
            outcome.times -= 1
        return False
    seconds = time.monotonic() - began
    outcome.figures["recovery_seconds"].append(round(seconds, 2))
    if seconds > limit:
        outcome.lose(f"recovery took {seconds:.1f} s, more than {limit:g}")
    begun = beginnings(launched.printed())[sittings]
    if begun < before:
        outcome.lose(f"checkpoint {before} was committed, and the restart began from {begun}")
    return True


def _stepping(launched: Launched, out: Path, sitting: int, seconds: float = 60) -> bool:
    """Wait for the first step of a sitting, counted from 1."""

    def stepped() -> bool:
        begun = beginnings(launched.printed())
        return len(begun) >= sitting and last_step(out) > begun[sitting - 1]

    return wait_until(stepped, launched.alive, seconds)


def _finish(launched: Launched, out: Path, whole: Path, outcome: Outcome) -> None:
    if (code := launched.wait()) != 0:
        outcome.lose(f"torchrun ended with {code}: {launched.printed()[-600:]!r}")
        return
    wait_until(lambda: not launched.left(), lambda: True, 5)
    if orphans := launched.left():
        outcome.figures["orphans"] += len(orphans)
        outcome.lose(f"{len(orphans)} processes outlive the launcher")
    outcome.figures["runs_compared"] += 1
    if found := differences(out, whole):
        outcome.miss(f"differs from the undisturbed run: {', '.join(found)}")
