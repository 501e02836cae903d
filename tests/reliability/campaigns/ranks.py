"""Kill or stop one of two ranks under torchrun at random moments. torchrun must restart them, and the run continue."""

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

_LIMIT = 20.0  # maximum seconds from a kill to the next step
_TIMEOUT = 5  # value of --timeout in seconds
# The other rank gives up after the timeout. The stopped rank ignores SIGTERM, so torchrun kills it 30 s later.
_STOPPED_LIMIT = _LIMIT + _TIMEOUT + 30
_OFTEN = 2  # steps between checkpoints, so that many signals interrupt one
_BLOWS = 5  # restarts per launcher
_SPAN = 2.0  # seconds after the first step in which the signal is sent


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Kill a random rank several times."""
    yield _campaign(5, "SIGKILL of a random rank of 2 under torchrun", times, folder, signal.SIGKILL, _LIMIT)


def stops(times: int, folder: Path) -> Iterator[Outcome]:
    """Stop a random rank several times. It hangs, and only the timeout reveals it."""
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
    """Send a signal to a rank, and wait for the recovery. Return whether it came before the run finished."""
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
        else:  # the last step finished before the signal took effect
            outcome.times -= 1
        return False
    seconds = time.monotonic() - began
    outcome.figures["recovery_seconds"].append(round(seconds, 2))
    if seconds > limit:
        outcome.lose(f"recovery took {seconds:.1f} s, with a limit of {limit:g}")
    begun = beginnings(launched.printed())[sittings]
    if begun < before:
        outcome.lose(f"checkpoint {before} was committed, but the restart began at {begun}")
    return True


def _stepping(launched: Launched, out: Path, sitting: int, seconds: float = 60) -> bool:
    """Wait for the first step after a start, counted from 1."""

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
        outcome.lose(f"{len(orphans)} processes survived the launcher")
    outcome.figures["runs_compared"] += 1
    if found := differences(out, whole):
        outcome.miss(f"differs from the undisturbed run: {', '.join(found)}")
