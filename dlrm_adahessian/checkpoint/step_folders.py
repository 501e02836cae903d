"""Manage the checkpoint folders of a run: their names, their order, and which ones to keep.

If a step is saved again, it gets a new folder, `step-00000123-2`, so a valid checkpoint is never overwritten. Folders are
renamed before they are removed, so a folder with the name of a checkpoint is never incomplete.
"""

import re
from pathlib import Path

from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.runs.sealed import write_text

_LATEST = "latest"
_NAME = re.compile(r"step-([0-9]{8,})(?:-([0-9]+))?")


def step_of(path: Path) -> int | None:
    """Return the step in a folder's name, or None if it is not the name of a checkpoint."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def require_run(path: Path) -> None:
    """Check that a folder is a run or a checkpoint of one, before slow work starts. Raises the errors of `read_config`."""
    named = step_of(path.absolute()) is not None
    RunDirectory(path.absolute().parent.parent if named else path).read_config()


def newest_first(folder: Path) -> list[Path]:
    """List the checkpoints: first the one committed last, then by step and repetition. Empty if the folder is missing."""
    if not folder.is_dir():
        return []
    file = folder / _LATEST
    committed = file.read_text("utf-8", errors="replace").strip() if file.is_file() else ""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.name == committed, _order(path)), reverse=True)


def unused(folder: Path, step: int) -> Path:
    """Return an unused path for a checkpoint of `step`."""
    path = folder / f"step-{step:08d}"
    again = 2
    while path.exists():
        path = folder / f"step-{step:08d}-{again}"
        again += 1
    return path


def commit(new: Path, keep: int) -> None:
    """Make `new` the latest checkpoint, and rename those that it replaces for later removal.

    It also replaces checkpoints of the same or later steps, because the run returned to an earlier step.

    Args:
        new: a complete checkpoint.
        keep: number of checkpoints to keep, including the new one.
    """
    write_text(new.parent / _LATEST, f"{new.name}\n")
    others = [path for path in newest_first(new.parent) if path != new]
    earlier = [path for path in others if _order(path)[0] < _order(new)[0]]
    for path in set(others) - set(earlier[: keep - 1]):
        path.rename(path.with_name(f".{path.name}.old.tmp"))


def _order(path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2] or 1)) if match else (-1, 0)
