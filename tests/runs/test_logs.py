"""Logs return what was appended, equal uninterrupted ones after a rewind, and detect changes."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash

from dlrm_adahessian.errors import CheckpointError, StorageError
from dlrm_adahessian.runs.logs import MetricsLog, PredictionLog, scalars
from dlrm_adahessian.runs.run_directory import RunDirectory
from tests.faults import Outcome, disk_full, each_operation, kill


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def random_floats(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(count, dtype=np.float32)


# Metrics


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_is_there_at_once_and_timing_is_apart(run: RunDirectory) -> None:
    with MetricsLog(run.metrics) as log:
        log.log({"step": 1, "loss": 0.5}, {"seconds": 0.25})
        assert lines(run.metrics) == [{"step": 1, "loss": 0.5, "timing": {"seconds": 0.25}}]
        log.log({"step": 2, "loss": float("nan"), "deep": [{"x": -float("inf")}]}, {"rate": float("inf")})
        assert lines(run.metrics)[1] == {
            "step": 2, "loss": None, "deep": [{"x": None}], "timing": {"rate": None},
        }  # fmt: skip
        with pytest.raises(ValueError, match="argument `timing`"):
            log.log({"timing": 1})
    assert len(lines(run.metrics)) == 2


@pytest.mark.parametrize("stopped_after", range(10))
def test_a_rewound_log_equals_an_uninterrupted_one(tmp_path: Path, stopped_after: int) -> None:
    def write(log: MetricsLog, steps: range) -> None:
        for step in steps:
            log.log({"step": step, "loss": 1 / (step + 1)})

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    with MetricsLog(whole) as log:
        write(log, range(12))
    with MetricsLog(resumed) as log:
        write(log, range(stopped_after))
        position = log.position()
        write(log, range(stopped_after, 11))
    resumed.write_bytes(resumed.read_bytes()[:-5])  # a kill in the middle of a line
    with MetricsLog(resumed) as log:
        log.rewind(position)
        assert log.position() == position
        write(log, range(stopped_after, 12))
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_log_shorter_than_the_checkpoint_says_is_refused(run: RunDirectory) -> None:
    with MetricsLog(run.metrics) as log:
        log.log({"step": 1})
        position = log.position()
        with pytest.raises(
            CheckpointError, match=rf"first {position + 1} bytes of {run.metrics}, which now has {position}"
        ):
            log.rewind(position + 1)
        assert len(lines(run.metrics)) == 1


@pytest.mark.parametrize("fault", [kill, disk_full])
def test_a_fault_in_logging_leaves_whole_lines_before_the_position(
    tmp_path: Path, fault: Callable[[], None]
) -> None:
    path = tmp_path / "metrics.jsonl"

    def fresh() -> Path:
        path.unlink(missing_ok=True)
        with MetricsLog(path) as log:
            log.log({"step": 1})
        return path

    def log_second(path: Path) -> None:
        with MetricsLog(path) as log:
            log.log({"step": 2})
            log.position()

    position = fresh().stat().st_size
    outcomes = []
    for _, outcome in each_operation(log_second, fault, fresh):
        outcomes.append(outcome)
        with MetricsLog(path) as log:
            log.rewind(position)
            log.log({"step": 3})
        assert lines(path) == [{"step": 1}, {"step": 3}]
    assert set(outcomes) == {Outcome.KILLED if fault is kill else Outcome.REPORTED}


# Predictions


def test_predictions_come_back_bit_for_bit(tmp_path: Path) -> None:
    values = random_floats(1000)
    values[:3] = [np.nan, -0.0, 1e-45]
    with PredictionLog(tmp_path / "p") as log:
        assert log.rows == 0
        assert log.read().shape == (0,)
        for block in np.array_split(values, 7):
            log.append(block)
        log.append(values[::-1])  # not contiguous
        log.sync()
        assert log.rows == 2000
        assert log.read().tobytes() == values.tobytes() + values[::-1].tobytes()
    assert np.fromfile(tmp_path / "p", "<f4").tobytes() == values.tobytes() + values[::-1].tobytes()


@pytest.mark.parametrize("torn", [0, 1, 2, 3])
def test_rewound_predictions_equal_uninterrupted_ones(tmp_path: Path, torn: int) -> None:
    values = random_floats(100)
    with PredictionLog(tmp_path / "p") as log:
        log.append(values[:40])
        log.append(random_floats(30, seed=1))
    with (tmp_path / "p").open("ab") as file:
        file.write(b"\1" * torn)  # a kill in the middle of a value
    with PredictionLog(tmp_path / "p") as log:
        assert log.rows == 70
        log.append(values[70:])
        assert log.read()[70:].tobytes() == values[70:].tobytes(), "complete values follow complete values"
        log.rewind(40)
        assert log.rows == 40
        log.append(values[40:])
        assert log.read().tobytes() == values.tobytes()


def test_predictions_fewer_than_the_checkpoint_says_are_refused(tmp_path: Path) -> None:
    with PredictionLog(tmp_path / "p") as log:
        log.append(random_floats(10))
        with pytest.raises(CheckpointError, match=r"first 44 bytes of \S*p, which now has 40. Restore"):
            log.rewind(11)
        assert log.rows == 10


def test_predictions_of_another_type_or_shape_are_refused(tmp_path: Path) -> None:
    with PredictionLog(tmp_path / "p") as log:
        for wrong in (np.zeros(3), np.zeros((3, 1), np.float32), np.zeros(3, np.int32)):
            with pytest.raises(ValueError, match="1-D float32"):
                log.append(wrong)
        assert log.rows == 0


def test_a_log_that_cannot_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent"):
        PredictionLog(tmp_path / "absent" / "p")


# Digests


def changed(path: Path) -> None:
    """Flip the lowest bit of the first byte."""
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def test_the_digest_is_that_of_all_in_the_file_however_it_came_there(tmp_path: Path) -> None:
    path, values = tmp_path / "p", random_floats(3_000_000)  # longer than one block
    with PredictionLog(path) as log:
        log.append(values[:7])
        log.append(values[7:])
        assert log.digest == xxhash.xxh3_128_hexdigest(values.tobytes())
    with PredictionLog(path) as log:  # continued
        log.append(values[:2])
        assert log.digest == xxhash.xxh3_128_hexdigest(path.read_bytes())
        log.rewind(2_000_000)
        log.append(values[:1])
        whole = values[:2_000_000].tobytes() + values[:1].tobytes()
        assert log.digest == xxhash.xxh3_128_hexdigest(whole)


@pytest.mark.parametrize("kind", [MetricsLog, PredictionLog])
def test_what_changed_since_the_checkpoint_is_refused_and_left(tmp_path: Path, kind: type) -> None:
    path = tmp_path / "log"
    path.write_bytes(random_floats(2).tobytes())
    with kind(path) as log:
        position, digest = (8, log.digest) if kind is MetricsLog else (2, log.digest)
    with path.open("ab") as file:
        file.write(b"more")
    with kind(path) as log:
        log.rewind(position, digest)
    with path.open("ab") as file:
        file.write(b"more")
    changed(path)
    before = path.read_bytes()
    with (
        kind(path) as log,
        pytest.raises(CheckpointError, match=rf"first 8 bytes of {path}, which changed since. Restore"),
    ):
        log.rewind(position, digest)
    assert path.read_bytes() == before
    with kind(path) as log:
        log.rewind(position)  # as in an older checkpoint


def test_scalars_are_the_finite_numbers_of_a_line_by_group():
    line = {"step": 7, "loss": 0.5, "window_auc": None, "skipped": math.nan, "lr": {"dense": 0.1, "rows": 2}}
    assert scalars(line) == {"train/loss": 0.5, "lr/dense": 0.1, "lr/rows": 2.0}
    assert scalars({"step": 7, "val": {"auc": 0.75, "calibration": None}}) == {"val/auc": 0.75}
