"""A user who may write neither beside the sources nor at home."""

import os
import shutil
import stat
from pathlib import Path

import pytest

import dlrm_adahessian
from dlrm_adahessian.runtime import numba_cache
from tests import plain_user


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
        "import os, pathlib, sys; from dlrm_adahessian import kernel_cache; "
        "kernel_cache.settle(pathlib.Path(sys.argv[1])); print(os.environ['NUMBA_CACHE_DIR'])"
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
    monkeypatch.setattr(numba_cache, "_can_hold", lambda folder: False)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", chosen or "")
    if not chosen:
        monkeypatch.delenv("NUMBA_CACHE_DIR")  # set before, so that what `settle` sets is taken back
    numba_cache.settle(tmp_path)
    assert os.environ["NUMBA_CACHE_DIR"] == chosen or Path(os.environ["NUMBA_CACHE_DIR"]).parent == tmp_path


def test_numba_keeps_its_own_place_and_the_users_choice(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    numba_cache.settle(tmp_path)
    assert "NUMBA_CACHE_DIR" not in os.environ
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/chosen")
    numba_cache.settle(Path("/proc"))
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
    found = numba_cache._private_folder()
    assert found != guessed
    assert stat.S_IMODE(found.stat().st_mode) == 0o700


def test_the_folder_of_an_earlier_process_is_taken_again(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert numba_cache._private_folder() == numba_cache._private_folder()
