"""Test a daily study against separate runs of `train`, and against scikit-learn."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from dlrm_adahessian import cli
from dlrm_adahessian.daily import job
from tests.processes import worlds
from tests.train.days import FLAGS, write_days

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("daily")
    write_days(folder)
    return folder


def flags(folder: Path, out: Path, days: str = "days") -> list[str]:
    found = ["--schema", folder / "counted.toml", "--data-path", folder / days, "--out", out]
    return [*map(str, [*found, "--data.cache-dir", folder / "cache", "--optimizer", "adagrad"]), *FLAGS]


def daily(folder: Path, out: Path, *more: str, days: str = "days", code: int = 0) -> Path:
    assert cli.main(["daily", *flags(folder, out, days), *more]) == code
    return out


@pytest.fixture(scope="module")
def study(folder: Path) -> Path:
    return daily(folder, folder / "study")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def predictions(run: Path) -> np.ndarray:
    return np.fromfile(run / "test.f32", "<f4")


def labels(folder: Path, day: int) -> np.ndarray:
    """Return the labels of the first half of a day, which is the test set."""
    clicks = pd.read_csv(folder / "days" / f"day_{day}.csv")["y"].to_numpy()
    return clicks[: len(clicks) // 2]


def test_its_runs_are_those_that_train_would_make(folder: Path, study: Path) -> None:
    parts = ["--data.train-files", "day_0.csv", "--data.test-files", "day_1.csv"]
    first = folder / "first"
    assert cli.main(["train", *flags(folder, first), "--baseline", "none", *parts]) == 0
    parts = ["--data.train-files", "day_1.csv", "--data.test-files", "day_2.csv"]
    rows = ["--data-path", str(folder / "days"), *parts]
    assert cli.main(["train", "--init-from", str(first), *rows, "--out", str(folder / "second")]) == 0
    parts = ["--data.train-files", "day_0.csv", "day_1.csv", "--data.test-files", "day_2.csv"]
    anew = folder / "anew"
    assert cli.main(["train", *flags(folder, anew), "--baseline", "none", *parts]) == 0
    runs = ("warm/01-day_0.csv", "warm/02-day_1.csv", "scratch/02-day_1.csv")
    for name, expected in zip(runs, (first, folder / "second", anew), strict=True):
        for file in ("test.f32", "progressive.f32"):
            assert (study / name / file).read_bytes() == (expected / file).read_bytes(), name


def test_figures_are_those_of_scikit_learn(folder: Path, study: Path) -> None:
    found = read(study / "summary.json")
    assert [day["day"] for day in found["days"]] == ["day_0.csv", "day_1.csv", "day_2.csv"]
    assert found["days"][0]["difference"] is None
    both: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for place, day in enumerate(found["days"]):
        clicks = labels(folder, place + 1)
        for kind in ("warm", "scratch"):
            if kind in day:
                scored = predictions(study / kind / f"{place + 1:02d}-day_{place}.csv").astype(float)
                assert day[kind]["test"]["logloss"] == pytest.approx(log_loss(clicks, scored), abs=1e-9)
                assert day[kind]["test"]["auc"] == pytest.approx(roc_auc_score(clicks, scored), abs=1e-12)
        if place:
            name = f"{place + 1:02d}-day_{place}.csv"
            both.append((clicks, *(predictions(study / kind / name) for kind in ("warm", "scratch"))))
    clicks, warm, scratch = (np.concatenate(parts).astype(float) for parts in zip(*both, strict=True))
    difference = found["difference"]
    assert difference["logloss"] == pytest.approx(
        log_loss(clicks, warm) - log_loss(clicks, scratch), abs=1e-9
    )
    # Mean of the differences per sample, and its interval from the normal distribution.
    per_sample = np.where(clicks == 1, np.log(scratch / warm), np.log((1 - scratch) / (1 - warm)))
    reach = 1.96 * per_sample.std(ddof=1) / len(per_sample) ** 0.5
    expected = [per_sample.mean() - reach, per_sample.mean() + reach]
    np.testing.assert_allclose(difference["logloss_ci95"], expected, rtol=1e-3)


def test_finished_runs_are_taken_and_more_days_extend_a_study(
    folder: Path, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study of fewer days has the same runs as the first days of a longer one."""
    (folder / "fewer").mkdir()
    for number in range(3):
        shutil.copy(folder / "days" / f"day_{number}.csv", folder / "fewer")
    grown = daily(folder, folder / "grown", days="fewer")
    assert len(read(grown / "summary.json")["days"]) == 2
    shutil.copy(folder / "days" / "day_3.csv", folder / "fewer")
    trained: list[str] = []
    real = job.fit

    def fit(*run: Any, title: str, **more: Any) -> Any:
        trained.append(title)
        return real(*run, title=title, **more)

    monkeypatch.setattr(job, "fit", fit)
    daily(folder, grown, days="fewer")
    assert trained == ["day_2.csv, warm start", "up to day_2.csv, from scratch"]
    for run in sorted(study.glob("*/*-day_*")):
        other = grown / run.relative_to(study)
        assert (other / "test.f32").read_bytes() == (run / "test.f32").read_bytes()


