"""Order of checkpoints, and which ones to keep."""

from pathlib import Path

import pytest

from dlrm_adahessian.checkpoint.reader import latest, load_newest_good
from dlrm_adahessian.checkpoint.step_folders import require_run
from dlrm_adahessian.errors import NoInputError
from tests.checkpoints import RUN, names, save_seed, seed_of


def test_old_checkpoints_go_only_beyond_keep(tmp_path: Path) -> None:
    for seed in range(1, 6):
        save_seed(tmp_path, seed, keep=3)
    assert names(tmp_path) == ["latest", "step-00000300", "step-00000400", "step-00000500"]
    assert (tmp_path / "latest").read_text() == "step-00000500\n"
    assert latest(tmp_path) == tmp_path / "step-00000500"


def test_no_checkpoint_at_all_is_none(tmp_path: Path) -> None:
    assert load_newest_good(tmp_path / "absent", RUN) is None
    assert latest(tmp_path / "absent") is None
    (tmp_path / "notes.txt").write_text("no checkpoint")
    assert load_newest_good(tmp_path, RUN) is None


def test_a_step_saved_again_gets_a_folder_of_its_own(two: Path) -> None:
    assert save_seed(two, 3, step=200).name == "step-00000200-2"
    assert names(two) == ["latest", "step-00000100", "step-00000200-2"]
    assert save_seed(two, 4, step=200).name == "step-00000200"
    assert names(two) == ["latest", "step-00000100", "step-00000200"]
    assert seed_of(load_newest_good(two, RUN)) == 4


def test_going_back_to_an_older_step_drops_the_abandoned_ones(two: Path) -> None:
    save_seed(two, 3, step=150)
    assert names(two) == ["latest", "step-00000100", "step-00000150"]
    assert seed_of(load_newest_good(two, RUN)) == 3


def test_the_committed_one_is_preferred_and_a_bad_latest_file_is_ignored(two: Path) -> None:
    (two / "latest").write_text("step-00000100\n")
    assert latest(two) == two / "step-00000100"
    for content in (b"", b"\xff" * 30, b"../../etc", b"step-99999999"):
        (two / "latest").write_bytes(content)
        assert latest(two) == two / "step-00000200"
    (two / "latest").unlink()
    assert latest(two) == two / "step-00000200"


def test_leftovers_of_killed_processes_go_with_the_next_save(two: Path) -> None:
    (two / ".step-00000300.4711.tmp").mkdir()
    (two / ".step-00000300.4711.tmp" / "dense.safetensors").write_bytes(b"half")
    (two / ".latest.4711.tmp").write_bytes(b"")
    save_seed(two, 3)
    assert names(two) == ["latest", "step-00000200", "step-00000300"]


def test_a_run_is_known_by_its_configuration_also_from_a_checkpoint_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = tmp_path / "checkpoints" / "step-00000100"
    step.mkdir(parents=True)
    for path in (tmp_path, step):
        with pytest.raises(NoInputError, match=f"^{tmp_path} is not a run directory"):
            require_run(path)
    (tmp_path / "config.json").write_text("{}")
    for path in (tmp_path, step):
        require_run(path)
    monkeypatch.chdir(step)
    require_run(Path())
