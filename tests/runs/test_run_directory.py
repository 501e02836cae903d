"""The run directory: who may use it, what it records, and that rewound logs equal uninterrupted ones."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlrm_adahessian import __version__
from dlrm_adahessian.errors import (
    CheckpointError,
    DataError,
    LockedError,
    NoInputError,
    StorageError,
    UsageError,
)
from dlrm_adahessian.runs import run_directory
from dlrm_adahessian.runs.run_directory import (
    MetricsLog,
    PredictionLog,
    RunDirectory,
    default_run_path,
    environment,
)
from tests.faults import Outcome, disk_full, each_operation, kill


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def random_floats(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(count, dtype=np.float32)


# Who may use it


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
        pytest.raises(UsageError, match=rf"{tmp_path} holds {trace}; continue it with --resume, or .*--out"),
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


# What it records


def test_config_and_summary_read_back(run: RunDirectory) -> None:
    config = {"optim": {"lr": 0.1, "betas": [0.9, 0.999]}, "name": "ü <script>"}
    run.write_config(config)
    assert run.read_config() == config
    assert json.loads((run.path / "environment.json").read_text()) == environment()
    run.write_summary(
        {"test": {"auc": 0.79, "logloss": float("nan")}, "ci": (0.1, float("inf")), "baseline": None}
    )
    assert run.read_summary() == {"test": {"auc": 0.79, "logloss": None}, "ci": [0.1, None], "baseline": None}


@pytest.mark.parametrize("fault", [kill, disk_full])
def test_the_summary_is_absent_or_complete(tmp_path: Path, fault: Callable[[], None]) -> None:
    def fresh() -> Path:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        (tmp_path / "run").mkdir()
        return tmp_path / "run"

    written = []
    for path, _ in each_operation(lambda path: RunDirectory(path).write_summary({"auc": 0.5}), fault, fresh):
        written.append((path / "summary.json").exists())
        if written[-1]:
            assert RunDirectory(path).read_summary() == {"auc": 0.5}
    assert set(written) == {False, True}


def test_what_is_not_there_or_not_readable_says_so(run: RunDirectory) -> None:
    with pytest.raises(NoInputError, match=r"no config\.json: it is no run directory"):
        run.read_config()
    with pytest.raises(
        NoInputError, match=r"no summary\.json: its run has not finished; finish it with --resume"
    ):
        run.read_summary()
    for content in ("{", "[1]", "\x80\x04."):
        (run.path / "config.json").write_text(content)
        with pytest.raises(DataError, match=r"config\.json"):
            run.read_config()


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
        monkeypatch.delenv(name)  # inside a git hook they name the project's own repository
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    git("commit", "--allow-empty", "--message", "first")
    assert environment()["commit"] is None, "an installed copy inside somebody else's checkout"
    monkeypatch.setattr(
        run_directory, "__file__", str(tmp_path / "dlrm_adahessian" / "runs" / "run_directory.py")
    )
    assert environment()["commit"] == git("rev-parse", "HEAD")
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] is None, "without git"


# Metrics


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_is_there_at_once_and_timing_is_apart(run: RunDirectory) -> None:
    with MetricsLog(run.metrics) as log:
        log.log({"step": 1, "loss": 0.5}, {"seconds": 0.25})
        assert lines(run.metrics) == [{"step": 1, "loss": 0.5, "timing": {"seconds": 0.25}}]
        log.log({"step": 2, "loss": float("nan"), "deep": [{"x": -float("inf")}]}, {"rate": float("inf")})
        assert lines(run.metrics)[1] == {
            "step": 2, "loss": None, "deep": [{"x": None}], "timing": {"rate": None},
        }  # fmt: skip
        with pytest.raises(ValueError, match="argument `timing`"):
            log.log({"timing": 1})
    assert len(lines(run.metrics)) == 2


@pytest.mark.parametrize("stopped_after", range(10))
def test_a_rewound_log_equals_an_uninterrupted_one(tmp_path: Path, stopped_after: int) -> None:
    def write(log: MetricsLog, steps: range) -> None:
        for step in steps:
            log.log({"step": step, "loss": 1 / (step + 1)})

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    with MetricsLog(whole) as log:
        write(log, range(12))
    with MetricsLog(resumed) as log:
        write(log, range(stopped_after))
        position = log.position()
        write(log, range(stopped_after, 11))
    resumed.write_bytes(resumed.read_bytes()[:-5])  # killed in the middle of a line
    with MetricsLog(resumed) as log:
        log.rewind(position)
        assert log.position() == position
        write(log, range(stopped_after, 12))
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_log_shorter_than_the_checkpoint_says_is_refused(run: RunDirectory) -> None:
    with MetricsLog(run.metrics) as log:
        log.log({"step": 1})
        position = log.position()
        with pytest.raises(
            CheckpointError, match=rf"first {position + 1} bytes of {run.metrics}, which now has {position}"
        ):
            log.rewind(position + 1)
        assert len(lines(run.metrics)) == 1


@pytest.mark.parametrize("fault", [kill, disk_full])
def test_a_fault_in_logging_leaves_whole_lines_before_the_position(
    tmp_path: Path, fault: Callable[[], None]
) -> None:
    path = tmp_path / "metrics.jsonl"

    def fresh() -> Path:
        path.unlink(missing_ok=True)
        with MetricsLog(path) as log:
            log.log({"step": 1})
        return path

    def log_second(path: Path) -> None:
        with MetricsLog(path) as log:
            log.log({"step": 2})
            log.position()

    position = fresh().stat().st_size
    outcomes = []
    for _, outcome in each_operation(log_second, fault, fresh):
        outcomes.append(outcome)
        with MetricsLog(path) as log:
            log.rewind(position)
            log.log({"step": 3})
        assert lines(path) == [{"step": 1}, {"step": 3}]
    assert set(outcomes) == {Outcome.KILLED if fault is kill else Outcome.REPORTED}


# Predictions


def test_predictions_come_back_bit_for_bit(tmp_path: Path) -> None:
    values = random_floats(1000)
    values[:3] = [np.nan, -0.0, 1e-45]
    with PredictionLog(tmp_path / "p") as log:
        assert log.rows == 0
        assert log.read().shape == (0,)
        for block in np.array_split(values, 7):
            log.append(block)
        log.append(values[::-1])  # not contiguous
        log.sync()
        assert log.rows == 2000
        assert log.read().tobytes() == values.tobytes() + values[::-1].tobytes()
    assert np.fromfile(tmp_path / "p", "<f4").tobytes() == values.tobytes() + values[::-1].tobytes()


@pytest.mark.parametrize("torn", [0, 1, 2, 3])
def test_rewound_predictions_equal_uninterrupted_ones(tmp_path: Path, torn: int) -> None:
    values = random_floats(100)
    with PredictionLog(tmp_path / "p") as log:
        log.append(values[:40])
        log.append(random_floats(30, seed=1))
    with (tmp_path / "p").open("ab") as file:
        file.write(b"\1" * torn)  # killed in the middle of a row
    with PredictionLog(tmp_path / "p") as log:
        assert log.rows == 70
        log.append(values[70:])
        assert log.read()[70:].tobytes() == values[70:].tobytes(), "whole rows follow whole rows"
        log.rewind(40)
        assert log.rows == 40
        log.append(values[40:])
        assert log.read().tobytes() == values.tobytes()


def test_predictions_fewer_than_the_checkpoint_says_are_refused(tmp_path: Path) -> None:
    with PredictionLog(tmp_path / "p") as log:
        log.append(random_floats(10))
        with pytest.raises(CheckpointError, match=r"first 44 bytes of \S*p, which now has 40; restore"):
            log.rewind(11)
        assert log.rows == 10


def test_predictions_of_another_type_or_shape_are_refused(tmp_path: Path) -> None:
    with PredictionLog(tmp_path / "p") as log:
        for wrong in (np.zeros(3), np.zeros((3, 1), np.float32), np.zeros(3, np.int32)):
            with pytest.raises(ValueError, match="flat float32"):
                log.append(wrong)
        assert log.rows == 0


def test_a_log_that_cannot_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent"):
        PredictionLog(tmp_path / "absent" / "p")


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
