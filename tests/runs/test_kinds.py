"""A folder of another kind raises an error and stays unchanged."""

import re
from pathlib import Path

import pytest

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runs.kinds import require_kind
from dlrm_adahessian.runs.run_directory import RunDirectory

SIGNS = {
    "run": ["config.json", "metrics.jsonl", "test.f32", "checkpoints"],
    "comparison": ["comparison.json", "results.csv"],
    "prepared": ["manifest.json"],
}
NAMES = {
    "run": "a training run",
    "comparison": "a comparison",
    "prepared": "prepared data, an export, or a checkpoint",
}


@pytest.mark.parametrize(("kind", "sign"), [(kind, sign) for kind, signs in SIGNS.items() for sign in signs])
def test_a_folder_is_what_it_holds(tmp_path: Path, kind: str, sign: str) -> None:
    (tmp_path / sign).touch()
    for wanted in ("run", "comparison"):
        if wanted == kind:
            require_kind(tmp_path, wanted)
            continue
        told = f"{tmp_path} contains {NAMES[kind]} ({sign}), so it cannot be used for {NAMES[wanted]}. "
        with pytest.raises(UsageError, match=re.escape(told)):
            require_kind(tmp_path, wanted)


def test_absent_empty_and_other_folders_are_free(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        require_kind(path, "run")
    (tmp_path / "notes.txt").touch()
    require_kind(tmp_path, "comparison")


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_leaves_a_folder_of_another_kind_as_it_is(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "manifest.json").touch()
    with pytest.raises(UsageError, match="manifest.json"), RunDirectory.create(tmp_path, resume=resume):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"], "no lock was created"
