"""Process settings: numba without a writable source or home folder, malloc, and log levels."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import dlrm_adahessian
from dlrm_adahessian import cli
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runtime import process
from tests.processes import plain_user


@plain_user.needed
def test_kernels_are_compiled_where_nothing_but_temporary_files_can_be_written(tmp_path):
    sources = tmp_path / "sources"
    shutil.copytree(
        Path(dlrm_adahessian.__file__).parent,
        sources / "dlrm_adahessian",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    for folder in [home, *(path for path in sources.rglob("*") if path.is_dir())]:
        folder.chmod(0o555)
    program = "import os, dlrm_adahessian.data.prepared.vocabulary; print(os.environ['NUMBA_CACHE_DIR'])"
    environment = {"HOME": str(home), "TMPDIR": str(temporary)}
    done = plain_user.python(program, environment=environment, sources=sources)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == temporary


@plain_user.needed
def test_a_home_that_may_not_be_looked_into_holds_nothing(tmp_path):
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir(mode=0)
    temporary.mkdir()
    program = (
        "import os, pathlib, sys; from dlrm_adahessian.runtime import process; "
        "process.settle_numba(pathlib.Path(sys.argv[1])); print(os.environ['NUMBA_CACHE_DIR'])"
    )
    environment = {"HOME": str(home), "TMPDIR": str(temporary)}
    done = plain_user.python(program, home / "package", environment=environment)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == temporary


@pytest.mark.parametrize("chosen", ["/chosen", None])
def test_a_user_of_whom_the_system_knows_no_home_needs_none(chosen, tmp_path, monkeypatch):
    def unknown(user):
        raise KeyError(user)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(process, "_can_hold", lambda folder: False)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", chosen or "")
    if not chosen:
        monkeypatch.delenv("NUMBA_CACHE_DIR")  # set first, so monkeypatch reverts what `settle_numba` sets
    process.settle_numba(tmp_path)
    assert os.environ["NUMBA_CACHE_DIR"] == chosen or Path(os.environ["NUMBA_CACHE_DIR"]).parent == tmp_path


def test_numba_keeps_its_own_place_and_the_users_choice(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    process.settle_numba(tmp_path)
    assert "NUMBA_CACHE_DIR" not in os.environ
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/chosen")
    process.settle_numba(Path("/proc"))
    assert os.environ["NUMBA_CACHE_DIR"] == "/chosen"


@pytest.mark.parametrize("kind", ["open to all", "link", "dangling link", "foreign", "file"])
def test_a_folder_that_others_may_have_filled_is_not_taken(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    user = os.geteuid() + (kind == "foreign")
    monkeypatch.setattr("os.geteuid", lambda: user)
    guessed = tmp_path / f"dlrm_adahessian-{user}"
    if kind == "file":
        guessed.write_text("")
    elif kind.endswith("link"):
        (tmp_path / "theirs").mkdir(mode=0o700)
        guessed.symlink_to("theirs" if kind == "link" else "absent")
    else:
        guessed.mkdir()
        guessed.chmod(0o777 if kind == "open to all" else 0o700)
    found = process._private_folder()
    assert found != guessed
    assert stat.S_IMODE(found.stat().st_mode) == 0o700


def test_the_folder_of_an_earlier_process_is_taken_again(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert process._private_folder() == process._private_folder()


PROGRAM = """
import ctypes, os
import torch
from dlrm_adahessian.runtime.process import keep_freed_memory


