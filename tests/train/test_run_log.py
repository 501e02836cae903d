"""The log of a run during training, and the window of recent samples against direct metrics."""

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from dlrm_adahessian.metrics.binary import BinaryMetrics, binary_metrics
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.train import board, run_log
from dlrm_adahessian.train.run_log import RecentWindow, RunLog


def test_without_a_terminal_a_line_says_how_far_training_is(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(board, "_writer", lambda folder: None)
    caplog.set_level("INFO")
    labels, probability = np.array([0, 1], np.int8), np.array([0.5, 0.5], np.float32)
    for seconds, expected in (
        (
            0,
            [
                "hybrid: 6 of 8 samples, progressive log loss 0.6931",
                "hybrid: 8 of 8 samples, progressive log loss 0.6931",
            ],
        ),
        (60, []),
    ):
        monkeypatch.setattr(run_log, "_LINE_EVERY", seconds)
        caplog.clear()
        with RunLog(RunDirectory(tmp_path), log_every=1, total_steps=4) as told:
            told.begin("hybrid", done=4, total=8)
            for step in (3, 4):
                told.learned(step, 0.7, labels, probability, dict, progressive=True)
        assert [record.getMessage() for record in caplog.records] == expected


LABELS, PROBABILITY = np.array([0, 1], np.int8), np.array([0.5, 0.5], np.float32)


def test_after_going_back_the_samples_that_are_repeated_count_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(board, "_writer", lambda folder: None)
    monkeypatch.setattr(run_log, "_LINE_EVERY", 0)
    caplog.set_level("INFO")
    with RunLog(RunDirectory(tmp_path), log_every=1, total_steps=4) as told:
        told.begin("hybrid", done=0, total=8)
        for step in (1, 2, 3):
            told.learned(step, 0.7, LABELS, PROBABILITY, dict, progressive=True)
        told.went_back(1, 3, 1, 2)
        told.learned(2, 0.7, LABELS, PROBABILITY, dict, progressive=True)
    assert caplog.messages[-1] == "hybrid: 4 of 8 samples, progressive log loss 0.6931"


def test_the_bar_ends_full_although_the_last_batch_is_smaller_and_says_what_its_auc_is(tmp_path, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(board, "_writer", lambda folder: None)
    monkeypatch.setattr(
        run_log,
        "progress_bar",
        lambda title, *, unit, total, done: tqdm(file=shown, total=total, initial=done),
    )
    with RunLog(RunDirectory(tmp_path), log_every=1, total_steps=2) as told:
        told.begin("hybrid", done=0, total=4)
        told.learned(1, 0.7, LABELS, PROBABILITY, dict, progressive=True)
        told.learned(2, 0.7, LABELS[:1], PROBABILITY[:1], dict, progressive=True)
    last = shown.getvalue().rsplit("\r", 1)[-1]
    assert last.startswith("100%|")
    assert "| 3/3 [" in last
    assert last.rstrip().endswith("progressive AUC 0.5000, log loss 0.6931]")


def test_the_curves_of_tensorboard_have_each_step_once_after_going_back(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with RunLog(RunDirectory(tmp_path), log_every=1, total_steps=4) as told:
        told.begin(None, done=0, total=8)
        told.learned(1, 0.5, LABELS, PROBABILITY, dict, progressive=True)
        kept = told.position()
        for step in (2, 3):
            told.learned(step, 9.0, LABELS, PROBABILITY, dict, progressive=True)
        told.rewind(step=1, **kept)
        for step in (2, 3, 4):
            told.learned(step, 0.25, LABELS, PROBABILITY, dict, progressive=True)
    shown = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in shown.Scalars("train/loss")]
    assert losses == [(1, 0.5), (2, 0.25), (3, 0.25), (4, 0.25)]


def test_figures_are_in_the_line_of_their_step_or_in_one_of_their_own_and_all_of_them_are_curves(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    curvature = torch.tensor([1e-3, 0, -1e-3, 10.0])
    found = BinaryMetrics(rows=2, auc=0.5, accuracy=None, logloss=0.7)
    with RunLog(RunDirectory(tmp_path), log_every=10, total_steps=30) as told:
        told.begin(None, done=0, total=60)
        of_step = {"lr": {"dense": 0.5, "rows": 2.0}, "grad_norm": {"top.0": 3.0}, "rows_touched": 4}
        of_curvature = {"curvature_norm": {"top.0": 7.0}, "floored_share": 0.25}
        for step, figures in ((28, {}), (29, of_curvature), (30, of_step)):
            told.learned(
                step, 0.7, LABELS, PROBABILITY, dict, progressive=True, figures=figures,
                curvature=curvature if step == 29 else None,
            )  # fmt: skip
        told.validated(30, found, {})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == {"step": 29, **of_curvature}
    assert [line["step"] for line in lines] == [29, 30, 30]
    assert of_step.items() <= lines[1].items()
    shown = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    curves = {
        tag: [(event.step, event.value) for event in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]
    }
    loss = curves.pop("train/window_logloss")
    assert loss == [(30, pytest.approx(np.log(2)))]
    assert curves == {
        "train/loss": [(30, np.float32(0.7))], "train/window_auc": [(30, 0.5)], "train/rows_touched": [(30, 4.0)],
        "lr/dense": [(30, 0.5)], "lr/rows": [(30, 2.0)], "grad_norm/top.0": [(30, 3.0)],
        "curvature_norm/top.0": [(29, 7.0)], "train/floored_share": [(29, 0.25)],
        "val/auc": [(30, 0.5)], "val/logloss": [(30, np.float32(0.7))], "val/rows": [(30, 2.0)],
    }  # fmt: skip
    (histogram,) = shown.Histograms("curvature/log10")
    assert (histogram.step, histogram.histogram_value.num) == (29, 3)
    assert (histogram.histogram_value.min, histogram.histogram_value.max) == pytest.approx((-3, 1))


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 20))
def test_window_equals_the_last_rows(sizes, capacity) -> None:
    rng = np.random.default_rng(len(sizes))
    window = RecentWindow(capacity)
    all_labels, all_probabilities = np.zeros(0, np.int8), np.zeros(0, np.float32)
    for size in sizes:
        labels = rng.integers(0, 2, size, dtype=np.int8)
        probability = rng.random(size, dtype=np.float32)
        window.add(labels, probability)
        all_labels = np.concatenate([all_labels, labels])
        all_probabilities = np.concatenate([all_probabilities, probability])
    expected = binary_metrics(all_labels[-capacity:], all_probabilities[-capacity:])
    found = window.metrics()
    assert len(window) == expected.rows
    assert found.auc == expected.auc
    assert (found.logloss or 0) == pytest.approx(expected.logloss or 0, rel=1e-13)


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 20))
def test_a_window_taken_up_goes_on_bit_for_bit(sizes, capacity) -> None:
    rng = np.random.default_rng(len(sizes))
    window, resumed = RecentWindow(capacity), RecentWindow(capacity)
    for size in sizes:
        labels = rng.integers(0, 2, size, dtype=np.int8)
        probability = rng.choice(np.array([0, 1e-45, 0.1, 0.7, 1], np.float32), size)
        for each in (window, resumed):
            each.add(labels, probability)
        state = json.loads(json.dumps(resumed.state()))
        resumed = RecentWindow(capacity)
        resumed.load(state)
        assert resumed.metrics() == window.metrics()


