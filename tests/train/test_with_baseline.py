"""The command line end to end, on a little generated data and a small model."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from dlrm_adahessian.cli import main
from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.criteo.text import format_rows
from dlrm_adahessian.data.synthetic.generator import row_blocks
from tests.processes.program import Command, call

pytestmark = pytest.mark.slow

SMALL = ["--model.bottom", "32", "--model.top", "32", "--batch-size", "128", "--data.min-count", "2"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "train.txt"
    path.write_bytes(b"".join(map(format_rows, row_blocks(SyntheticConfig(), 14_000))))
    return path


def start(*arguments, cwd=None):
    command = [sys.executable, "-m", "dlrm_adahessian", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def train(rows, out, cache, *more):
    return ["train", "--data-path", rows, "--out", out, "--data.cache-dir", cache, *SMALL, *more]


def without_clock(summary):
    if isinstance(summary, dict):
        clock = {"seconds", "samples_per_second", "step_ms_median", "waited_share", "resumed_from_step"}
        return {k: without_clock(v) for k, v in summary.items() if k not in clock}
    return summary


@pytest.fixture(scope="module")
def finished(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    code, out, err = call(*train(rows, folder / "run", folder / "cache"))
    assert code == 0, err
    assert "hybrid minus adagrad" in out
    return folder


def test_summary_equals_scikit_learn_on_the_written_predictions(finished, rows):
    summary = json.loads((finished / "run" / "summary.json").read_text())
    (prepared,) = finished.glob("cache/criteo-*[0-9a-f]")
    out = finished / "predictions.parquet"
    code, text, err = call(
        "evaluate",
        "--run",
        finished / "run",
        "--data-path",
        prepared,
        "--part",
        "test",
        "--out",
        out,
        "--json",
    )
    assert code == 0, err
    found, scored = json.loads(text), pd.read_parquet(out)
    probability = scored["probability"].to_numpy().astype(np.float64)
    for metrics in (found, summary["test"]):
        assert metrics["rows"] == len(scored) == summary["rows"]["test"] == 1000
        assert metrics["auc"] == pytest.approx(roc_auc_score(scored["label"], probability), abs=1e-9)
        assert metrics["logloss"] == pytest.approx(log_loss(scored["label"], probability), abs=1e-9)
        assert metrics["accuracy"] == pytest.approx(
            accuracy_score(scored["label"], probability >= 0.5), abs=1e-9
        )


def test_summary_says_of_which_matrix_the_diagonal_is(finished):
    summary = json.loads((finished / "run" / "summary.json").read_text())
    assert summary["curvature"] == "exact"
    assert summary["curvature_of"] == {"weights": "hessian", "pooled": "hessian"}
    assert summary["baseline"]["curvature_of"] is None


def test_raw_rows_are_scored_as_prepared_ones_and_labels_may_be_absent(finished, rows):
    unlabelled = finished / "unlabelled.txt"
    unlabelled.write_bytes(b"".join(line[2:] for line in rows.read_bytes().splitlines(keepends=True)))
    for name, path in (("raw", rows), ("unlabelled", unlabelled)):
        out = finished / f"{name}.parquet"
        code, _, err = call("evaluate", "--run", finished / "run", "--data-path", path, "--out", out)
        assert code == 0, err
    raw, bare = (pd.read_parquet(finished / f"{name}.parquet") for name in ("raw", "unlabelled"))
    assert raw["row"].tolist() == list(range(14_000))
    assert bare["label"].isna().all()
    np.testing.assert_array_equal(raw["probability"], bare["probability"])
    test = np.fromfile(finished / "run" / "test.f32", "<f4")
    np.testing.assert_allclose(raw["probability"][12_000:13_000], test, rtol=1e-5)


def test_a_finished_baseline_is_reused(finished, rows):
    code, _, err = call(*train(rows, finished / "again", finished / "cache"))
    assert code == 0, err
    assert "reused the finished run" in err
    first, second = (json.loads((finished / n / "summary.json").read_text()) for n in ("run", "again"))
    assert without_clock(first) == without_clock(second)
    assert losses_shown(finished / "again" / "tensorboard" / "baseline") == losses_of(baseline_of(finished))


def baseline_of(folder):
    (run,) = (path for path in folder.glob("cache/baselines/adagrad-*") if path.is_dir())
    return run


def losses_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: np.float32(line["loss"]) for line in lines if "loss" in line}


def losses_shown(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder)).Reload().Scalars("train/loss")
    return {event.step: np.float32(event.value) for event in events}


def test_tensorboard_finds_the_curves_of_the_run_and_below_it_those_of_the_baseline(finished):
    curves = finished / "run" / "tensorboard"
    assert len(losses_of(finished / "run")) > 20
    assert losses_shown(curves) == losses_of(finished / "run")
    assert losses_shown(curves / "baseline") == losses_of(baseline_of(finished))
    assert losses_shown(curves) != losses_shown(curves / "baseline")


def test_a_folder_of_prepared_rows_trains_as_the_rows_it_was_made_from(finished, tmp_path):
    (prepared,) = finished.glob("cache/criteo-*[0-9a-f]")
    code, _, err = call(*train(prepared, tmp_path / "run", finished / "cache"))
    assert code == 0, err
    first, second = (
        json.loads((path / "summary.json").read_text()) for path in (finished / "run", tmp_path / "run")
    )
    assert without_clock(first) == without_clock(second)


def test_prepared_rows_are_neither_cut_nor_prepared_again_nor_taken_when_damaged(finished, tmp_path):
    (prepared,) = finished.glob("cache/criteo-*[0-9a-f]")
    damaged = tmp_path / "damaged"
    shutil.copytree(prepared, damaged)
    labels = bytearray((damaged / "labels.npy").read_bytes())
    labels[-1] ^= 1
    (damaged / "labels.npy").write_bytes(labels)
    for arguments, expected, message in (
        (train(prepared, tmp_path / "run", tmp_path, "--rows", "7000"), 64, "Leave out --rows"),
        (train(damaged, tmp_path / "run", tmp_path), 65, "Prepare the data again"),
        (["prepare", "--data-path", prepared], 64, "prepare requires raw data"),
    ):
        code, _, err = call(*arguments)
        assert code == expected, err
        assert message in err


def test_a_damaged_checkpoint_is_refused(finished, rows):
    code, _, err = call(*train(rows, finished / "broken", finished / "cache", "--baseline", "none"))
    assert code == 0, err
    (tensors,) = finished.glob("broken/checkpoints/step-*/dense.safetensors")
    data = bytearray(tensors.read_bytes())
    data[len(data) // 2] ^= 1
    tensors.write_bytes(data)
    out = finished / "x.parquet"
    code, _, err = call("evaluate", "--run", finished / "broken", "--data-path", rows, "--out", out)
    assert code == 3
    assert not out.exists()


def half_written(checkpoints):
    """Return whether a checkpoint is being written and already has files."""
    with suppress(FileNotFoundError):  # it was committed in the meantime
        return any(checkpoints.glob(".step-*[0-9].tmp/*.safetensors"))
    return False


@pytest.mark.campaign
def test_killed_in_a_background_write_and_resumed_equals_uninterrupted(finished, rows, tmp_path):
    arguments = train(rows, tmp_path / "killed", finished / "cache", "--checkpoint-every", "3")
    arguments += ["--checkpoint-keep", "3", "--eval-every", "20"]
    checkpoints, cut_off = tmp_path / "killed" / "checkpoints", 0
    for _ in range(12):
        process = Command(*arguments, "--resume", log=tmp_path / "killed")
        committed = set(checkpoints.glob("step-*"))
        deadline = time.monotonic() + 60
        while (
            process.alive() and time.monotonic() < deadline
        ):  # one checkpoint from this start, and the next one in progress
            if half_written(checkpoints) and set(checkpoints.glob("step-*")) - committed:
                process.kill()
            time.sleep(0.001)
        if process.wait() == 0:
            pytest.fail("the run ended before a checkpoint was interrupted")
        cut_off += half_written(checkpoints)
        if cut_off == 2:
            break
    assert cut_off == 2
    code, _, err = call(*arguments, "--resume")
    assert code == 0, err
    assert len(list(checkpoints.glob("step-*"))) == 3
    (best,) = (tmp_path / "killed" / "best").glob("step-*")
    lines = [json.loads(line) for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    validated = {line["step"]: line["val"]["logloss"] for line in lines if "val" in line}
    assert len(validated) > 2
    assert int(best.name.removeprefix("step-")) == min(validated, key=validated.get)
    (prepared,) = finished.glob("cache/criteo-*[0-9a-f]")
    scored = ["--run", tmp_path / "killed", "--data-path", prepared, "--out", tmp_path / "x.parquet"]
    code, out, err = call("evaluate", *scored, "--part", "val", "--best", "--json")
    assert code == 0, err
    assert json.loads(out)["logloss"] == pytest.approx(min(validated.values()), rel=1e-6)
    killed = json.loads((tmp_path / "killed" / "summary.json").read_text())
    whole = json.loads((finished / "run" / "summary.json").read_text())
    assert killed["resumed_from_step"] > 0
    assert without_clock(killed) == without_clock(whole)


def test_ctrl_c_checkpoints_and_exits_130(finished, rows, tmp_path):
    arguments = train(rows, tmp_path / "run", finished / "cache", "--epochs", "50", "--baseline", "none")
    arguments += ["--checkpoint-every", "7", "--no-checkpoint-in-background"]
    process = start(*arguments)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "--optimzer", "adam"], 64, "optim"),
        (["train", "--optimizer", "adagard"], 64, "Did you mean 'adagrad'"),
        (["train", "--curvature", "none", "--data-path", "x"], 64, "needs curvature"),
        (["train", "--data-path", "nowhere.txt", "--out", "OUT"], 66, "--dataset synthetic"),
        (["train", "--data-path", 300 * "x", "--out", "OUT"], 66, "too long"),
        (["fly"], 64, "Unknown command"),
    ],
)
def test_a_users_mistake_is_one_message_and_its_code(arguments, code, message, tmp_path):
    arguments = [str(tmp_path / "out") if a == "OUT" else a for a in arguments]
    found, _, err = call(*arguments)
    assert found == code
    assert message in err
    assert "Traceback" not in err


def test_a_resume_with_other_settings_is_refused_and_changes_nothing(finished, rows):
    run = finished / "run"
    before = {p: p.read_bytes() for p in (run / "config.json", *(run / "vocabulary").iterdir())}
    code, _, err = call(
        *train(rows, run, finished / "cache", "--resume", "--seed", "1", "--data.min-count", "9")
    )
    assert code == 3, err
    assert "data.min_count 2 -> 9, seed 0 -> 1. Leave out these flags" in err
    assert before == {p: p.read_bytes() for p in (run / "config.json", *(run / "vocabulary").iterdir())}


def test_a_resume_takes_its_settings_from_the_run(finished, rows, tmp_path):
    """The run itself is already complete. Its preset is not the default."""
    run = tmp_path / "run"
    more = ["--baseline", "none", "--optimizer", "adam", "--optim.dense.beta1", "0.8", "--seed", "4"]
    code, _, err = call(*train(rows, run, finished / "cache", *more))
    assert code == 0, err
    summary = (run / "summary.json").read_text()
    code, _, err = call("train", "--out", run, "--resume")
    assert code == 0, err
    assert "preparing data" not in err
    again = json.loads((run / "summary.json").read_text())
    assert again["resumed_from_step"] == again["train"]["steps"]
    assert without_clock(again) == without_clock(json.loads(summary))
    for flags, told in (
        (["--optim.dense.beta1", "0.7"], "optim.dense.beta1 0.8 -> 0.7. Leave"),
        (["--optimizer", "adagrad", "--optim.dense.beta1", "0.5"], "optimizer adam -> adagrad, "),
        (["--epochs", "2"], "optim.schedule.warmup 0.1, optim.schedule.decay linear)"),
    ):
        code, _, err = call("train", "--out", run, "--resume", *flags)
        assert (code, told in err) == (3, True), err


@pytest.fixture
def ended(finished, tmp_path):
    """Return a copy of a finished run whose baseline is in the cache."""
    return shutil.copytree(finished / "run", tmp_path / "run")


def flip_first_bit(path):
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["progressive.f32", "metrics.jsonl"])
def test_a_resume_refuses_what_changed_since_the_checkpoint(ended, capsys, name):
    flip_first_bit(ended / name)
    summary = (ended / "summary.json").read_bytes()
    assert main(["train", "--out", str(ended), "--resume"]) == 3
    assert re.search(rf"first [\d,]+ bytes of {ended}/{name}, which changed since", capsys.readouterr().err)
    assert (ended / "summary.json").read_bytes() == summary


@pytest.mark.parametrize("name", ["test.f32", "summary.json", "seal.json"])
def test_a_resume_makes_changed_results_anew_and_says_so(ended, caplog, name):
    test = (ended / "test.f32").read_bytes()
    summary = json.loads((ended / "summary.json").read_text())
    flip_first_bit(ended / name)
    assert main(["train", "--out", str(ended), "--resume"]) == 0
    assert "the summary and the test predictions are computed again from the checkpoint" in caplog.text
    assert (ended / "test.f32").read_bytes() == test
    assert without_clock(json.loads((ended / "summary.json").read_text())) == without_clock(summary)
    caplog.clear()
    assert main(["train", "--out", str(ended), "--resume"]) == 0
    assert "computed again" not in caplog.text


def test_a_finished_run_without_checkpoints_stays_as_it_is(ended, capsys):
    shutil.rmtree(ended / "checkpoints")
    before = {path.name: path.read_bytes() for path in ended.iterdir() if path.is_file()}
    for flags in ([], ["--seed", "5"]):
        assert main(["train", "--out", str(ended), "--resume", *flags]) == 3
        assert f"{ended} is a finished run without checkpoints" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in ended.iterdir() if path.is_file()} == before


def test_the_folder_of_a_comparison_is_no_place_for_a_run(tmp_path, capsys):
    (tmp_path / "comparison.json").write_text("{}")
    for flags in ([], ["--resume"]):
        assert main(["train", "--dataset", "synthetic", "--out", str(tmp_path), *flags]) == 64
        assert "contains a comparison (comparison.json)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.json"]


def test_rows_of_a_pipe_are_those_of_the_first_start_in_a_resume(rows, tmp_path, monkeypatch, capsys, caplog):
    """Nobody sends it through the pipe again, unless the prepared copy is gone."""

    def piped(data, *more):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        caplog.clear()
        code = main(list(map(str, ["train", "--out", tmp_path / "run", *more])))
        return code, caplog.text + capsys.readouterr().err

    text = b"".join(rows.read_bytes().splitlines(keepends=True)[:500])
    settings = [
        "--optimizer",
        "adagrad",
        "--baseline",
        "none",
        "--data.cache-dir",
        tmp_path / "cache",
        *SMALL,
    ]
    code, err = piped(text, "--data-path", "-", *settings)
    assert code == 0, err
    (folder,) = tmp_path.glob("cache/criteo-*[0-9a-f]")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())

    code, err = piped(b"no row", "--resume")
    assert code == 0, err
    assert f"came from standard input, which is not read again; using prepared data in {folder}" in err
    assert without_clock(json.loads((tmp_path / "run" / "summary.json").read_text())) == without_clock(
        summary
    )
    code, err = piped(b"", "--resume", "--data.min-count", "9")
    assert (code, "stdin is empty" in err) == (65, True), err

    shutil.rmtree(folder)
    code, err = piped(b"", "--resume")
    assert (code, "is unusable" in err, "; send the same data through the pipe again" in err) == (
        65,
        True,
        True,
    ), err
    code, err = piped(text, "--resume")
    assert code == 0, err
    assert "resumed from step" in err


def test_a_file_that_was_copied_resumes(finished, rows, tmp_path):
    copy = tmp_path / "copy.txt"
    shutil.copyfile(rows, copy)
    code, _, err = call(
        "train", "--out", finished / "run", "--resume", "--data-path", copy, "--baseline", "none"
    )
    assert code == 0, err
    assert "preparing data" not in err
    assert "resumed from step" in err


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_a_reader_that_leaves_early_ends_the_program_quietly(arguments):
    with start(*arguments) as process:
        process.stdout.close()  # as head does when it has enough
        err = process.stderr.read()
    assert (process.returncode, err) == (141, "")