def test_a_study_that_was_killed_goes_on(folder: Path, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study is interrupted between two runs, and then a result is damaged."""

    def fit(*run: Any, title: str, **more: Any) -> Any:
        if title == "day_2.csv, warm start":
            raise KeyboardInterrupt
        return real(*run, title=title, **more)

    real = job.fit
    monkeypatch.setattr(job, "fit", fit)
    broken = daily(folder, folder / "broken", "--retrain", "never", code=130)
    monkeypatch.undo()
    damaged = broken / "warm" / "02-day_1.csv" / "test.f32"
    damaged.write_bytes(bytes(len(damaged.read_bytes())))
    daily(folder, broken, "--retrain", "last")
    runs = sorted(str(run.relative_to(broken)) for run in broken.glob("*/*-day_*"))
    warm = [f"warm/0{number + 1}-day_{number}.csv" for number in range(3)]
    assert runs == ["scratch/03-day_2.csv", *warm]
    for name in runs:
        assert (broken / name / "test.f32").read_bytes() == (study / name / "test.f32").read_bytes()


def test_two_ranks_study_as_one(folder: Path, study: Path) -> None:
    out = folder / "ranks"
    arguments = ["daily", *flags(folder, out), "--retrain", "last"]
    worlds.run(2, _run, arguments, log=folder / "log")
    ours, theirs = (read(path / "summary.json")["days"][-1] for path in (out, study))
    for kind in ("warm", "scratch"):
        assert ours[kind]["test"]["logloss"] == pytest.approx(theirs[kind]["test"]["logloss"], abs=1e-6)


def _run(arguments: list[str]) -> None:
    assert cli.main(arguments) == 0


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--data-path", "{folder}/days/day_0.csv"], 64, "requires at least 3 files, but"),
        (["--lr", "0.5"], 3, "optim.dense.lr"),
        (["--dataset", "synthetic"], 64, "--dataset synthetic has no files"),
        (["--out", "{folder}/study/warm/01-day_0.csv"], 64, "contains a training run"),
    ],
)
def test_what_is_no_study_is_refused(
    folder: Path, study: Path, more: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    daily(folder, study, *(text.format(folder=folder) for text in more), code=code)
    assert words in capsys.readouterr().err


def test_the_report_says_which_is_better_and_what_it_cost(study: Path) -> None:
    page = (study / "report.html").read_text()
    assert page.count("<svg") == 6
    assert "training from scratch" in page
    assert "It trained on 2,048 samples, and training from scratch on 5,120: 2.5 times as many." in page
    table = pd.read_csv(study / "days.csv")
    assert table.groupby("run")["samples"].sum().to_dict() == {"scratch": 5120, "warm": 3072}
