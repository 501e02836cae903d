"""Several processes with one cache or one run directory, and processes that receive stop signals."""

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.data.test_raw import LINES, TEXT, start
from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import Single, committed, differences, job, last_step, uninterrupted, wait_until

_PROCESSES = 8
_LOCKED = 5  # exit code


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Prepare with 8 processes, start two runs in one directory, and send signals, several times each."""
    text = folder / "train.txt"
    text.write_bytes(TEXT)
    yield _one_writes(times, folder, text)
    yield _another_takes_over(times, folder, text)
    whole = uninterrupted(folder, 1)
    yield _second_run(times, folder)
    for blow in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
        yield _stopped(times, folder, whole, blow)


def _one_writes(times: int, folder: Path, text: Path) -> Outcome:
    with counting(
        10, f"{_PROCESSES} processes prepare the same rows: one writes, the others wait", times
    ) as (
        outcome,
        show,
    ):
        for number in range(times):
            processes = [start(text, folder / f"cache-{number}", 1) for _ in range(_PROCESSES)]
            outputs = [process.communicate(timeout=120) for process in processes]
            writers = sum("reading" in out for out, _ in outputs)
            rows = sum(f"rows {len(LINES)}" in out for out, _ in outputs)
            codes = {process.returncode for process in processes}
            outcome.expect(
                (writers, rows, codes) == (1, _PROCESSES, {0}),
                f"{writers} wrote, {rows} have the rows, exit codes {codes}",
            )
            show()
    return outcome


def _another_takes_over(times: int, folder: Path, text: Path) -> Outcome:
    tried = f"the writer of {_PROCESSES} is killed: another one takes over"
    with counting(10, tried, times) as (outcome, show):
        for number in range(times):
            cache = folder / f"cache-killed-{number}"
            writer = start(text, cache, 60)
            read = writer.stdout.readline() if writer.stdout else ""
            others = [start(text, cache, 0) for _ in range(_PROCESSES - 1)]
            waiting = [process.stderr.readline() if process.stderr else "" for process in others]
            writer.kill()
            writer.communicate()
            outputs = [process.communicate(timeout=120) for process in others]
            writers = sum("reading" in out for out, _ in outputs)
            rows = sum(f"rows {len(LINES)}" in out for out, _ in outputs)
            left = [path.name for path in cache.iterdir() if path.suffix != ".lock"]
            right = "reading" in read and all("waiting" in line for line in waiting)
            outcome.expect(
                right and (writers, rows, len(left)) == (1, len(others), 1),
                f"{writers} wrote, {rows} have the rows, in the cache is {left}",
            )
            show()
    return outcome


def _second_run(times: int, folder: Path) -> Outcome:
    with counting(10, "two runs in one directory: the second leaves with 5", times) as (outcome, show):
        for number in range(times):
            out = folder / f"two-{number}"
            first = Single(job(out, "--epochs", 100), folder / "first.log")
            wait_until(lambda out=out: last_step(out), first.alive)
            second = Single(job(out, "--resume"), folder / "second.log")
            code, stands = second.wait(), first.alive()
            outcome.expect(
                code == _LOCKED and stands, f"exit {code}, first one alive: {stands}: {second.printed()}"
            )
            first.process.kill()
            first.wait()
            shutil.rmtree(out)
            show()
    return outcome


def _stopped(times: int, folder: Path, whole: Path, blow: signal.Signals) -> Outcome:
    expected = 128 + blow
    tried = f"{blow.name} in training: a checkpoint within a step, exit {expected}, resume identical"
    rng = random.Random(times)
    with counting(11, tried, times) as (outcome, show):
        number = 0
        while outcome.times < times:
            out = folder / f"stopped-{blow.name}-{number}"
            number += 1
            sitting = Single(job(out), folder / "stopped.log")
            wait_until(lambda out=out: last_step(out), sitting.alive)
            time.sleep(rng.uniform(0, 1))
            step = last_step(out)
            if step >= 118 or not sitting.alive():
                sitting.wait()
                shutil.rmtree(out)
                continue
            os.kill(sitting.pid, blow)
            code = sitting.wait()
            saved, learnt = committed(out), last_step(out)
            # A step may finish between reading the log and the signal, and another one is in progress.
            right = code == expected and saved == learnt and saved <= step + 2
            outcome.expect(
                right,
                f"exit {code}, at step {step}, saved {saved}, trained {learnt}: {sitting.printed()[-300:]}",
            )
            resumed = Single(job(out, "--resume"), folder / "stopped.log")
            if (code := resumed.wait()) != 0:
                outcome.lose(f"the resume ended with {code}: {resumed.printed()[-300:]}")
            elif found := differences(out, whole):
                outcome.miss(f"differs from the undisturbed run: {', '.join(found)}")
            shutil.rmtree(out)
            show()
    return outcome
