"""calibration.json is unchanged and belongs to the loaded checkpoint, or raises an error immediately."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dlrm_adahessian.checkpoint.reader import Checkpoint
from dlrm_adahessian.errors import CheckpointError, NoInputError
from dlrm_adahessian.evaluation.calibration.maps import IsotonicMap, PlattMap
from dlrm_adahessian.evaluation.calibration.stored import NAME, Calibration, CalibrationRows
from dlrm_adahessian.runs.sealed_json import write_sealed_json

A, B = {"bytes": 1, "xxh3_128": "a"}, {"bytes": 1, "xxh3_128": "b"}
ROWS = CalibrationRows(samples=1000, clicks=250, data=["new.txt"], part="all", files=[A])
PLATT = Calibration(step=7, digest="0" * 32, map=PlattMap(slope=0.5, intercept=-1.0), rows=ROWS)
ISOTONIC = replace(PLATT, map=IsotonicMap(thresholds=[-1.0, 1 / 3], values=[-2.0, 0.1]))
CHECKPOINT = Checkpoint(path=Path("step-00000007"), step=7, digest="0" * 32, state={}, stored=[])


@pytest.mark.parametrize("calibration", [PLATT, ISOTONIC], ids=["platt", "isotonic"])
def test_what_was_written_is_read(calibration, tmp_path):
    assert calibration.write(tmp_path) == tmp_path / NAME
    assert Calibration.read(tmp_path) == calibration
    PLATT.write(tmp_path)  # replaces another calibration
    assert Calibration.read(tmp_path) == PLATT


def test_a_run_without_one_says_how_to_get_it(tmp_path):
    with pytest.raises(
        NoInputError, match=f"{tmp_path} has no calibration. Fit one with calibrate --run {tmp_path}"
    ):
        Calibration.read(tmp_path)


@pytest.mark.parametrize(("part", "files", "part_of_others", "others", "own", "shared"), [
    ("all", [A], "all", [B, A], False, True),
    ("all", [A], "all", [B], False, False),
    ("all", [A], "test", [], True, False),  # not the run's own data
    ("all", [], "all", [A], False, False),  # a pipe, or an older version
    ("val", [], "val", [], True, True),
    ("val", [], "all", [], True, True),
    ("val", [], "test", [], True, False),
    ("val", [], "all", [A], False, False),
])  # fmt: skip
def test_rows_are_known_by_the_content_of_their_files_or_as_a_part_of_the_runs_own(
    part, files, part_of_others, others, own, shared
):
    rows = replace(ROWS, part=part, files=files)
    assert rows.share(others, part=part_of_others, own=own) == shared


def test_a_calibration_of_before_names_no_files(tmp_path):
    values = PLATT.asdict()
    del values["rows"]["files"]
    write_sealed_json(tmp_path / NAME, values)
    assert not Calibration.read(tmp_path).rows.share([A], part="all", own=False)


def test_that_of_another_checkpoint_is_refused():
    PLATT.require(CHECKPOINT, Path("run"))
    with pytest.raises(
        CheckpointError, match="of run belongs to step 7, not to step-00000009. Run calibrate"
    ):
        PLATT.require(replace(CHECKPOINT, path=Path("step-00000009"), step=9), Path("run"))
    with pytest.raises(CheckpointError, match="belongs to other content at the same step"):
        PLATT.require(replace(CHECKPOINT, digest="1" * 32), Path("run"))


def resealed(folder, **changes):
    write_sealed_json(folder / NAME, {**PLATT.asdict(), **changes})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"map": {"method": "platt", "slope": -1.0, "intercept": 0.0}}, "map.platt.slope: "),
        ({"map": {"method": "platt", "slope": 1.0}}, "map.platt.intercept: "),
        ({"map": {"method": "isotonic", "thresholds": [0, 1], "values": [1, 0]}}, "values must not fall"),
        ({"map": {"method": "isotonic", "thresholds": [0, 0], "values": [0, 1]}}, "thresholds must rise by at least 1 / 64"),
        ({"map": {"method": "isotonic", "thresholds": [*range(3000)], "values": [*range(3000)]}}, "at most 2049 items"),
        ({"map": {"method": "pickle"}}, "map: "),
        ({"map": None}, "map: "),
        ({"format": 2}, "format: "),
        ({"step": "x"}, "step: "),
        ({"more": 1}, "more: "),
    ],
)  # fmt: skip
def test_what_agrees_with_itself_and_is_no_calibration_is_refused(changes, told, tmp_path):
    resealed(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=f"Invalid calibration in .*{told}.*\\. Run calibrate"):
        Calibration.read(tmp_path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
@pytest.mark.parametrize("name", ["slope", "intercept"])
def test_numbers_that_are_none_are_refused_though_the_seal_agrees(number, name, tmp_path, monkeypatch):
    said = {**PLATT.asdict(), "map": {"method": "platt", "slope": 1.0, "intercept": 0.0, name: float(number)}}
    monkeypatch.setattr(
        "dlrm_adahessian.runs.sealed.json_text", json.dumps
    )  # it writes NaN, unlike `json_text`
    write_sealed_json(tmp_path / NAME, said)
    with pytest.raises(CheckpointError, match=f"map.platt.{name}: Input should be"):
        Calibration.read(tmp_path)


def test_what_is_too_large_or_damaged_is_refused_within_a_second(tmp_path):
    began = time.perf_counter()
    with (tmp_path / NAME).open("wb") as file:
        file.truncate(10**10)  # the size of a billion thresholds, without using disk space
    with pytest.raises(CheckpointError, match="too large for a file of its kind. Run calibrate"):
        Calibration.read(tmp_path)
    PLATT.write(tmp_path)
    text = (tmp_path / NAME).read_text()
    (tmp_path / NAME).write_text(text.replace("0.5", "0.6"))
    with pytest.raises(CheckpointError, match="changed since it was written. Run calibrate"):
        Calibration.read(tmp_path)
    assert time.perf_counter() - began < 1
