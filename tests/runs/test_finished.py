"""Results of a finished run: every change raises an error."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dlrm_adahessian.runs import files
from dlrm_adahessian.runs import sealed as sealed_module
from dlrm_adahessian.runs.finished import DIVERGED, METRICS, PROGRESSIVE, SEAL, SUMMARY, TEST, FinishedRun
from dlrm_adahessian.runs.sealed import DamagedFolderError, write_json
from tests.faults import disk_full, each_operation, kill

RUN = "0123456789abcdef"
LOGS = {METRICS: b'{"step": 1, "loss": 0.5}\n', PROGRESSIVE: b"abcdefgh", TEST: b"ijkl"}
FOUND = {"test": {"auc": 0.79, "logloss": float("nan")}, "ci": (0.1, float("inf")), "baseline": None}


def write_logs(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in LOGS.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    FinishedRun.seal(write_logs(tmp_path / "run"), RUN, FOUND).with_result("curvature.json", [1.5])
    return tmp_path / "run"


def refused(folder: Path, run: str = RUN) -> str:
    with pytest.raises(DamagedFolderError) as error:
        FinishedRun.open(folder, run)
    return str(error.value)


def test_results_read_back_and_what_is_not_finite_is_null(folder: Path) -> None:
    found = FinishedRun.open(folder, RUN)
    assert found.read_json(SUMMARY) == {
        "test": {"auc": 0.79, "logloss": None}, "ci": [0.1, None], "baseline": None,
    }  # fmt: skip
    assert {name: found.read(name) for name in LOGS} == LOGS
    assert found.read_json("curvature.json") == [1.5]
    assert found.files.keys() == {*LOGS, SUMMARY, "curvature.json"}


@pytest.mark.parametrize("name", [*LOGS, SUMMARY, SEAL, "curvature.json"])
def test_every_bit_of_every_result_counts(folder: Path, name: str) -> None:
    path = folder / name
    content = path.read_bytes()
    for place in range(8 * len(content)):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        told = refused(folder)
        assert str(path) in told
    path.write_bytes(content)
    FinishedRun.open(folder, RUN)


@pytest.mark.parametrize("name", [*LOGS, SUMMARY, SEAL, "curvature.json"])
def test_a_result_cut_short_lengthened_swapped_linked_or_gone_is_refused(folder: Path, name: str) -> None:
    path = folder / name
    content = path.read_bytes()
    for other in (
        content[:-2],  # a seal without its final newline has the same content
        content + b"\0",
        b"",
        (folder / (TEST if name != TEST else METRICS)).read_bytes(),
    ):
        path.write_bytes(other)
        assert str(path) in refused(folder)
    path.write_bytes(content)
    path.rename(folder.parent / "elsewhere")
    assert f"{path} is missing" in refused(folder)
    path.symlink_to(folder.parent / "elsewhere")
    if name != SEAL:  # the seal has its own fingerprint
        assert f"{path} is not a plain file" in refused(folder)


def test_an_edit_that_is_sealed_by_hand_in_part_is_refused(folder: Path) -> None:
    seal = json.loads((folder / SEAL).read_text())
    for change in (
        {"files": {name: entry for name, entry in seal["files"].items() if name != METRICS}},
        {"files": {name: entry for name, entry in seal["files"].items() if name != "curvature.json"}},
        {"run": "f" * 16},
    ):
        write_json(folder / SEAL, {**seal, **change})
        assert "seal.json changed since it was written" in refused(folder)
    for other in ("[]", "{}", "null", "{"):
        (folder / SEAL).write_text(other)
        assert str(folder / SEAL) in refused(folder)


def test_results_of_another_run_are_refused(folder: Path) -> None:
    assert "seal.json belongs to another run" in refused(folder, "f" * 16)


def test_results_of_before_seals_are_called_so(folder: Path) -> None:
    (folder / SEAL).unlink()
    told = "seal.json is missing: it was lost, or an older version without seals wrote summary.json"
    assert told in refused(folder)


def test_what_changes_after_the_results_were_opened_is_not_read(folder: Path) -> None:
    found = FinishedRun.open(folder, RUN)
    (folder / TEST).write_bytes(b"ijkm")
    with pytest.raises(DamagedFolderError, match=r"test\.f32 changed since"):
        found.read(TEST)
    (folder / TEST).unlink()
    with pytest.raises(DamagedFolderError, match=r"test\.f32 cannot be read"):
        found.read(TEST)


def test_a_divergence_is_a_result_of_its_own(tmp_path: Path) -> None:
    FinishedRun.seal_divergence(tmp_path, RUN, "the loss is not finite")
    found = FinishedRun.open(tmp_path, RUN, DIVERGED)
    assert found.read_json(DIVERGED) == {"message": "the loss is not finite"}
    assert "another run" in refused(tmp_path), "the run has not finished"


def test_a_divergence_laid_beside_finished_results_is_refused(folder: Path) -> None:
    write_json(folder / DIVERGED, {"message": "the loss is not finite"})
    with pytest.raises(DamagedFolderError, match="belongs to another run"):
        FinishedRun.open(folder, RUN, DIVERGED)
    FinishedRun.open(folder, RUN)


@pytest.mark.parametrize("fault", [kill, disk_full])
def test_results_are_absent_or_whole(tmp_path: Path, fault: Callable[[], None]) -> None:
    def fresh() -> Path:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return write_logs(tmp_path / "run")

    finished = []
    for path, _ in each_operation(lambda path: FinishedRun.seal(path, RUN, {"auc": 0.5}), fault, fresh):
        finished.append((path / SUMMARY).exists())
        if finished[-1]:
            assert FinishedRun.open(path, RUN).read_json(SUMMARY) == {"auc": 0.5}
    assert set(finished) == {False, True}


def test_all_else_is_on_disk_before_the_summary_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: dict[Path, bool] = {}

    def flush(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushed.setdefault(path, (tmp_path / SUMMARY).exists())

    for module in (files, sealed_module):
        monkeypatch.setattr(module, "flush_to_disk", flush)
    FinishedRun.seal(write_logs(tmp_path), RUN, {"auc": 0.5})
    assert not any(flushed.values())
    assert {path.name for path in flushed} >= {*LOGS, tmp_path.name}
