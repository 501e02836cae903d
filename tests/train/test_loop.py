"""Skipped steps lead back to each checkpoint once, and a run with more epochs equals one planned so from the start."""

import gzip
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from dlrm_adahessian import cli
from dlrm_adahessian.checkpoint.reader import latest
from dlrm_adahessian.errors import CheckpointError, DivergedError
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.train import loop
from dlrm_adahessian.train.progress import Progress, diverged
from tests.reliability.runs import JOB, committed, differences

pytestmark = pytest.mark.usefixtures("one_thread")

COUNTERS = ("rollbacks", "rolled_back_to")

Fault = Callable[[int, int], bool]
"""Whether a step gets a fault, given the number of rollbacks so far."""


@pytest.fixture
def meets(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fault], None]:
    """Put NaN into the input of the steps that a fault selects."""
    real = loop._Fit._step

    def install(fault: Fault) -> None:
        def step(fit: Any, batch: Any, following: Any) -> Any:
            if fault(fit.progress.step + 1, fit.progress.rollbacks):
                batch.dense[0, 0] = float("nan")
            return real(fit, batch, following)

        monkeypatch.setattr(loop._Fit, "_step", step)

    return install


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rollback")


def train(folder: Path, name: str, *more: object) -> int:
    flags = [*JOB, "--epochs", 1, "--out", folder / name, "--data.cache-dir", folder / "cache", *more]
    return cli.main(["train", *map(str, flags)])


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    assert train(folder, "whole") == 0
    return folder / "whole"


def test_a_profiled_run_is_the_same_and_its_trace_names_the_parts_of_each_step(
    folder: Path, whole: Path
) -> None:
    assert train(folder, "profiled", "--profile", 2) == 0
    assert differences(folder / "profiled", whole) == []
    trace = json.loads(gzip.decompress((folder / "profiled" / "profile" / "rank-0.json.gz").read_bytes()))
    names = [event["name"] for event in trace["traceEvents"] if event.get("cat") == "user_annotation"]
    parts = ("feed", "look up", "differentiate", "exchange", "dense update", "row update")
    assert {part: names.count(part) for part in parts} == dict.fromkeys(parts, 2)
    assert not (whole / "profile").exists()


def went_back(run: Path) -> list[dict[str, int]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "rollbacks" in line]


