"""Test that processes that share a comparison have the results of one process, and refuse to train other runs."""

import json
import logging
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dlrm_adahessian.cli import main
from dlrm_adahessian.compare import joining as joining_module
from dlrm_adahessian.compare import study as study_module
from dlrm_adahessian.compare import worker
from dlrm_adahessian.compare.config import CompareConfig
from dlrm_adahessian.compare.joining import joined
from dlrm_adahessian.compare.search import Search
from dlrm_adahessian.compare.study import Study, join_study, run_study
from dlrm_adahessian.compare.summary import summarize
from dlrm_adahessian.config import load
from dlrm_adahessian.errors import DataError, NoInputError, UsageError
from tests.compare.studies import arguments, in_this_thread
from tests.compare.test_study import without_clock
from tests.processes import worlds
from tests.processes.program import Command, call

PREDICTIONS = "*/runs/*/*.f32"


def bits(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob(PREDICTIONS)}


def holders(out: Path) -> set[int]:
    return {json.loads(path.read_text())["pid"] for path in out.glob("runs/*.lease-*")}


def figures(study: Study) -> object:
    return without_clock(summarize(study).asdict())


@pytest.fixture
def begun(models: Study, tmp_path: Path) -> Path:
    """Return the folder of a finished comparison, whose runs no process holds."""
    return shutil.copytree(models.config.out, tmp_path / "study")


def test_who_joins_has_the_settings_and_the_rows_of_who_began(models: Study, begun: Path) -> None:
    config, data, threads = joined(begun, 4)
    assert threads == len(os.sched_getaffinity(0)), "one run at a time uses all cores"
    assert config == replace(models.config, out=begun, parallel=4, device="cpu")
    assert data.fingerprint == models.data.fingerprint


