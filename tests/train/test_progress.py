"""Validation of the state in a checkpoint, the step clock, and stop requests by signals."""

import os
import signal
from dataclasses import asdict

import pytest

from dlrm_adahessian.errors import CheckpointError
from dlrm_adahessian.train import progress
from dlrm_adahessian.train.progress import Progress, Saved, StepClock, StopRequest

STATE = {
    "progress": asdict(Progress(step=7, skipped=2, best_logloss=0.5)),
    "metrics_bytes": 100,
    "progressive_rows": 5,
    "timing": {"seconds": 1.5, "samples": 3, "median": 0.1},
}


def test_a_runs_state_comes_back_and_keys_of_other_versions_are_passed_over():
    found = Saved.of({**STATE, "later": 1, "progress": {**STATE["progress"], "earlier": 3}}, "x")
    assert found == Saved(
        progress=Progress(step=7, skipped=2, best_logloss=0.5),
        metrics_bytes=100,
        progressive_rows=5,
        timing=STATE["timing"],
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"progress": 3}, "progress: "),
        ({"progress": {**STATE["progress"], "step": "many"}}, "progress.step: "),
        ({"metrics_bytes": None}, "metrics_bytes: "),
        ({"timing": []}, "timing: "),
        ({"window": "x"}, "window: "),
    ],
)
def test_another_is_refused(changes, told):
    with pytest.raises(CheckpointError, match=f"Invalid state in checkpoint x, {told}"):
        Saved.of({**STATE, **changes}, "x")


def test_a_clock_says_how_long_steps_take_and_which_share_of_the_time_others_had_the_cores(monkeypatch):
    times, waited = iter([100.0, 110.0]), iter([3.0, 5.5])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(progress, "seconds_without_core", lambda: next(waited))
    clock = StepClock()
    for seconds in (1.0, 2.0, 5.0):
        clock.add(seconds, 4)
    expected = {
        "seconds": 8.0,
        "samples_per_second": 1.5,
        "step_ms_median": 1e3 * 8 / 3,
        "waited_share": 0.25,  # 2.5 s of 10
    }
    assert clock.summary() == expected


def test_the_median_has_what_some_steps_do_and_not_what_stopped_a_few():
    """Every eighth step takes 9 s instead of 1 s. Another program stops two of 320 steps for an hour."""
    clock = StepClock()
    for step in range(320 + 40):
        clock.add(9.0 if step % 8 == 0 else 3600.0 if step in (3, 300) else 1.0, 1)
    assert clock.summary()["step_ms_median"] == 2000.0


@pytest.mark.parametrize(("steps", "waited"), [(0, 1.0), (1, None)])
def test_without_steps_or_where_the_system_does_not_say_no_share_is_known(steps, waited, monkeypatch):
    monkeypatch.setattr(progress, "seconds_without_core", lambda: waited)
    clock = StepClock()
    for _ in range(steps):
        clock.add(1.0, 1)
    assert clock.summary()["waited_share"] is None


@pytest.mark.parametrize(("number", "code"), [
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGXCPU, 152),
])  # fmt: skip
def test_a_signal_asks_to_stop_and_the_exit_code_names_it(number, code):
    with StopRequest() as stop:
        assert not stop.received
        os.kill(os.getpid(), number)
        assert stop.received == number
        with pytest.raises(SystemExit) as left:
            stop.leave(stop.received)
    assert left.value.code == code


def test_a_signal_that_the_process_ignores_asks_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.received
    finally:
        signal.signal(signal.SIGHUP, before)
