"""A lease has one holder, is released when its holder ends or dies, and is never taken from a live holder."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dlrm_adahessian.errors import StorageError
from dlrm_adahessian.runs import lease as lease_module
from dlrm_adahessian.runs.lease import Holder, Lease

RACERS = """
import sys, time
from pathlib import Path
from dlrm_adahessian.runs.lease import Lease
folder = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(sum(isinstance(Lease.take(folder / f"run-{n}", 60, print), Lease) for n in range(100)), flush=True)
sys.stdin.readline()
"""


def never() -> None:
    raise AssertionError("the lease was kept in time")


def take(run: Path, seconds: float = 60) -> Lease | Holder:
    return Lease.take(run, seconds, never)


def elsewhere(run: Path, number: int = 1, *, age: float = 0) -> Path:
    """Write a lease that a process on another machine touched some seconds ago."""
    file = run.with_name(f"{run.name}.lease-{number}")
    file.write_text(json.dumps({"host": "node-7", "pid": 4711, "started": 5, "system": "other"}))
    now = file.stat().st_mtime
    os.utime(file, (now - age, now - age))
    return file


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "adagrad.v2-0123"


def test_a_lease_that_is_held_names_its_holder(run: Path) -> None:
    with take(run):
        found = take(run)
        assert found == Holder.this()
        assert str(found).endswith(f"(process {os.getpid()})")
    elsewhere(run, 2, age=59)
    assert str(take(run)) == "node-7 (process 4711)"


def test_what_was_given_back_is_taken_at_once(run: Path) -> None:
    for _ in range(3):
        with take(run) as held:
            assert isinstance(held, Lease)
    with pytest.raises(RuntimeError), take(run):
        raise RuntimeError
    assert isinstance(take(run), Lease)


def test_a_lease_expires_when_it_is_not_touched(run: Path) -> None:
    elsewhere(run, age=61)
    assert isinstance(take(run), Lease)
    assert isinstance(take(run), Holder), "the next lease is held now"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 3, "user": 4}'])
def test_a_holder_that_has_said_nothing_yet_has_time_to(run: Path, content: str) -> None:
    file = elsewhere(run)
    file.write_text(content)
    assert isinstance(take(run), Holder)
    os.utime(file, (0, 0))
    assert isinstance(take(run), Lease)


def test_ages_are_those_of_the_file_system(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = elsewhere(run)
    ahead = file.stat().st_mtime + 3600
    monkeypatch.setattr(time, "time", lambda: ahead)
    assert isinstance(take(run), Holder), "the clock of this machine is an hour ahead"
    monkeypatch.setattr(lease_module, "time_in", lambda _: ahead)
    assert isinstance(take(run), Lease), "that of the file system is"


def test_a_process_of_this_machine_that_died_holds_nothing(run: Path) -> None:
    code = (
        f"from pathlib import Path; from tests.runs.test_lease import take; take(Path({str(run)!r})); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        while not (run.parent / f"{run.name}.lease-1").exists():
            time.sleep(0.01)
        time.sleep(0.1)
        assert isinstance(found := take(run), Holder)
        assert found.pid == process.pid
        process.kill()
        deadline = time.monotonic() + 10
        while isinstance(take(run), Holder):  # a zombie from here on, as it is not waited for
            assert time.monotonic() < deadline
    number_used_again = Holder(**{**vars(Holder.this()), "started": 1})
    assert number_used_again.is_dead
    assert not Holder.this().is_dead
    assert not Holder(**{**vars(number_used_again), "system": "other"}).is_dead


def test_of_many_threads_one_takes_an_expired_lease(run: Path) -> None:
    for number in range(1, 30):
        elsewhere(run, number, age=100)
        with ThreadPoolExecutor(16) as threads:
            together = threading.Barrier(16)

            def race(_: int, together: threading.Barrier = together) -> Lease | Holder:
                together.wait()
                return take(run)

            found = list(threads.map(race, range(16)))
        assert sum(isinstance(each, Lease) for each in found) == 1


@pytest.mark.slow
def test_of_many_processes_one_takes_each_lease(tmp_path: Path) -> None:
    for number in range(50, 100):
        elsewhere(tmp_path / f"run-{number}", age=100)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACERS, tmp_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(4)
    ]
    taken = []
    for each in processes:
        assert each.stdout.readline() == "ready\n"  # pyright: ignore[reportOptionalMemberAccess]
    for each in processes:
        each.stdin.write("\n")  # pyright: ignore[reportOptionalMemberAccess]
        each.stdin.flush()  # pyright: ignore[reportOptionalMemberAccess]
    taken = [int(each.stdout.readline()) for each in processes]  # pyright: ignore[reportOptionalMemberAccess]
    for each in processes:
        each.communicate("\n")
    assert sum(taken) == 100


def test_a_holder_touches_its_lease_until_it_ends(run: Path) -> None:
    file = run.with_name(f"{run.name}.lease-1")
    with take(run, 6):  # touched every second
        os.utime(file, (0, 0))
        deadline = time.monotonic() + 10
        while not file.stat().st_mtime:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert file.stat().st_mtime == 0


def test_a_holder_that_comes_late_gives_up_before_others_may_take_over(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = take(run)
    assert isinstance(held, Lease)
    started = time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(lease_module, "_seconds_since_start", lambda: started + 29)
    assert held.renew()
    monkeypatch.setattr(lease_module, "_seconds_since_start", lambda: started + 58)
    assert held.renew(), "29 s after the last time"
    monkeypatch.setattr(lease_module, "_seconds_since_start", lambda: started + 89)
    assert not held.renew(), "31 s after it"


def test_a_holder_of_whose_run_another_has_the_lease_gives_up(run: Path) -> None:
    lost = threading.Event()
    with Lease.take(run, 3, lost.set) as held:
        assert isinstance(held, Lease)
        elsewhere(run, 2)
        assert lost.wait(10)


def test_a_disk_that_fails_for_a_moment_loses_no_lease(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    held = take(run)
    assert isinstance(held, Lease)
    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", fails)
        assert held.renew()
    assert held.renew()


def test_nothing_is_read_through_a_link_or_a_pipe(run: Path) -> None:
    lease = run.with_name(f"{run.name}.lease-1")
    for plant, found in (
        (lambda: lease.symlink_to("/dev/zero"), "a link"),
        (lambda: os.mkfifo(lease), "a pipe"),
    ):
        plant()
        with pytest.raises(StorageError, match=f"lease-1: it is {found}"):
            take(run)
        lease.unlink()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Cannot read or write"):
        take(tmp_path / "file" / "run")