def test_who_joins_trains_what_nobody_works_on_and_waits_for_the_rest(
    models: Study, begun: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = bits(begun.parent)
    one, other, held = (
        (begun / "runs" / run.folder.name for run in models.contenders[1].finals[:1]),
        *(begun / "runs" / contender.trials[0].folder.name for contender in models.contenders),
    )
    for run in (*one, other):
        shutil.rmtree(run)
    elsewhere = shutil.move(held, begun / "elsewhere")
    lease = held.with_name(f"{held.name}.lease-2")
    lease.write_text(json.dumps({"host": "node-7", "pid": 4711, "started": 5, "system": "other"}))
    looks = []

    async def finish_there(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            shutil.move(elsewhere, held)

    with in_this_thread() as patch, caplog.at_level(logging.INFO, "dlrm_adahessian"):
        patch.setattr(study_module.asyncio, "sleep", finish_there)
        join_study(begun, 1)
    assert looks == [5.0, 5.0]
    assert "Waiting for 1 trained by other processes: node-7 (process 4711)" in caplog.text
    assert f"All 6 runs of {begun} are done" in caplog.text
    assert bits(begun.parent) == expected
    assert not (begun / "report.html").exists()


def test_what_is_left_of_a_trained_run_is_done_and_no_more(
    models: Study, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise RuntimeError("killed")

    run = begun / "runs" / models.contenders[0].finals[0].folder.name
    expected = (run / "curvature.json").read_bytes()
    shutil.rmtree(run)
    with monkeypatch.context() as patch, in_this_thread():
        patch.setattr(worker, "curvature_by_band", dies)
        with pytest.raises(RuntimeError, match="killed"):
            join_study(begun, 1)
    assert (run / "summary.json").exists()
    monkeypatch.setattr("dlrm_adahessian.train.run_cache.fit", dies)
    with in_this_thread():
        join_study(begun, 1)
    assert (run / "curvature.json").read_bytes() == expected
    assert not (run / "checkpoints").exists()


def test_trials_that_are_drawn_together_are_those_drawn_one_after_another() -> None:
    together, apart = (Search(load(None, "hybrid"), "random", 7) for _ in range(2))
    losses = [0.5, 0.4, None, 0.45]
    asked = [together.ask() for _ in losses]
    for (trial, drawn), loss in zip(asked, losses, strict=True):
        expected, parameters = apart.ask()
        assert drawn == parameters
        apart.tell(expected, loss)
        together.tell(trial, loss)
    assert together.refine()[1] == apart.refine()[1]


def _share(begins: bool, config: CompareConfig, meeting: Path) -> None:
    (meeting / str(os.getpid())).touch()
    while len([*meeting.iterdir()]) < 2:
        time.sleep(0.01)
    with in_this_thread() as patch:
        patch.setattr(study_module, "_LOOK_EVERY", 0.05)
        if begins:
            (meeting.parent / "figures").write_text(json.dumps(figures(run_study(config))))
        else:
            join_study(config.out, 1)


@pytest.mark.dist
def test_two_processes_have_the_results_of_one(study: Study, tmp_path: Path) -> None:
    config = replace(study.config, out=tmp_path / "study")
    config.out.mkdir()
    shutil.copy(study.config.out / "comparison.json", config.out)
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    processes = [
        worlds.start(1, _share, begins, config, meeting, log=tmp_path / f"begins-{begins}")[0]
        for begins in (True, False)
    ]
    assert worlds.wait(processes, 120) == [0, 0], worlds.printed(tmp_path / "begins-False", 0)
    assert bits(tmp_path) == bits(study.config.out.parent)
    assert json.loads((tmp_path / "figures").read_text()) == json.loads(json.dumps(figures(study)))
    assert holders(config.out) == {int(path.name) for path in meeting.iterdir()}, "both trained"


@pytest.mark.campaign
@pytest.mark.slow
def test_four_processes_of_which_two_are_killed_have_the_results_of_one(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "cache", tmp_path / "cache")
    out = tmp_path / "study"
    out.mkdir()
    said = json.loads((finished / "study" / "comparison.json").read_text())
    said["joining"]["settings"]["lease"] = 12
    (out / "comparison.json").write_text(json.dumps(said))  # so all processes can start together
    others = [Command("compare", "--join", out, log=tmp_path / f"joins-{n}") for n in range(3)]
    first = Command(*arguments(tmp_path), "--lease", "12", log=tmp_path / "first")
    deadline = time.monotonic() + 120
    while len(done := [*out.glob("runs/*/summary.json")]) < 2 or (len(done) < 5 and len(holders(out)) < 4):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed = [first, others[0]]
    for process in killed:
        process.kill()
        process.wait()
    for lease in out.glob(
        "runs/*.lease-*"
    ):  # leases look like those of other machines, whose processes cannot be checked
        if lease.stat().st_mtime:
            lease.write_text(json.dumps({**json.loads(lease.read_text()), "system": "other"}))
    assert [process.wait(300) for process in others[1:]] == [0, 0], others[1].printed() + others[2].printed()
    assert "All 8 runs" in others[1].printed()
    assert bits(tmp_path) == bits(finished)
    written = {path: path.stat().st_mtime_ns for path in out.glob(PREDICTIONS)}
    code, _, err = call(*arguments(tmp_path), "--lease", "12")
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in out.glob(PREDICTIONS)} == written
    one, shared = (
        json.loads((folder / "study" / "summary.json").read_text()) for folder in (finished, tmp_path)
    )
    assert without_clock(shared) == without_clock(one)
    again = len([*out.glob("runs/*.lease-[!1]*")])
    print(
        f"{len(done)} runs done at the kill, {again} leases taken over, {len(holders(out))} processes trained"
    )


def test_another_program_or_preset_is_refused_with_what_differs(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = joining_module.packages()
    with monkeypatch.context() as patch:
        patch.setattr(joining_module, "packages", lambda: {**found, "numba": "0.1"})
        with pytest.raises(
            UsageError, match=rf"packages\.numba {found['numba']} -> 0\.1\. Install the versions"
        ):
            joined(begun, 1)
    with monkeypatch.context() as patch:
        patch.setattr(joining_module, "program", lambda: "other")
        with pytest.raises(UsageError, match=r"the program of .* differ here: the sources\. Install"):
            joined(begun, 1)
    said = json.loads((begun / "comparison.json").read_text())
    said["joining"]["entrants"]["dlrm"]["optim"]["dense"]["lr"] = 7.0
    (begun / "comparison.json").write_text(json.dumps(said))
    with pytest.raises(UsageError, match=r"the presets of .* differ here: dlrm\.optim\.dense\.lr 7\.0 -> "):
        joined(begun, 1)


def test_an_optimizer_in_a_file_is_found_from_any_folder(
    models: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text(
        'curvature = "none"\n[optim.dense]\nname = "sgd"\n[optim.rows]\nname = "sgd"\n'
    )
    monkeypatch.chdir(tmp_path)
    config = replace(models.config, optimizers="adagrad,mine.toml")
    found = joining_module.joining(config, models.data, "cpu", 1)
    assert found["settings"]["optimizers"] == f"adagrad,{tmp_path / 'mine.toml'}"
    assert found["entrants"]["dlrm/mine"]["optimizer"] == "mine"


def test_a_comparison_that_cannot_be_joined_says_why(begun: Path) -> None:
    said = json.loads((begun / "comparison.json").read_text())

    def say(**changed: object) -> None:
        (begun / "comparison.json").write_text(json.dumps({**said, **changed}))

    say(prepared="a" * 16)
    with pytest.raises(DataError, match="data in .* has changed since"):
        joined(begun, 1)
    say(joining={**said["joining"], "rows": str(begun / "gone")})
    with pytest.raises(DataError, match="gone.* must be on a disk that all machines share.*--data.cache-dir"):
        joined(begun, 1)
    del said["joining"]
    say()
    with pytest.raises(UsageError, match=r"was started by an earlier version, .*\. Run its command again"):
        joined(begun, 1)
    with pytest.raises(
        NoInputError, match="no comparison was started there or its data is still being prepared"
    ):
        joined(begun / "runs", 1)


def test_who_joins_gives_no_settings(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--join", str(begun), "--trials", "3", "--seeds=2"]) == 64
    assert (
        "so it does not accept --trials, --seeds. Pass only --join and --parallel." in capsys.readouterr().err
    )
    assert main(["compare", "--join", str(begun.parent), "--parallel", "2"]) == 66
    assert "has no comparison.json" in capsys.readouterr().err
