"""Seeded faults make each check of the campaigns fail."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dlrm_adahessian.checkpoint import reader, step_folders, tensor_file
from dlrm_adahessian.data.prepared import folder as prepared_rows
from dlrm_adahessian.data.prepared import vocabulary
from dlrm_adahessian.data.prepared.arrays import read_array
from dlrm_adahessian.data.prepared.vocabulary import Vocabulary
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.data.text.bad_lines import BadLines
from dlrm_adahessian.runs import finished as finished_run
from dlrm_adahessian.runs.sealed import MANIFEST, DamagedFolderError
from dlrm_adahessian.train import agreement as agreement_of_ranks
from tests.processes import worlds
from tests.reliability import runs
from tests.reliability.campaigns import agreement, damage, io_faults, lines, moves, prepared, results
from tests.reliability.outcome import Outcome, counting


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.uninterrupted(tmp_path_factory.mktemp("seeded"), 1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit_line(path: Path, key: str) -> None:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[50][key] += 1e-16 + 1e-15 * abs(records[50][key])
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def edit_state(path: Path) -> None:
    found = json.loads(path.read_text())
    found["state"]["progress"]["skipped"] += 1
    path.write_text(json.dumps(found))


SEEDS = {
    "a bit of the dense part": (flip, "checkpoints/step-00000120/dense.safetensors"),
    "a bit of a table": (flip, "checkpoints/step-00000120/tables-00025.safetensors"),
    "a lost table": (Path.unlink, "checkpoints/step-00000120/tables-00000.safetensors"),
    "a count": (edit_state, "checkpoints/step-00000120/state.json"),
    "a bit of a prediction": (flip, "progressive.f32"),
    "a bit of a score": (flip, "test.f32"),
    "a digit of a loss": (lambda path: edit_line(path, "loss"), "metrics.jsonl"),
    "a digit of the window": (lambda path: edit_line(path, "window_logloss"), "metrics.jsonl"),
    "a lost line": (lambda path: path.write_text(path.read_text().partition("\n")[2]), "metrics.jsonl"),
    "a lost checkpoint": (shutil.rmtree, "checkpoints"),
}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_difference_between_two_runs_is_found(finished: Path, tmp_path: Path, seed: str) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    assert runs.differences(copy, finished) == []
    change, name = SEEDS[seed]
    change(copy / name)
    assert runs.differences(copy, finished)


def test_times_do_not_count_as_a_difference(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    path = copy / "metrics.jsonl"
    records = [{**json.loads(line), "timing": {"seconds": 0}} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert runs.differences(copy, finished) == []


def trusting(path: Path) -> Any:
    """Read a manifest without verification."""
    try:
        return json.loads((path / MANIFEST).read_bytes())
    except (ValueError, OSError) as error:
        raise DamagedFolderError(str(error)) from error


def verdicts_of(folder: Path) -> Outcome:
    """Damage and load in this process."""
    worlds.run(2, damage._save, folder / "checkpoints", log=folder / "save")
    report = folder / "verdicts.json"
    damage._attack(folder / "checkpoints", dict.fromkeys(damage.KINDS, 6), report)
    with counting(4, "seeded") as (outcome, _):
        damage._count(outcome, json.loads(report.read_text()))
    return outcome


@pytest.mark.dist
def test_damage_that_nobody_notices_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "read_sealed", trusting)
    outcome = verdicts_of(tmp_path)
    assert outcome.times == 24
    assert outcome.silent > 5, outcome


@pytest.mark.dist
def test_an_older_checkpoint_that_is_used_without_a_word_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader.logger, "warning", lambda *args: None)
    assert "without a warning" in verdicts_of(tmp_path).failures[0]


def test_a_save_that_removes_the_old_one_first_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = step_folders.unused

    def eager(folder: Path, step: int) -> Path:
        if step == 300:
            for path in folder.glob("step-*"):
                shutil.rmtree(path)
        return real(folder, step)

    monkeypatch.setattr(step_folders, "unused", eager)
    outcome = io_faults.each(tmp_path, 3, "seeded", io_faults.disk_full)
    assert outcome.silent > 5


def test_a_writer_that_believes_all_was_taken_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert io_faults.cut_short(tmp_path / "whole").good
    monkeypatch.setattr(tensor_file, "_write_all", lambda file, block: file.write(block))
    outcome = io_faults.cut_short(tmp_path / "seeded")
    assert outcome.times > outcome.silent == 4, "tensor files only; text goes through Python's buffer"


def believed(cls: type[Vocabulary], folder: Path, schema: Schema) -> Vocabulary:
    """Read a vocabulary without verification."""
    return cls(**{field: read_array(folder / name) for field, name in vocabulary._FILES.items()})


def test_prepared_rows_that_are_believed_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (outcome,) = prepared.run(16, tmp_path / "a")
    assert outcome.good, outcome.failures
    assert outcome.figures == {"made_anew": 8, "refused": 7}  # the last one has no manifest
    monkeypatch.setattr(prepared_rows, "read_sealed", trusting)
    monkeypatch.setattr(prepared_rows, "_check", lambda folder, manifest: None)
    monkeypatch.setattr(Vocabulary, "load", classmethod(believed))
    (outcome,) = prepared.run(16, tmp_path / "b")
    assert outcome.silent > 5


@pytest.mark.campaign
def test_finished_results_that_are_believed_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished_run, "verify_file", lambda path, entry: None)
    monkeypatch.setattr(finished_run.FinishedRun, "read", lambda run, name: (run.folder / name).read_bytes())
    (outcome,) = results.run(7 * 3, tmp_path)
    assert outcome.silent + outcome.lost > 10, outcome.failures
    assert outcome.silent >= 5, outcome.failures


@pytest.mark.parametrize(
    ("used", "found"),
    [
        (lambda folder, seed: "truth", "silent"),  # nothing on disk was computed again
        (lambda folder, seed: write_summary(folder, "other"), "silent"),
        (lambda folder, seed: write_summary(folder, "truth"), "lost"),  # without a warning
        (lambda folder, seed: {}["key"], "lost"),
    ],
)
def test_each_way_to_believe_a_damaged_result_counts(tmp_path: Path, used: Any, found: str) -> None:
    outcome = Outcome(line=26, tried="seeded", figures={"made_anew": 0, "refused": 0})
    place = results._Place("seeded", "", used)
    results._judge(place, tmp_path, tmp_path, "truth", "seeded: test.f32 bit flip", [], outcome)
    assert (outcome.lost, outcome.silent) == ((1, 0) if found == "lost" else (0, 1))


def write_summary(folder: Path, content: str) -> str:
    (folder / "summary.json").write_text(content)
    return content


def test_a_tensor_that_arrives_changed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves._pass_on(tmp_path, 0, 1, tmp_path / "0.json")
    moves._pass_on(tmp_path, 1, 1, tmp_path / "1.json")
    assert json.loads((tmp_path / "1.json").read_text()) == [[0, []]]
    real = moves.dense_of
    monkeypatch.setattr(moves, "dense_of", lambda seed: {**real(seed), "half": real(seed + 1)["half"]})
    moves._pass_on(tmp_path, 1, 1, tmp_path / "2.json")
    assert json.loads((tmp_path / "2.json").read_text()) == [[0, ["half"]]]


@pytest.mark.campaign
def test_a_reject_that_loses_a_byte_and_one_that_is_not_counted_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = BadLines.reject
    monkeypatch.setattr(BadLines, "reject", lambda self, raw, explain: real(self, raw[:-1] or raw, explain))
    (outcome,) = lines.run(1, tmp_path)
    assert outcome.silent > 20

    numbers = itertools.count()

    def forgetful(self: BadLines, raw: bytes, explain: Any) -> None:
        real(self, raw, explain)
        self.count -= next(numbers) % 2

    monkeypatch.setattr(BadLines, "reject", forgetful)
    (outcome,) = lines.run(1, tmp_path)
    assert outcome.silent > 10


def test_a_defect_where_the_manifest_is_missing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise AttributeError("a defect")

    monkeypatch.setattr(prepared, "open_dataset", broken)
    outcome = Outcome(line=14, tried="seeded")
    prepared._judge_named(Path("folder"), "manifest.json missing", outcome)
    assert outcome.lost == 1


def believe_each_other(case: tuple[str, Path]) -> int:
    with mock.patch.object(agreement_of_ranks, "require_same"):
        return agreement.differ(case)


@pytest.mark.campaign
@pytest.mark.dist
def test_ranks_that_believe_each_other_are_found(tmp_path: Path) -> None:
    names = ["version of torch", "labels"]
    outcome = Outcome(line=27, tried="seeded")
    for name, found in agreement.in_turn(names, tmp_path, believe_each_other).items():
        agreement.judge(outcome, name, *found)
    assert (outcome.times, outcome.silent) == (2, 2), outcome.failures


@pytest.mark.parametrize(
    ("codes", "printed", "lost", "silent"),
    [
        ([64, 64], "error: TOLD", 0, 0),
        ([64, -15], "error: TOLD", 0, 0),
        ([0, 0], "", 0, 1),
        ([64, 0], "error: TOLD", 0, 1),
        ([75, 75], "error: TOLD", 1, 0),
        ([-15, -15], "error: TOLD", 1, 0),
        ([64, 64], "", 1, 0),
        ([64, 64], "error: TOLD\nerror: TOLD", 1, 0),
        ([64, 64], "error: something else", 1, 0),
    ],
)
def test_ranks_that_end_otherwise_than_they_must_are_found(
    codes: list[int], printed: str, lost: int, silent: int
) -> None:
    outcome = Outcome(line=27, tried="seeded")
    told = agreement.DISAGREEMENTS["seed"].told
    agreement.judge(outcome, "seed", codes, printed.replace("TOLD", told))
    assert (outcome.times, outcome.lost, outcome.silent) == (1, lost, silent)
