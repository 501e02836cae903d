"""Test comparisons from end to end."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from dlrm_adahessian import presets
from dlrm_adahessian.compare import worker
from dlrm_adahessian.compare.summary import runs_table, summarize
from dlrm_adahessian.report.comparison import verdicts, write_report, write_runs
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.train.run_cache import finished as read_finished
from tests.compare.studies import arguments, run_here, small
from tests.processes.program import Command, call


def without_clock(value):
    clock = {"seconds", "samples_per_second", "step_ms_median", "step_ms_apart", "waited_share"}
    clock |= {"time_to_target"}
    if isinstance(value, dict):
        return {k: without_clock(v) for k, v in value.items() if k not in clock}
    return [without_clock(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def summary(finished):
    return json.loads((finished / "study" / "summary.json").read_text())


def test_differences_are_those_of_the_written_predictions(finished, summary):
    runs = pd.read_csv(finished / "study" / "results.csv")
    finals = runs[runs["kind"] == "final"].set_index(["optimizer", "seed"])
    (prepared,) = (finished / "cache").glob("synthetic-*[0-9a-f]")
    labels = np.load(prepared / "labels.npy")
    days = np.array_split(np.arange(2_800), 7)
    rows = {"test": days[6][:200], "progressive": np.arange(days[1][0], days[6][0])}
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


def test_steps_of_runs_that_shared_the_machine_are_timed_apart_and_once(finished, summary, monkeypatch):
    runs = pd.read_csv(finished / "study" / "results.csv")
    assert runs[runs["kind"] == "trial"]["step_ms_apart"].isna().all()
    times = runs[runs["kind"] == "final"].groupby("optimizer")["step_ms_apart"].agg(["min", "max"])
    monkeypatch.delattr(worker, "step_ms")  # step times are measured only once
    again = run_here(small(finished, optimizers="adagrad,hybrid", seeds=2, trials=2, parallel=2))
    for contender in again.contenders:
        ms = summary["optimizers"][contender.name]["train"]["step_ms_apart"]
        assert contender.step_ms_apart == ms > 0
        assert times.loc[contender.name].tolist() == pytest.approx([ms, ms])


def test_one_run_at_a_time_is_not_timed_again(study):
    assert {contender.step_ms_apart for contender in study.contenders} == {None}
    assert "step_ms_apart" not in summarize(study).optimizers["adagrad"].train
    assert "step_ms_apart" not in runs_table(study)


@pytest.mark.campaign
@pytest.mark.slow
def test_a_killed_comparison_goes_on_and_says_the_same(finished, summary, tmp_path):
    shutil.copytree(finished / "cache", tmp_path / "cache")
    process = Command(*arguments(tmp_path), log=tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not (before := list(tmp_path.glob("study/runs/*/summary.json"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert not psutil.wait_procs(workers, timeout=30)[1]
    written = {path: path.stat().st_mtime_ns for path in before}
    code, _, err = call(*arguments(tmp_path))
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in before} == written
    again = json.loads((tmp_path / "study" / "summary.json").read_text())
    assert without_clock(again) == without_clock(summary)


def test_the_summary_says_of_which_matrix_the_diagonal_is(summary):
    found = summary["optimizers"]
    assert found["adagrad"]["curvature_of"] is None
    assert found["hybrid"]["curvature_of"] == {"weights": "hessian", "pooled": "hessian"}


def test_progressive_rows_that_choose_are_not_reported(study):
    found = summarize(study)
    for contender in study.contenders:
        for run in contender.trials:
            labels, probability, _ = read_finished(
                run.config, study.data, RunDirectory(run.folder)
            ).progressive
            chooses = np.arange(len(labels)) // 128 % 2 == 0
            assert run.judged_logloss == pytest.approx(
                log_loss(labels[chooses], probability[chooses].astype(float)), rel=1e-9
            )
        (run,) = contender.finals
        final = read_finished(run.config, study.data, RunDirectory(run.folder)).progressive
        reported = found.optimizers[contender.name].progressive
        assert reported["rows"] == (~chooses).sum()
        assert reported["logloss"] == pytest.approx(
            log_loss(final[0][~chooses], final[1][~chooses].astype(float)), rel=1e-9
        )
        best = min(contender.trials, key=lambda run: run.judged_logloss)
        assert contender.searches[0].chosen == best.drawn
    assert found.differences[0].difference.rows == (~chooses).sum()


def test_a_wrong_name_is_refused_with_the_nearest(tmp_path):
    code, _, err = call("compare", "--optimizers", "adagrad,hybird", "--out", tmp_path / "study")
    assert code == 64
    assert "Did you mean 'hybrid'?" in err
    assert not list(tmp_path.iterdir())


def test_divergence_is_a_result(tmp_path, monkeypatch):
    shutil.copytree(Path(presets.__file__).parent, tmp_path / "presets")
    (tmp_path / "presets" / "optimizers" / "sgd.toml").write_text(
        'curvature = "none"\n[optim.dense]\nname = "sgd"\nlr = 1e9\n[optim.rows]\nname = "sgd"\nlr = 1e9\n'
    )
    monkeypatch.setattr(presets, "files", lambda _: tmp_path / "presets")
    study = run_here(small(tmp_path, optimizers="adagrad,sgd", seeds=1))
    found = summarize(study)
    assert found.optimizers["sgd"].final_runs_diverged == 1
    assert found.differences == []
    (verdict,) = verdicts(found)
    assert verdict.sentence == "sgd cannot be compared with adagrad: no seed finished with both."
    write_report(tmp_path, found, runs_table(study))
    assert "no seed finished with both" in (tmp_path / "report.html").read_text()


def test_models_are_tuned_apart_and_compared_with_the_first_of_them(models, tmp_path):
    first, second = models.contenders
    assert first.trials[0].drawn == second.trials[0].drawn, "neither has the better luck"
    assert first.trials[0].judged_logloss != second.trials[0].judged_logloss
    write_runs(tmp_path, runs_table(models))
    write_report(tmp_path, summarize(models), runs_table(models))
    written = json.loads((tmp_path / "summary.json").read_text())
    assert (written["models"], written["reference"]) == (["dlrm", "dcnv2"], "dlrm")
    for name, curvature in (("dlrm", "exact"), ("dcnv2", "gauss_newton")):
        settings = written["optimizers"][name]["settings"]
        assert (settings["optimizer"], settings["curvature"]) == ("hybrid", curvature)
        assert settings["model"]["name"] == name
    runs = pd.read_csv(tmp_path / "results.csv")
    assert runs.groupby(["optimizer", "model", "kind"]).size().to_dict() == {
        ("dlrm", "dlrm", "trial"): 1,
        ("dlrm", "dlrm", "final"): 2,
        ("dcnv2", "dcnv2", "trial"): 1,
        ("dcnv2", "dcnv2", "final"): 2,
    }
    text, page = ((tmp_path / name).read_text() for name in ("report.md", "report.html"))
    assert text.count("| model |") == 3, "results, differences, trials"
    assert text.count("| dcnv2 | dlrm |") == 2
    assert "Every model is trained by hybrid." in text
    assert "Every model is trained by hybrid." in page
    assert "Each model had 1 random trial." in page


def test_differences_of_models_are_those_of_the_written_predictions(models):
    found = summarize(models)
    days = np.array_split(np.arange(2_800), 7)
    rows = {"progressive": np.arange(days[1][0], days[6][0]), "test": days[6][:200]}
    assert [pair.part for pair in found.differences] == list(rows)
    for pair in found.differences:
        truth = models.data.labels[rows[pair.part]]
        dlrm, dcnv2 = (
            np.mean([_logloss(run.folder / f"{pair.part}.f32", truth) for run in contender.finals])
            for contender in models.contenders
        )
        assert (pair.optimizer, pair.against, pair.difference.seeds) == ("dcnv2", "dlrm", 2)
        assert pair.difference.logloss.estimate == pytest.approx(dcnv2 - dlrm, abs=1e-9)


def _logloss(path, truth):
    return log_loss(truth, np.fromfile(path, "<f4").astype(np.float64)[-len(truth) :])
