"""Steps in a row that cannot be learnt: back to the checkpoint before them, once; then the run ends."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dlrm_adahessian import cli, trainer
from dlrm_adahessian.distributed.checkpoint import latest
from dlrm_adahessian.errors import DivergedError
from dlrm_adahessian.progress import Progress, diverged
from reliability.runs import JOB, differences

COUNTERS = ("rollbacks", "rolled_back_at")

Fault = Callable[[int, int], bool]
"""Whether a step meets one, given how often the run went back before."""


@pytest.fixture
def meets(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fault], None]:
    """Put NaN into the input of the steps that a fault chooses."""
    real = trainer._Fit._step

    def install(fault: Fault) -> None:
        def step(fit: Any, batch: Any, following: Any) -> Any:
            if fault(fit.progress.step + 1, fit.progress.rollbacks):
                batch.dense[0, 0] = float("nan")
            return real(fit, batch, following)

        monkeypatch.setattr(trainer._Fit, "_step", step)

    return install


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rollback")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(folder: Path, name: str, *more: object) -> int:
    flags = [*JOB, "--epochs", 1, "--out", folder / name, "--data.cache-dir", folder / "cache", *more]
    return cli.main(["train", *map(str, flags)])


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    assert train(folder, "whole") == 0
    return folder / "whole"


def went_back(run: Path) -> list[dict[str, int]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "rollbacks" in line]


def test_passing_faults_leave_nothing_but_a_count(
    meets: Any, folder: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At 21 to 23, and on the second way to there a little later: both times back to 16."""
    spoilt = ({21, 22, 23}, {24, 25, 26}, set[int]())
    meets(lambda step, way: step in spoilt[way])
    assert train(folder, "passing") == 0
    assert differences(folder / "passing", whole, ignored=COUNTERS) == []
    assert json.loads((folder / "passing" / "summary.json").read_text())["rollbacks"] == 2
    assert went_back(folder / "passing") == [{"step": 16, "rollbacks": 2, "rolled_back_at": 26}]
    told = "went back to the checkpoint of step 16: the last 3 steps, up to step {}, were skipped"
    assert all(told.format(step) in caplog.text for step in (23, 26))


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
    """Two skipped steps, 5 and 6, are no reason to go back."""
    meets(lambda step, way: step in (5, 6) or step >= 20)
    assert train(folder, "stays") == DivergedError.exit_code
    told = capsys.readouterr().err
    assert "3 steps in a row, up to step 22, are not, and were not before the run went back" in told
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
    assert "up to step 3, are not, and there is no checkpoint yet to go back to" in capsys.readouterr().err


@pytest.mark.parametrize(("step", "new"), [(22, False), (23, False), (24, True)])
def test_trouble_is_new_only_past_the_step_that_the_run_went_back_from(step: int, new: bool) -> None:
    progress = Progress(step=16)
    progress.went_back_from(Progress(step=23, rollbacks=1))
    progress.step = step
    assert progress.rollbacks == 2
    assert progress.is_new_trouble is new


def test_the_refusal_says_rule_value_and_remedy() -> None:
    stuck = Progress(step=7, skipped_in_a_row=3)
    told = str(diverged(stuck, "so it is", dense_lr=0.1, rows_lr=2))
    assert told.startswith(
        "the loss and its derivatives must be finite, and those of 3 steps in a row, up to step 7, are not, "
    )
    assert "(dense 0.1, rows 2): lower --optim.dense.lr and --optim.rows.lr" in told
