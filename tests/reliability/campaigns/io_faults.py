"""Failing file operations, and a full file system: the program must report them and damage no checkpoint."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from dlrm_adahessian.checkpoint.reader import load, load_newest_good
from dlrm_adahessian.errors import CheckpointError, ProgramError, StorageError
from tests.checkpoints import RUN, copies_of, save_seed, seed_of
from tests.faults import Outcome as Fate
from tests.faults import disk_full, each_operation, each_write_cut_short, io_error, kill
from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import Single, committed, job

_FILE_SYSTEM = 16 << 20  # bytes
_LEFT = 1 << 12  # additional bytes of space in each try
_EXIT = StorageError.exit_code


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Fail each operation of a save once, then fill a file system, or do nothing if `times` is 0."""
    if not times:
        return
    faults = {
        "kill": (2, kill, "SIGKILL"),
        "full": (3, disk_full, "no space left, after half of the bytes of a write,"),
        "error": (3, io_error, "an I/O error, after half of the bytes of a write,"),
    }
    for name, (line, fault, words) in faults.items():
        yield each(folder / name, line, f"{words} at each file operation of a save", fault)
    yield cut_short(folder / "short")
    yield full(folder / "full-file-system")


def each(folder: Path, line: int, tried: str, fault: Callable[[], None]) -> Outcome:
    """Save once more than there are operations. In each save, another operation fails."""
    template = folder / "checkpoints"
    for seed in (1, 2):
        save_seed(template, seed)
    with counting(line, tried) as (outcome, show):
        for path, fate in each_operation(_save_third, fault, copies_of(template, folder)):
            outcome.times += 1
            if (fate is Fate.KILLED) != (fault is kill):
                outcome.lose(f"operation {outcome.times}: the process was {fate.value}")
            found = _check(path, outcome, f"operation {outcome.times}")
            if fate is Fate.SURVIVED and found != 3:
                outcome.miss(f"operation {outcome.times}: reported as saved, and {found} was loaded")
            shutil.rmtree(path)
            show()
    return outcome


def cut_short(folder: Path) -> Outcome:
    """Save repeatedly. In each save, another write takes only half of its bytes without an error, and none may be lost."""
    template = folder / "checkpoints"
    for seed in (1, 2):
        save_seed(template, seed)
    with counting(3, "a short write of half of the bytes, each write of a save") as (
        outcome,
        show,
    ):
        for path, fate in each_write_cut_short(_save_third, copies_of(template, folder)):
            outcome.times += 1
            if fate is not Fate.SURVIVED:
                outcome.lose(f"write {outcome.times}: the process was {fate.value}")
            found = _check(path, outcome, f"write {outcome.times}")
            if fate is Fate.SURVIVED and found not in (None, 3):
                outcome.miss(f"write {outcome.times}: reported as saved, and {found} was loaded")
            shutil.rmtree(path)
            show()
    return outcome


def _save_third(folder: Path) -> None:
    """Save. Any error other than a storage error with a path in the folder is a defect."""
    try:
        save_seed(folder, 3)
    except ProgramError as error:
        if error.exit_code != _EXIT or str(folder) not in str(error):
            raise RuntimeError(
                f"expected exit {_EXIT} and the path, got {error.exit_code}: {error}"
            ) from error
        raise


def _check(folder: Path, outcome: Outcome, when: str) -> int | None:
    """Check that the second or third checkpoint exists and that all checkpoints are valid. Return the newest."""
    try:
        found = seed_of(load_newest_good(folder, RUN))
        whole = [seed_of(load(path, RUN)) for path in folder.glob("step-*")]
    except (CheckpointError, AssertionError) as error:
        outcome.miss(f"{when}: {error!r}")
        return None
    if found not in (2, 3) or found not in whole:
        outcome.miss(f"{when}: checkpoint {found} was loaded, of {whole}")
    return found


def full(folder: Path) -> Outcome:
    """Save and train on a full file system of 16 MiB, with more space each time, until it is enough."""
    folder.mkdir(parents=True)
    with counting(3, "a full file system of 16 MiB, with more room each time until a save passes") as (
        outcome,
        show,
    ):
        command = ["mount", "-t", "tmpfs", "-o", f"size={_FILE_SYSTEM}", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            outcome.skipped = f"mounting needs root: {mounted.stderr.strip()}"
            return outcome
        try:
            _save_in_less_room(folder, outcome, show)
            _train_without_room(folder, outcome)
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    return outcome


def _save_in_less_room(folder: Path, outcome: Outcome, show: Callable[[], None]) -> None:
    checkpoints, filler = folder / "checkpoints", folder / "filler"
    for seed in (1, 2):
        save_seed(checkpoints, seed)
    room = 0
    while True:
        _fill(filler, room)
        outcome.times += 1
        show()
        try:
            save_seed(checkpoints, 3)
            break
        except StorageError as error:
            if str(folder) not in str(error) or "No space left" not in str(error):
                outcome.lose(f"with {room} bytes left: {error}")
        filler.unlink()
        _check(checkpoints, outcome, f"with {room} bytes left")
        room += _LEFT
    filler.unlink()
    outcome.figures["bytes_needed"] = room
    shutil.rmtree(checkpoints)


def _fill(filler: Path, room: int) -> None:
    """Fill the file system except for some bytes."""
    block = bytes(1 << 12)
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(block):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        os.ftruncate(file.fileno(), max(0, file.tell() - room))


def _train_without_room(folder: Path, outcome: Outcome) -> None:
    """Resume the job without space for the next checkpoint, then with space."""
    out, log = folder / "run", folder.parent / "train.log"
    flags = partial(job, out, "--resume", "--data.cache-dir", folder.parent / "cache")
    stopped = Single(flags(), log)
    while stopped.alive() and not committed(out):
        pass
    stopped.process.kill()
    stopped.wait()
    before = committed(out)
    _fill(folder / "filler", 1 << 15)
    outcome.times += 1
    resumed = Single(flags(), log)
    code = resumed.wait()
    if code != _EXIT or str(out) not in resumed.printed() or "Traceback" in resumed.printed():
        outcome.lose(
            f"expected exit {_EXIT} and a message with {out}, got {code}: {resumed.printed()[-600:]}"
        )
    if committed(out) < before:
        outcome.miss(f"expected checkpoint {before}, found {committed(out)}")
    (folder / "filler").unlink()
    last = Single(flags(), log)
    if (code := last.wait()) != 0:
        outcome.lose(f"--resume with enough space ended with {code}: {last.printed()[-600:]}")