def test_passing_faults_leave_nothing_but_a_count(
    meets: Any, folder: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Faults at 21 to 23 lead back to 16. Later faults lead back to 24, a checkpoint saved after the first rollback."""
    spoilt = ({21, 22, 23}, {25, 26, 27}, set[int]())
    meets(lambda step, way: step in spoilt[way])
    assert train(folder, "passing", "--no-checkpoint-in-background") == 0
    assert differences(folder / "passing", whole, ignored=COUNTERS) == []
    assert json.loads((folder / "passing" / "summary.json").read_text())["rollbacks"] == 2
    assert went_back(folder / "passing") == [
        {"step": 16, "rollbacks": 1, "rolled_back_at": 23},
        {"step": 24, "rollbacks": 2, "rolled_back_at": 27},
    ]
    told = "went back to the checkpoint of step {}, because the last 3 steps up to step {} were skipped"
    assert all(told.format(*steps) in caplog.text for steps in ((16, 23), (24, 27)))


def test_a_checkpoint_that_is_due_among_skipped_steps_waits_and_the_last_steps_are_repeated_too(
    meets: Any, folder: Path, whole: Path
) -> None:
    spoilt = ({15, 16, 17}, {38, 39, 40}, set[int]())
    meets(lambda step, way: step in spoilt[way])
    assert train(folder, "across", "--no-checkpoint-in-background") == 0
    assert differences(folder / "across", whole, ignored=COUNTERS) == []
    assert went_back(folder / "across") == [
        {"step": 8, "rollbacks": 1, "rolled_back_at": 17},
        {"step": 32, "rollbacks": 2, "rolled_back_at": 40},
    ]


def test_a_fault_that_stays_ends_the_run_and_what_was_saved_is_finite(
    meets: Any, folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Only two skipped steps, 5 and 6, cause no rollback."""
    meets(lambda step, way: step in (5, 6) or step >= 20)
    assert train(folder, "stays") == DivergedError.exit_code
    told = capsys.readouterr().err
    assert "3 steps in a row, up to step 22. The run already went back to the checkpoint of step 16." in told
    assert caplog.text.count(" skipped: ") == 2 + 3 + 3
    saved = latest(folder / "stays" / "checkpoints")
    assert saved is not None
    assert saved.name == "step-00000016"
    assert all(t.isfinite().all() for file in saved.glob("*.safetensors") for t in load_file(file).values())
    assert json.loads((saved / "state.json").read_text())["state"]["progress"]["skipped"] == 2


def test_without_a_checkpoint_the_run_ends_at_once(
    meets: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meets(lambda step, way: step < 4)
    assert train(folder, "none") == DivergedError.exit_code
    assert "up to step 3. There is no checkpoint to go back to." in capsys.readouterr().err


def test_a_baseline_that_diverges_leaves_the_run_its_results(
    folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = loop._Fit._step

    def step(fit: Any, batch: Any, following: Any) -> Any:
        if fit.config.optimizer == "adagrad":
            batch.dense[0, 0] = float("nan")
        return real(fit, batch, following)

    monkeypatch.setattr(loop._Fit, "_step", step)
    assert train(folder, "compared", "--baseline", "adagrad") == 0
    assert "no difference from adagrad is reported, because the baseline diverged: " in caplog.text
    assert differences(folder / "compared", whole) == []
    assert json.loads((folder / "compared" / "summary.json").read_text())["baseline"] is None


def test_a_run_that_fails_a_step_later_each_time_ends_at_the_second_one(
    meets: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This happens if sums are not reproducible. Without a bound, the run would go back forever."""
    meets(lambda step, way: step >= 20 + way)
    assert train(folder, "later") == DivergedError.exit_code
    assert "up to step 23. The run already went back to the checkpoint of step 16." in capsys.readouterr().err


def test_steps_skipped_before_a_stop_do_not_count_after_going_back(meets: Any, folder: Path) -> None:
    """The checkpoint after SIGTERM, at step 22, has two skipped steps in a row."""

    def fault(step: int, way: int) -> bool:
        if step == 21:
            os.kill(os.getpid(), signal.SIGTERM)
        return step in (21, 22) or (step == 23 and way < 2)

    meets(fault)
    assert train(folder, "stopped") == 128 + signal.SIGTERM
    assert train(folder, "stopped", "--resume") == 0
    assert went_back(folder / "stopped") == [{"step": 22, "rollbacks": 1, "rolled_back_at": 23}]
    summary = json.loads((folder / "stopped" / "summary.json").read_text())
    assert summary["skipped_steps"] == 3, "21 and 22, and 23 the second time"


@pytest.mark.parametrize(
    ("name", "more", "best"), [("better", [], 80), ("worse", ["--optim.rows.lr", "0.3"], 40)]
)
def test_training_longer_equals_having_planned_it(
    name: str, more: list[str], best: int, folder: Path
) -> None:
    """Also if the best checkpoint of the shorter run was its last one, which has no copy in best/."""
    constant = ["--optim.schedule.warmup", 0, "--optim.schedule.decay", "none", *more]
    assert train(folder, f"{name}-planned", *constant, "--epochs", 2) == 0
    assert train(folder, f"{name}-longer", *constant) == 0
    resumed = ["train", "--out", str(folder / f"{name}-longer"), "--resume", "--epochs", "2"]
    assert cli.main(resumed) == 0
    planned, longer = folder / f"{name}-planned", folder / f"{name}-longer"
    assert differences(longer, planned) == []
    assert committed(longer) == 80
    kept = [run / "best" / f"step-{best:08d}" for run in (planned, longer)]
    for file in ("dense.safetensors", "tables-00000.safetensors"):
        assert (kept[0] / file).read_bytes() == (kept[1] / file).read_bytes()
    assert RunDirectory(longer).read_config()["epochs"] == 2
    assert cli.main([*resumed, "--epochs", "1"]) == CheckpointError.exit_code


def test_a_longer_run_that_is_killed_before_its_first_checkpoint_goes_on(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    constant = ["--optim.schedule.warmup", 0, "--optim.schedule.decay", "none"]
    assert train(folder, "cut", *constant) == 0
    resumed = ["train", "--out", str(folder / "cut"), "--resume"]
    with monkeypatch.context() as patched:
        patched.setattr(loop._Fit, "_step", lambda *_: pytest.exit("killed"))
        with pytest.raises(pytest.exit.Exception):
            cli.main([*resumed, "--epochs", "2"])
    assert committed(folder / "cut") == 40
    scored = ["evaluate", "--run", str(folder / "cut"), "--out", str(folder / "cut.parquet"), "--data-path"]
    (prepared,) = folder.glob("cache/synthetic-*[0-9a-f]")
    assert cli.main([*scored, str(prepared), "--part", "test"]) == 0
    assert cli.main(resumed) == 0
    assert committed(folder / "cut") == 80


@pytest.mark.parametrize(("step", "may"), [(15, False), (16, False), (17, True)])
def test_a_run_goes_back_only_to_a_checkpoint_after_the_one_that_it_went_back_to(
    step: int, may: bool
) -> None:
    progress = Progress(step=16, skipped_in_a_row=2)
    progress.went_back_from(Progress(step=23, rollbacks=1))
    assert progress.rollbacks == 2
    assert progress.skipped_in_a_row == 0
    progress.step = 40
    assert progress.may_go_back_to(step) is may


def test_the_refusal_says_rule_value_and_remedy() -> None:
    stuck = Progress(step=7, skipped_in_a_row=3)
    told = str(diverged(stuck, "So it is.", dense_lr=0.1, rows_lr=2))
    assert told.startswith(
        "The loss or its derivatives were not finite in 3 steps in a row, up to step 7. So it is. "
    )
    assert "(dense 0.1, rows 2). Lower --optim.dense.lr and --optim.rows.lr" in told
