"""Calibration end to end on a small run, against scikit-learn on the predictions of `evaluate`."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from dlrm_adahessian.cli import main
from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.synthetic.generator import write_tsv
from dlrm_adahessian.evaluation.calibration.job import CalibratedRun
from dlrm_adahessian.evaluation.calibration.stored import NAME, Calibration
from dlrm_adahessian.evaluation.figures import differences
from dlrm_adahessian.evaluation.job import score_lines
from dlrm_adahessian.runs.sealed_json import read_sealed_json, write_sealed_json
from tests.commands.found import LABELS, OURS, THEIRS, summary
from tests.evaluation.jobs import ROWS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """Return samples of the same click model that no run was trained on."""
    path = tmp_path_factory.mktemp("new") / "new.txt"
    write_tsv(SyntheticConfig(), ROWS + 2_000, path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[ROWS:]))
    return path


@pytest.fixture
def run(place, tmp_path):
    """Return a copy of the run, which the test may calibrate."""
    return shutil.copytree(place / "hybrid", tmp_path / "run")


@pytest.fixture
def call(capsys):
    def call(command, *arguments, code=0):
        capsys.readouterr()
        found = main([command, *map(str, arguments)])
        out, err = capsys.readouterr()
        assert found == code, err
        return err if code else out

    return call


@pytest.fixture
def predicted(call, tmp_path):
    def predicted(run, rows, *flags):
        out = tmp_path / "predictions.parquet"
        call("evaluate", "--run", run, "--data-path", rows, "--out", out, *flags)
        return pd.read_parquet(out)

    return predicted


@pytest.mark.oracle
@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_evaluate_predicts_with_what_was_fitted_on_the_validation_rows(
    method, run, place, new, call, predicted
):
    more = [] if method == "platt" else ["--data-path", new]
    found = json.loads(call("calibrate", "--run", run, "--method", method, "--json", *more))
    seen = predicted(run, new) if more else predicted(run, place / "rows.txt", "--part", "val")
    assert found["rows"] == found["calibration"]["rows"]["samples"] == len(seen)
    plain, calibrated = predicted(run, new), predicted(run, new, "--calibrated")
    z = logit(plain["probability"].to_numpy(np.float64))
    if method == "platt":
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
        model.fit(logit(seen[["probability"]].to_numpy(np.float64)), seen["label"])
        expected = model.predict_proba(z[:, None])[:, 1]
    else:
        points = found["calibration"]["map"]
        expected = expit(np.interp(z, points["thresholds"], points["values"]))
    np.testing.assert_allclose(calibrated["probability"], expected, rtol=2e-5)
    assert (calibrated["probability"] != plain["probability"]).mean() > 0.9


@pytest.mark.oracle
def test_figures_before_and_after_are_on_the_same_rows(run, new, call, predicted):
    found = json.loads(call("calibrate", "--run", run, "--data-path", new, "--json"))
    before, after = found["models"]
    assert (before["name"], after["name"]) == ("run", "run calibrated")
    plain = predicted(run, new)
    assert before["logloss"] == pytest.approx(
        log_loss(plain["label"], plain["probability"].astype(float)), rel=1e-9
    )
    (difference,) = found["differences"]
    assert difference["logloss"] == pytest.approx(after["logloss"] - before["logloss"], abs=1e-12)
    # Cross-fitting is worse by the cost of two parameters on 2,000 samples.
    own = log_loss(plain["label"], predicted(run, new, "--calibrated")["probability"].astype(float))
    assert 0 < after["logloss"] - own < 10 / 2_000
    assert abs(after["calibration"] - 1) < 0.01 < abs(before["calibration"] - 1)


def test_rows_that_the_run_was_trained_on_are_refused(run, place, call):
    prepared = json.loads((run / "config.json").read_text())["prepared"]["folder"]
    for data in (["--data-path", place / "rows.txt"], ["--data-path", prepared], ["--part", "train"]):
        told = call("calibrate", "--run", run, *data, code=64)
        assert "run was trained on some samples of" in told
        assert "Pass later data with --data-path, or use the held-out samples with --part val" in told
    assert not (run / NAME).exists()
    call("calibrate", "--run", run, "--data-path", place / "rows.txt", "--part", "test")
    assert Calibration.read(run).rows.part == "test"


def test_rows_that_the_calibration_was_fitted_on_are_told(run, place, new, call, caplog, tmp_path):
    def calibrated_on(data, *flags, calibrated=True):
        caplog.clear()
        more = [*flags, *(["--calibrated"] if calibrated else [])]
        found = json.loads(call("evaluate", "--run", run, "--data-path", data, "--json", *more))
        told = (
            "run was calibrated on some of these samples, so its figures are slightly too good for new data"
        )
        assert (told in caplog.text) == bool(found["calibrated_on"])
        return found["calibrated_on"]

    copy, other = tmp_path / "copy.txt", tmp_path / "other.txt"
    copy.write_bytes(new.read_bytes())
    other.write_bytes(b"".join(new.read_bytes().splitlines(keepends=True)[1:]))
    call("calibrate", "--run", run, "--data-path", new)
    assert calibrated_on(copy) == ["run"]
    assert calibrated_on(copy, calibrated=False) == []
    assert calibrated_on(other) == []
    own = place / "rows.txt"
    assert calibrated_on(own, "--part", "val") == []
    call("calibrate", "--run", run)
    assert [calibrated_on(own, "--part", part) for part in ("val", "test")] == [["run"], []]
    prepared = json.loads((run / "config.json").read_text())["prepared"]["folder"]
    assert calibrated_on(prepared) == ["run"]
    assert calibrated_on(new) == []


def test_without_the_prepared_rows_others_are_asked_for(run, call, new):
    config = json.loads((run / "config.json").read_text())
    config["prepared"]["folder"] = str(run / "gone")
    (run / "config.json").write_text(json.dumps(config))
    told = call("calibrate", "--run", run, code=66)
    assert (
        f"folder {run / 'gone'} does not exist. Pass data that the run was not trained on with --data-path"
        in told
    )
    call("calibrate", "--run", run, "--data-path", new)


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_calibration_of_another_checkpoint_is_never_used(command, run, new, call, tmp_path):
    flags = [
        "--calibrated",
        *(["--data-path", new] if command == "evaluate" else ["--out", tmp_path / "model"]),
    ]
    assert "has no calibration. Fit one with calibrate" in call(command, "--run", run, *flags, code=66)
    early = min((run / "checkpoints").glob("step-*"))
    call("calibrate", "--run", early, "--data-path", new)
    told = call(command, "--run", run, *flags, code=3)
    assert f"belongs to step {int(early.name[5:])}, not to" in told
    assert f"Run calibrate --run {run} again" in told
    call("calibrate", "--run", run, "--data-path", new)
    said = read_sealed_json(run / NAME)
    for change in (
        {"step": said["step"] + 1},
        {"digest": "0" * 32},
        {"map": {"method": "platt", "slope": -1, "intercept": 0}},
    ):
        write_sealed_json(run / NAME, {**said, **change})
        assert f"Run calibrate --run {run} again" in call(command, "--run", run, *flags, code=3)
    assert not (tmp_path / "model").exists()


def test_too_few_rows_and_one_class_leave_no_calibration(run, new, call, tmp_path):
    lines = new.read_bytes().splitlines(keepends=True)
    for name, some, told in (
        (
            "few",
            lines[:50],
            "requires 100 labeled samples with positive weight, 10 of each class, but found 50 with",
        ),
        (
            "zeros",
            [line for line in lines if line[:1] == b"0"],
            "with 0 clicks. Provide more data with --data-path",
        ),
        ("unlabelled", [line[2:] for line in lines], "found 0 with 0 clicks"),
    ):
        (tmp_path / name).write_bytes(b"".join(some))
        assert told in call("calibrate", "--run", run, "--data-path", tmp_path / name, code=65)
    assert not (run / NAME).exists()


def test_lines_of_a_pipe_get_calibrated_probabilities(run, new, call, predicted):
    call("calibrate", "--run", run, "--data-path", new)
    with new.open("rb") as lines:
        found = np.concatenate(list(score_lines(run, lines, best=False, calibrated=True)))
    np.testing.assert_allclose(found, predicted(run, new, "--calibrated")["probability"], rtol=1e-5)


def test_the_table_and_the_report_say_that_it_is_calibrated(run, new, call, tmp_path):
    shown = call("calibrate", "--run", run, "--data-path", new, "--report", tmp_path / "report.html")
    assert "Calibration written to run/calibration.json: platt, slope " in shown
    assert "run calibrated minus run [95% interval]" in shown
    page = (tmp_path / "report.html").read_text()
    assert "run calibrated" in page
    assert shown.splitlines()[-3] in page, "the verdict"
    assert "of " + str(run) + ", calibrated by platt" in call(
        "evaluate", "--run", run, "--data-path", new, "--calibrated"
    )
    assert "--report writes an HTML file" in call("calibrate", "--run", run, "--report", "x.pdf", code=64)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (THEIRS, OURS, "did not measurably help on this data: the interval of the difference in log loss, "),
        (np.full(6, 0.5, np.float32), np.where(LABELS, 0.8, 0.2).astype(np.float32), "lowers the log loss: "),
        (np.where(LABELS, 0.8, 0.2).astype(np.float32), np.full(6, 0.5, np.float32), "raises the log loss: "),
    ],
)
def test_a_sentence_says_whether_it_helped(before, after, told):
    found = CalibratedRun(
        file=None,
        calibration=None,
        summary=replace(summary(), differences=differences(LABELS, {"run": before, "run calibrated": after})),
        predictions=None,
    )
    assert f"Calibration {told}" in found.verdict
