"""The launcher of local ranks sets their environment, forwards signals, and outlives none of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

RANKS = 3
# Each rank runs the code that a test appends.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from dlrm_adahessian.runtime import local_ranks
local_ranks._PATIENCE = 0.3
code = local_ranks.become_ranks(int(sys.argv[1]))
if code is not None:
    sys.exit(code)
rank = int(os.environ["RANK"])
def tell(text):
    os.write(1, f"{text}\\n".encode())
"""
WAIT = "tell(os.getpid()); time.sleep(60)"


def start(work: str, *, ignored: signal.Signals | None = None, **environment: str):
    def before() -> None:
        if ignored is not None:
            signal.signal(ignored, signal.SIG_IGN)

    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + work, str(RANKS)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        preexec_fn=before,
        start_new_session=True,
    )


def waiting(launcher: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Return the ranks after each has printed its number."""
    return [psutil.Process(int(launcher.stdout.readline())) for _ in range(RANKS)]


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=10)[1]


def test_each_rank_is_told_who_it_is_and_where_to_meet_in_private(tmp_path: Path) -> None:
    told = (
        "folder = Path(os.environ['DLRM_ADAHESSIAN_STORE']).parent\n"
        "names = ('LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'OMP_NUM_THREADS')\n"
        "tell(f'{rank}: {[os.environ[name] for name in names]} {oct(folder.stat().st_mode)} {folder}')"
    )
    launcher = start(told, TMPDIR=str(tmp_path), OMP_NUM_THREADS="5")
    lines = sorted(launcher.communicate()[0].splitlines())
    folder = lines[0].rpartition(" ")[2]
    assert lines == [f"{rank}: ['{rank}', '3', '3', '5'] 0o40700 {folder}" for rank in range(3)]
    assert Path(folder).parent == tmp_path
    assert launcher.returncode == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("work", "code"), [
    ("sys.exit(0)", 0),
    ("sys.exit(65 if rank == 1 else 0)", 65),
    ("os.kill(os.getpid(), signal.SIGKILL) if rank == 2 else None", 137),
    ("time.sleep(0.2 * rank); sys.exit(75 if rank else 64)", 64),
])  # fmt: skip
def test_the_code_of_the_first_that_fails_is_passed_on(work: str, code: int) -> None:
    launcher = start(work)
    launcher.communicate()
    assert launcher.returncode == code


def test_when_one_fails_those_that_do_not_leave_are_ended() -> None:
    launcher = start(f"sys.exit(7) if rank == 0 else None; {WAIT}")
    began = time.monotonic()
    launcher.communicate(timeout=30)
    assert launcher.returncode == 7
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU])
def test_a_signal_is_passed_on_to_all_ranks_once(number: signal.Signals) -> None:
    count = (
        "import itertools; seen = itertools.count(1)\n"
        f"signal.signal({int(number)}, lambda *_: tell(f'seen {{next(seen)}}'))\n"
        "tell(os.getpid()); time.sleep(1); sys.exit(40)"
    )
    with start(count) as launcher:
        waiting(launcher)
        os.killpg(launcher.pid, number)  # like Ctrl-C in a terminal
        assert launcher.stdout.read().split("\n") == ["seen 1"] * RANKS + [""]
    assert launcher.returncode == 40


def test_a_signal_that_nobody_handles_ends_all_with_its_number() -> None:
    with start(WAIT) as launcher:
        ranks = waiting(launcher)
        launcher.terminate()
    assert launcher.returncode == 128 + signal.SIGTERM
    assert gone(ranks)


def test_what_nohup_ignores_stays_ignored() -> None:
    with start(WAIT, ignored=signal.SIGHUP) as launcher:
        ranks = waiting(launcher)
        launcher.send_signal(signal.SIGHUP)
        for rank in ranks:
            rank.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert launcher.poll() is None
        assert all(rank.is_running() for rank in ranks)
        launcher.terminate()
    assert launcher.returncode == 128 + signal.SIGTERM


def test_no_rank_outlives_a_launcher_that_is_killed() -> None:
    with start(WAIT) as launcher:
        ranks = waiting(launcher)
        launcher.kill()
        assert gone(ranks)


def test_more_ranks_than_the_system_has_processes_are_refused_in_words() -> None:
    refuse = (
        "import os, sys\n"
        "from dlrm_adahessian.runtime import local_ranks\n"
        "real, left = os.fork, iter([True, False])\n"
        "def fork():\n"
        "    if next(left): return real()\n"
        "    raise OSError(11, 'Resource temporarily unavailable')\n"
        "os.fork = fork\n"
        "if local_ranks.become_ranks(2) is None: import time; time.sleep(60)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", refuse], capture_output=True, text=True, timeout=30, check=False
    )
    assert "2 ranks need 2 processes, but the system can start only 1" in found.stderr
