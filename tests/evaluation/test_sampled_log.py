"""Models of a log with a quarter of the non-clicks, against models that take the log as complete, and scikit-learn."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import zscore
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from dlrm_adahessian.cli import main
from dlrm_adahessian.evaluation.job import score_lines

SCHEMA = """
weight = { column = "w" }
[[dense]]
column = "x"
[[tokens]]
column = "t"
[label]
column = "y"
"""
SIZE = ["--model.embedding-dim", "4", "--model.bottom", "4", "--model.top", "4", "--batch-size", "64"]

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a log, new partly labeled data, and two runs: one takes the log as complete, one does not."""
    folder = tmp_path_factory.mktemp("sampled")
    rng = np.random.default_rng(0)
    for name, rows in (("log", 600), ("new", 200)):
        x, t = rng.exponential(size=rows).round(2), rng.integers(0, 9, rows)
        y = (rng.random(rows) < 1 / (1 + np.exp(1 - x - 0.2 * t))).astype(float)
        frame = pd.DataFrame({"y": y, "x": x, "t": t, "w": rng.choice([0.5, 1.0, 2.0], rows)})
        frame["y"] = frame["y"].astype("Int8")
        if name == "new":
            frame.loc[::10, "y"] = None
        frame.to_csv(folder / f"{name}.csv", index=False)
    for name, rate in (("all", ""), ("quarter", "negative_rate = 0.25")):
        (folder / f"{name}.toml").write_text(SCHEMA + rate)
        rows = ["--schema", folder / f"{name}.toml", "--data-path", folder / "log.csv"]
        where = ["--data.cache-dir", folder / "cache", "--out", folder / name]
        assert main(list(map(str, ["train", *rows, *where, *SIZE, "--baseline", "none"]))) == 0
    return folder


@pytest.fixture
def evaluated(place, capsys):
    def call(*arguments, code=0):
        capsys.readouterr()
        assert main(["evaluate", *map(str, arguments), "--json"]) == code
        out, err = capsys.readouterr()
        return err if code else json.loads(out)

    return call


def test_predictions_and_weights_are_those_of_the_population(place, evaluated):
    for name in ("all", "quarter"):
        evaluated("--run", place / name, "--data-path", place / "new.csv", "--out", place / f"{name}.parquet")
    plain, found = (pd.read_parquet(place / f"{name}.parquet") for name in ("all", "quarter"))
    p = plain["probability"].astype(np.float64)
    np.testing.assert_allclose(found["probability"], p / (p + (1 - p) / 0.25), rtol=1e-5)
    np.testing.assert_array_equal(found["weight"], plain["weight"] * np.where(plain["label"] == 0, 4, 1))
    assert found["label"].isna().sum() == 20


def test_figures_are_those_of_the_weighted_predictions_wherever_these_are_from(place, evaluated):
    run, file = ["--run", place / "quarter", "--data-path", place / "new.csv"], place / "written.parquet"
    found = evaluated(*run, "--slices", "x", "--out", file)
    rows = pd.read_parquet(file).dropna(subset="label")
    label, p, weight = rows["label"], rows["probability"].astype(np.float64), rows["weight"]
    assert found["logloss"] == pytest.approx(log_loss(label, p, sample_weight=weight), rel=1e-9)
    assert found["auc"] == pytest.approx(roc_auc_score(label, p, sample_weight=weight), rel=1e-9)
    assert found["base_rate"] == pytest.approx(np.average(label, weights=weight), rel=1e-9)
    assert found["calibration"] == pytest.approx((p @ weight) / (label @ weight), rel=1e-6)
    parts = [part["models"]["quarter"]["weight"] for part in found["slices"]["x"]["slices"]]
    assert sum(parts) == pytest.approx(weight.sum(), rel=1e-9)
    again = evaluated("--data-path", file)
    for figure in ("weight", "auc", "logloss", "logloss_ci95", "calibration_bins"):
        assert again[figure] == found[figure]
    (difference,) = evaluated(*run, "--against", file)["differences"]
    assert difference["logloss"] == 0


def test_prepared_rows_count_as_raw_ones(place, evaluated):
    folder = json.loads((place / "quarter" / "config.json").read_text())["prepared"]["folder"]
    prepared, raw = (
        evaluated("--run", place / "quarter", "--data-path", path, "--part", "test")
        for path in (folder, place / "log.csv")
    )
    trained = json.loads((place / "quarter" / "summary.json").read_text())["test"]
    for figure, value in trained.items():
        assert prepared[figure] == raw[figure] == value


def test_lines_of_a_pipe_get_the_same_probabilities(place, evaluated):
    file = place / "lines.parquet"
    evaluated("--run", place / "quarter", "--data-path", place / "new.csv", "--out", file)
    lines = io.BufferedReader(io.BytesIO((place / "new.csv").read_bytes()))
    found = np.concatenate(list(score_lines(place / "quarter", lines, best=False)))
    np.testing.assert_array_equal(found, pd.read_parquet(file)["probability"])


def test_calibration_is_fitted_in_the_log_and_corrected_after_it(place, evaluated):
    """The rate shifts the map that scikit-learn fits to the logits of the run that takes the log as complete."""
    plain, later, found = (place / name for name in ("plain.parquet", "later.csv", "calibrated.parquet"))
    evaluated("--run", place / "all", "--data-path", place / "new.csv", "--out", plain)
    log = pd.read_parquet(plain)
    z = logit(log[["probability"]].to_numpy(np.float64))
    # The model is trained so briefly that its ranking may be reversed, so draw clicks that follow the scores.
    labels = np.random.default_rng(1).random(len(z)) < expit(zscore(z[:, 0]))
    pd.read_csv(place / "new.csv").assign(y=labels.astype(int)).to_csv(later, index=False)
    assert main(list(map(str, ["calibrate", "--run", place / "quarter", "--data-path", later]))) == 0
    evaluated("--run", place / "quarter", "--data-path", later, "--calibrated", "--out", found)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    p = model.fit(z, labels, log["weight"]).predict_proba(z)[:, 1]
    np.testing.assert_allclose(pd.read_parquet(found)["probability"], p / (p + (1 - p) / 0.25), rtol=1e-4)


def test_runs_that_take_the_log_for_different_shares_do_not_score_the_same_rows(place, evaluated):
    runs = ["--run", place / "all", place / "quarter", "--data-path", place / "new.csv"]
    assert "their schemas differ in label, weight" in evaluated(*runs, code=64)