def test_window_refuses_what_metrics_refuse() -> None:
    with pytest.raises(ValueError, match="capacity must be at least 1 sample, got 0"):
        RecentWindow(0)
    with pytest.raises(ValueError, match="Probabilities must be in"):
        RecentWindow(4).add(np.array([1], np.int8), np.array([np.nan], np.float32))


def test_the_window_counts_weighted_samples_and_keeps_their_weights():
    rng = np.random.default_rng(0)
    labels, probability = rng.integers(0, 2, 30).astype(np.int8), rng.random(30).astype(np.float32)
    weights = rng.integers(0, 4, 30).astype(np.float32)
    window, loaded = RecentWindow(20), RecentWindow(20)
    for part in (slice(0, 12), slice(12, 30)):
        window.add(labels[part], probability[part], weights[part])
    loaded.load(json.loads(json.dumps(window.state())))
    times = weights[10:].astype(int)
    expected = binary_metrics(np.repeat(labels[10:], times), np.repeat(probability[10:], times))
    for found in (window.metrics(), loaded.metrics()):
        assert found.logloss == pytest.approx(expected.logloss, rel=1e-12)
        assert found.auc == pytest.approx(expected.auc, rel=1e-12)
    plain = RecentWindow(20)
    plain.add(labels, probability)
    assert set(plain.state()) == {"next", "rows"}