class Mallinfo2(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2
for keep in (True, False):
    if os.fork() == 0:  # in a fork, so malloc settings and thresholds do not affect the other case
        if keep:
            keep_freed_memory()
        before = mallinfo2().hblks
        tensor = torch.ones(2_000_000)
        print(mallinfo2().hblks - before, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_tensor_of_megabytes_is_mapped_anew_unless_freed_memory_is_kept():
    mapped = subprocess.check_output([sys.executable, "-c", PROGRAM], text=True)
    assert mapped.split() == ["0", "1"]


@pytest.mark.parametrize(
    ("openmp", "numba", "threads"), [("1", None, "1"), ("2,1", None, "2"), ("", None, None), ("1", "3", "3")]
)
def test_numba_takes_as_many_threads_as_openmp_unless_it_is_told_its_own(openmp, numba, threads):
    program = "import os, dlrm_adahessian; print(os.environ.get('NUMBA_NUM_THREADS'))"
    environment = {"OMP_NUM_THREADS": openmp, **({"NUMBA_NUM_THREADS": numba} if numba else {})}
    assert plain_user.python(program, environment=environment).stdout.strip() == str(threads)


def test_of_the_libraries_errors_only_are_shown_and_the_first_rank_says_what_it_does():
    program = (
        "import logging; from dlrm_adahessian.runtime.process import quiet_libraries; quiet_libraries()\n"
        "for name in ('dlrm_adahessian.x', 'torch'):\n"
        "    for level in ('info', 'warning', 'error'): getattr(logging.getLogger(name), level)(f'{name} {level} \\x1b')"
    )
    first, second = (plain_user.python(program, environment={"RANK": rank}).stderr for rank in "01")
    ours, theirs = "dlrm_adahessian.x", "torch error \\x1b"
    assert first.splitlines() == [
        rf"{ours} info \x1b",
        rf"warning: {ours} warning \x1b",
        rf"{ours} error \x1b",
        theirs,
    ]
    assert second.splitlines() == [rf"{ours} error \x1b", theirs]


@pytest.mark.skipif(process.seconds_without_core() is None, reason="the system does not say")
def test_the_time_without_a_core_is_what_a_busy_thread_lacks():
    allowed = os.sched_getaffinity(0)
    core = {min(allowed)}
    rival = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(rival.pid, core)
        os.sched_setaffinity(0, core)
        began, computed, waited = time.monotonic(), time.thread_time(), process.seconds_without_core()
        while time.monotonic() < began + 0.4:
            pass
        lacking = (time.monotonic() - began) - (time.thread_time() - computed)
        waited = process.seconds_without_core() - waited
    finally:
        os.sched_setaffinity(0, allowed)
        rival.kill()
        rival.wait()
    assert lacking > 0.1, "the rival had its share"
    assert waited == pytest.approx(lacking, abs=0.05)


def test_a_system_that_does_not_count_says_nothing(monkeypatch, tmp_path):
    for content in ("", "12 unknown 3"):
        (tmp_path / "schedstat").write_text(content)
        monkeypatch.setattr(process, "_SCHEDULED", tmp_path / "schedstat")
        assert process.seconds_without_core() is None
    monkeypatch.setattr(process, "_SCHEDULED", tmp_path / "absent")
    assert process.seconds_without_core() is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("can't start new thread"),
        ImportError("libscipy_openblas.so: failed to map segment from shared object"),
    ],
)
def test_lack_of_memory_is_one_message_and_no_traceback(error, monkeypatch, capsys):
    monkeypatch.setattr("dlrm_adahessian.commands.plan.plan", lambda _: raised(error))
    assert cli.main(["plan"]) == 74
    told = capsys.readouterr().err
    assert told.startswith("error: Out of memory: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ImportError("no module named x")])
def test_other_errors_are_no_lack_of_memory(error, monkeypatch):
    monkeypatch.setattr("dlrm_adahessian.commands.plan.plan", lambda _: raised(error))
    with pytest.raises(type(error), match=str(error)):
        cli.main(["plan"])


def raised(error):
    raise error


def test_an_allocation_that_torch_refuses_is_told_as_lack_of_memory(monkeypatch):
    monkeypatch.setattr(
        "dlrm_adahessian.commands.plan.plan", lambda _: torch.empty(1 << 61, dtype=torch.int8)
    )
    assert cli.main(["plan"]) == 74


@pytest.mark.campaign
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare, of util-linux")
@pytest.mark.parametrize(
    "command", ["launch --ranks 2 --baseline none", "compare --optimizers adagrad,adam --parallel 2"]
)
def test_several_processes_need_no_shared_memory(command, tmp_path):
    program = f"mount -t tmpfs -o size=64k tmpfs /dev/shm && exec {sys.executable} -m dlrm_adahessian {command} --dataset"
    flags = f"synthetic --rows 7000 --model.bottom 16 --model.top 16 --data.cache-dir {tmp_path} --out {tmp_path / 'out'}"
    isolated = ["unshare", "--map-root-user", "--mount", "sh", "-c", f"{program} {flags}"]
    done = subprocess.run(isolated, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_gpu_is_refused_where_there_is_no_driver_of_one(tmp_path, monkeypatch):
    driver = tmp_path / "nvidiactl"
    monkeypatch.setattr(process, "_GPU_DRIVERS", (tmp_path / "kfd", driver))
    process.require_gpu_driver("auto")
    with pytest.raises(UsageError, match="No GPU driver found"):
        process.require_gpu_driver("cuda")
    driver.touch()
    process.require_gpu_driver("cuda")
