"""A comparison end to end, on few generated rows and a small model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from dlrm_adahessian import config, presets
from dlrm_adahessian.compare.config import CompareConfig, run_config, trial_config
from dlrm_adahessian.compare.results import CurvePoint
from dlrm_adahessian.compare.search import Search
from dlrm_adahessian.compare.study import run_study
from dlrm_adahessian.compare.summary import runs_table, summarize, time_to
from dlrm_adahessian.data.config import DataConfig, SyntheticConfig
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.model.config import ModelConfig
from dlrm_adahessian.report.comparison import verdict, write_report
from dlrm_adahessian.report.comparison_plots import sensitivity
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.train.run_cache import find_or_fit

SMALL = {
    "dataset": "synthetic",
    "rows": 7_000,
    "batch_size": 128,
    "model": ModelConfig(bottom=(16,), top=(16,), embedding_dim=8),
}


def small(folder, **changes):
    data = DataConfig(cache_dir=folder / "cache", synthetic=SyntheticConfig(cardinality_scale=0.0001))
    return CompareConfig(**{**SMALL, "data": data, "out": folder / "study", **changes})


def arguments(folder):
    flags = ["--rows", "7000", "--batch-size", "128", "--model.bottom", "16", "--model.top", "16"]
    flags += ["--model.embedding-dim", "8", "--data.synthetic.cardinality-scale", "0.0001"]
    flags += ["--data.cache-dir", folder / "cache", "--out", folder / "study", "--dataset", "synthetic"]
    flags += ["--optimizers", "adagrad,hybrid", "--trials", "2", "--seeds", "2", "--parallel", "2"]
    return [sys.executable, "-m", "dlrm_adahessian", "compare", *map(str, flags)]


def without_clock(value):
    clock = {"seconds", "samples_per_second", "step_ms_median", "time_to_target"}
    if isinstance(value, dict):
        return {k: without_clock(v) for k, v in value.items() if k not in clock}
    return [without_clock(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    done = subprocess.run(arguments(folder), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "hybrid against adagrad" in done.stdout
    return folder


@pytest.fixture(scope="module")
def summary(finished):
    return json.loads((finished / "study" / "summary.json").read_text())


def test_differences_are_those_of_the_written_predictions(finished, summary):
    runs = pd.read_csv(finished / "study" / "results.csv")
    finals = runs[runs["kind"] == "final"].set_index(["optimizer", "seed"])
    (prepared,) = (finished / "cache").glob("synthetic-*[0-9a-f]")
    labels = np.load(prepared / "labels.npy")
    days = np.array_split(np.arange(7_000), 7)
    rows = {"test": days[6][:500], "progressive": np.arange(days[1][0], days[6][0])}
    assert [row["rows"] for row in summary["differences"]] == ["progressive", "test"]
    for row in summary["differences"]:
        differences = {"logloss": [], "auc": []}
        for seed in (1, 2):
            found = {}
            for name in ("adagrad", "hybrid"):
                path = finished / "study" / "runs" / finals.loc[(name, seed), "folder"] / f"{row['rows']}.f32"
                probability = np.fromfile(path, "<f4").astype(np.float64)[-len(rows[row["rows"]]) :]
                truth = labels[rows[row["rows"]]]
                found[name] = log_loss(truth, probability), roc_auc_score(truth, probability)
            for metric, ours, theirs in zip(
                ("logloss", "auc"), found["hybrid"], found["adagrad"], strict=True
            ):
                differences[metric].append(ours - theirs)
        for metric, values in differences.items():
            assert row[metric] == pytest.approx(np.mean(values), abs=1e-9)
            low, high = row[f"{metric}_ci95"]
            assert low < row[metric] < high
        assert (row["optimizer"], row["against"], row["seeds"]) == ("hybrid", "adagrad", 2)


def test_draws_have_no_test_figures_and_final_runs_have_other_seeds(finished):
    runs = pd.read_csv(finished / "study" / "results.csv")
    draws, finals = runs[runs["kind"] == "trial"], runs[runs["kind"] == "final"]
    assert draws["test_logloss"].isna().all()
    assert finals["test_logloss"].notna().all()
    assert not set(draws["seed"]) & set(finals["seed"])
    for name in ("adagrad", "hybrid"):
        best = draws[draws["optimizer"] == name].sort_values("judged_logloss").iloc[0]
        assert set(finals[finals["optimizer"] == name]["dense.lr"]) == {best["dense.lr"]}


@pytest.mark.slow
def test_a_killed_comparison_goes_on_and_says_the_same(finished, summary, tmp_path):
    shutil.copytree(finished / "cache", tmp_path / "cache")
    process = subprocess.Popen(arguments(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (before := list(tmp_path.glob("study/runs/*/summary.json"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not psutil.wait_procs(workers, timeout=30)[1]
    written = {path: path.stat().st_mtime_ns for path in before}
    done = subprocess.run(arguments(tmp_path), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == written
    again = json.loads((tmp_path / "study" / "summary.json").read_text())
    assert without_clock(again) == without_clock(summary)


def test_progressive_rows_that_choose_are_not_reported(tmp_path):
    asked = small(tmp_path, optimizers="adagrad,rowwise_adagrad", seeds=1, trials=2, select="progressive")
    study = run_study(asked)
    found = summarize(study)
    for contender in study.contenders:
        for run in contender.trials:
            labels, probability = fitted_run(run.config, study.data, RunDirectory(run.folder)).progressive
            chooses = np.arange(len(labels)) // 128 % 2 == 0
            assert run.judged_logloss == pytest.approx(
                log_loss(labels[chooses], probability[chooses].astype(float)), rel=1e-9
            )
        final = fitted_run(
            contender.finals[0].config, study.data, RunDirectory(contender.finals[0].folder)
        ).progressive
        reported = found["optimizers"][contender.name]["progressive"]
        assert reported["rows"] == (~chooses).sum()
        assert reported["logloss"] == pytest.approx(
            log_loss(final[0][~chooses], final[1][~chooses].astype(float)), rel=1e-9
        )
        best = min(contender.trials, key=lambda run: run.judged_logloss)
        assert contender.chosen == best.drawn
    assert found["differences"][0]["row_count"] == (~chooses).sum()


def test_a_wrong_name_is_refused_with_the_nearest(tmp_path):
    command = [sys.executable, "-m", "dlrm_adahessian", "compare", "--optimizers", "adagrad,hybird"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 64
    assert "did you mean hybrid?" in done.stderr
    assert not list(tmp_path.iterdir())


def test_divergence_is_a_result(tmp_path, monkeypatch):
    shutil.copytree(Path(presets.__file__).parent, tmp_path / "presets")
    (tmp_path / "presets" / "optimizers" / "sgd.toml").write_text(
        'curvature = "none"\n[optim.dense]\nname = "sgd"\nlr = 1e9\n[optim.rows]\nname = "sgd"\nlr = 1e9\n'
    )
    monkeypatch.setattr(presets, "files", lambda _: tmp_path / "presets")
    study = run_study(small(tmp_path, optimizers="adagrad,sgd", seeds=1))
    found = summarize(study)
    assert found["optimizers"]["sgd"]["final_runs_diverged"] == 1
    assert found["differences"] == []
    assert verdict(found) == ["sgd cannot be compared with adagrad: no seed finished with both."]
    write_report(tmp_path, found, runs_table(study))
    assert "no seed finished with both" in (tmp_path / "report.html").read_text()


def test_draws_that_all_diverged_have_no_plot_and_one_that_did_not_has():
    draws = {"kind": ["trial"] * 2, "optimizer": ["sgd"] * 2, "dense.lr": [0.1, 1.0], "rows.lr": [0.1, 1.0]}
    assert sensitivity(pd.DataFrame({**draws, "judged_logloss": [None, None]}), 0.001) is None
    assert sensitivity(pd.DataFrame({**draws, "judged_logloss": [None, 0.5]}), 0.001).startswith("<svg")


def test_runs_share_all_but_the_optimizer(tmp_path):
    study = small(tmp_path)
    ours, theirs = (config.asdict(run_config(study, name, seed=3)) for name in ("hybrid", "adagrad"))
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing == {"optimizer", "curvature", "curvature_every", "optim"}
    assert ours["optim"]["schedule"] == theirs["optim"]["schedule"]


def test_draws_are_repeated_exactly_and_differ_between_optimizers(tmp_path):
    def draws(name):
        search = Search(run_config(small(tmp_path), name, seed=0), "tpe", 0)
        found = []
        for number in range(12):
            trial, drawn = search.ask()
            search.tell(trial, None if number == 3 else number / 10)
            found.append(drawn)
        return found

    assert draws("adagrad") == draws("adagrad")
    assert draws("adagrad")[0]["rows.lr"] != draws("adam")[0]["rows.lr"]


def test_draws_train_on_the_last_rows_of_the_training_part(tmp_path):
    study = small(tmp_path, trial_rows=1_000)
    config = trial_config(study, "adagrad", {"rows.lr": 0.5})
    assert config.optim.rows.lr == 0.5
    data = open_dataset("synthetic", None, study.data, rows=study.rows, bad_rows="strict")
    with init_process_group():
        fitted = find_or_fit(config, data, tmp_path / "runs", torch.device("cpu"), title=None)
    assert fitted.summary.rows.train == fitted.summary.train.samples == 1_000
    later = data.labels[data.split.train][-1_000 + 166 :]  # predicted after a sixth of them, its first day
    np.testing.assert_array_equal(fitted.progressive[0], later)


def test_time_to_a_log_loss_is_linear_between_evaluations():
    curve = [{"samples": 10, "seconds": 1, "logloss": 0.6}, {"samples": 20, "seconds": 3, "logloss": 0.5}]
    assert time_to(curve, 0.55) == pytest.approx({"samples": 15, "seconds": 2})
    assert time_to(curve, 0.7) == {"samples": 10, "seconds": 1}
    assert time_to(curve, 0.4) is None


def test_the_report_escapes_names(finished, summary, tmp_path):
    hostile = "<script>alert(1)</script>"
    text = json.dumps(summary).replace('"hybrid"', json.dumps(hostile))
    runs = pd.read_csv(finished / "study" / "results.csv").replace({"optimizer": {"hybrid": hostile}})
    write_report(tmp_path, json.loads(text), runs)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_the_report_opens_in_a_browser_without_network(finished, tmp_path):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", f"file://{finished}/study/report.html"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, env={**os.environ}
    )
    plots = ("forest", "quality", "sensitivity", "bands", "curvature", "cost")
    for part in ("verdict", "table", *(f"plot-{name}" for name in plots)):
        assert f'id="{part}"' in done.stdout
    assert done.stdout.count("</svg>") == len(plots)
    assert "hybrid against adagrad" in done.stdout
    links = re.findall(r'\b(?:src|href)="([^"]*)"', done.stdout)
    assert all(link.startswith(("#", "data:")) for link in links)
