"""A user who may write neither beside the sources nor at home."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import dlrm_adahessian
from dlrm_adahessian import kernel_cache

# As root every folder can be written, unless that right is dropped.
PLAIN_USER = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


@pytest.mark.skipif(bool(PLAIN_USER) and not shutil.which("setpriv"), reason="root needs setpriv for this")
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
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(sources),
    }
    program = "import os, dlrm_adahessian.data.vocabulary; print(os.environ['NUMBA_CACHE_DIR'])"
    done = subprocess.run(
        [*PLAIN_USER, sys.executable, "-c", program],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == temporary


def test_numba_keeps_its_own_place_and_the_users_choice(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    kernel_cache.settle(tmp_path)
    assert "NUMBA_CACHE_DIR" not in os.environ
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/chosen")
    kernel_cache.settle(Path("/proc"))
    assert os.environ["NUMBA_CACHE_DIR"] == "/chosen"


@pytest.mark.parametrize("kind", ["open to all", "link", "foreign"])
def test_a_folder_that_others_may_have_filled_is_not_taken(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    user = os.geteuid() + (kind == "foreign")
    monkeypatch.setattr("os.geteuid", lambda: user)
    guessed = tmp_path / f"dlrm_adahessian-{user}"
    if kind == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        guessed.symlink_to("theirs")
    else:
        guessed.mkdir()
        guessed.chmod(0o777 if kind == "open to all" else 0o700)
    found = kernel_cache._private_folder()
    assert found != guessed
    assert stat.S_IMODE(found.stat().st_mode) == 0o700


def test_the_folder_of_an_earlier_process_is_taken_again(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert kernel_cache._private_folder() == kernel_cache._private_folder()
