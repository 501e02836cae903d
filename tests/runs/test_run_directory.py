"""The run directory: its lock, and its records."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from dlrm_adahessian import __version__
from dlrm_adahessian.errors import (
    DataError,
    LockedError,
    NoInputError,
    StorageError,
    UsageError,
)
from dlrm_adahessian.runs import run_directory
from dlrm_adahessian.runs.run_directory import (
    RunDirectory,
    default_run_path,
    environment,
)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


# Lock


@pytest.mark.parametrize("resume", [False, True])
def test_an_absent_or_empty_folder_is_a_beginning(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "deep" / "absent"):
        with RunDirectory.create(path, resume=resume) as run:
            assert run.path == path
            assert path.is_dir()


@pytest.mark.parametrize("trace", ["config.json", "metrics.jsonl", "summary.json", "checkpoints"])
def test_a_folder_that_holds_a_run_is_only_resumed(tmp_path: Path, trace: str) -> None:
    (tmp_path / trace).mkdir()
    with (
        pytest.raises(
            UsageError,
            match=rf"{tmp_path} already contains a run \({trace}\). Continue it with --resume, or .*--out",
        ),
        RunDirectory.create(tmp_path, resume=False),
    ):
        pass
    with RunDirectory.create(tmp_path, resume=True) as run:
        assert run.path == tmp_path


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_is_refused_while_the_first_one_lasts(tmp_path: Path, resume: bool) -> None:
    code = (
        "import sys; from pathlib import Path; from dlrm_adahessian.runs.run_directory import RunDirectory\n"
        "with RunDirectory.create(Path(sys.argv[1]), resume=True): print('held', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(LockedError), RunDirectory.create(tmp_path / "run", resume=resume):
            pass
        first.kill()
    with RunDirectory.create(tmp_path / "run", resume=resume):
        pass


def test_a_path_that_cannot_be_a_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"), RunDirectory.create(tmp_path / "file", resume=False):
        pass


# Records


def test_the_config_reads_back(run: RunDirectory) -> None:
    config = {"optim": {"lr": 0.1, "betas": [0.9, 0.999]}, "name": "ü <script>"}
    run.write_config(config)
    assert run.read_config() == config
    assert json.loads((run.path / "environment.json").read_text()) == environment()


def test_a_config_that_is_not_there_or_not_readable_says_so(run: RunDirectory) -> None:
    with pytest.raises(NoInputError, match=r"is not a run directory \(config\.json is missing\)"):
        run.read_config()
    for content in ("{", "[1]", "\x80\x04."):
        (run.path / "config.json").write_text(content)
        with pytest.raises(DataError, match=r"config\.json"):
            run.read_config()


def test_a_cleared_folder_holds_its_lock_alone_and_touches_nothing_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    with RunDirectory.create(tmp_path / "run", resume=False) as run:
        run.write_config({})
        run.checkpoints.mkdir()
        (run.checkpoints / "latest").touch()
        run.best.symlink_to(tmp_path / "elsewhere")
        run.clear()
    assert [path.name for path in run.path.iterdir()] == ["lock"]
    assert (tmp_path / "elsewhere" / "kept").exists()


def test_environment_names_the_versions_without_importing_them() -> None:
    found = environment()
    assert (found["version"], found["python"]) == (__version__, platform.python_version())
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert json.loads(json.dumps(found)) == found
    code = (
        "import sys; from dlrm_adahessian.runs.run_directory import environment; environment()\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'torchrec', 'fbgemm_gpu', 'numba')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_commit_is_that_of_the_own_checkout_or_null(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "dlrm_adahessian"
    package.mkdir(parents=True)
    monkeypatch.setattr(run_directory, "__file__", str(package / "runs" / "run_directory.py"))
    assert environment()["commit"] is None

    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # inside a git hook, they name the repository of the project
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    git("commit", "--allow-empty", "--message", "first")
    assert environment()["commit"] is None, "an installed copy inside an unrelated checkout"
    monkeypatch.setattr(
        run_directory, "__file__", str(tmp_path / "dlrm_adahessian" / "runs" / "run_directory.py")
    )
    assert environment()["commit"] == git("rev-parse", "HEAD")
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] is None, "without git"


# Names


def test_runs_without_a_name_are_numbered_and_the_newest_is_resumed(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    assert default_run_path(root, "criteo-hybrid", resume=True) == root / "criteo-hybrid"
    for name in ["criteo-hybrid", "criteo-hybrid-2", *(f"criteo-hybrid-{n}" for n in range(3, 12))]:
        path = default_run_path(root, "criteo-hybrid", resume=False)
        assert path == root / name
        path.mkdir(parents=True)
        assert default_run_path(root, "criteo-hybrid", resume=True) == path


def test_other_names_do_not_count(tmp_path: Path) -> None:
    for name in ["s-x", "s-01", "s-1", "s2", "x-s-7", "s-9.tmp", "s-2-3", "S-8"]:
        (tmp_path / name).mkdir()
    assert default_run_path(tmp_path, "s", resume=False) == tmp_path / "s"
    (tmp_path / "s-5").mkdir()
    assert default_run_path(tmp_path, "s", resume=False) == tmp_path / "s-6"
    (tmp_path / "a+b").mkdir()
    assert default_run_path(tmp_path, "a+b", resume=False) == tmp_path / "a+b-2"


@pytest.mark.parametrize("stem", ["", ".", "..", "../x", "/etc", "a/b", "a\0b", "x/.."])
def test_a_name_that_would_leave_the_folder_is_refused(tmp_path: Path, stem: str) -> None:
    with pytest.raises(UsageError, match="one path component"):
        default_run_path(tmp_path, stem, resume=False)


def test_an_attempt_that_wrote_nothing_leaves_no_folder_and_one_that_wrote_leaves_it(tmp_path: Path) -> None:
    for written, left in (("", False), ("config.json", True)):
        with (
            pytest.raises(DataError, match="bad rows"),
            RunDirectory.create(tmp_path / "run", resume=False) as run,
        ):
            if written:
                (run.path / written).write_text("{}")
            raise DataError("bad rows")
        assert run.path.exists() == left
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "lock"]
