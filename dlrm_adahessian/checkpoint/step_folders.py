"""The folders of one run's checkpoints: their names, their order, and which ones stay.

A step that is saved again gets a folder of its own, `step-00000123-2`, so that no good checkpoint is ever
overwritten. What is removed is renamed first: a name that reads as a checkpoint never stands for half of one.
"""

import re
from pathlib import Path

from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.runs.sealed import write_text

_LATEST = "latest"
_NAME = re.compile(r"step-([0-9]{8,})(?:-([0-9]+))?")


def step_of(path: Path) -> int | None:
    """Return the step that a folder's name says, or None when it is no checkpoint's name."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def require_run(path: Path) -> None:
    """See that a folder is a run, or a checkpoint in one, before anything slow begins; errors as those of `read_config`."""
    named = step_of(path.absolute()) is not None
    RunDirectory(path.absolute().parent.parent if named else path).read_config()


def newest_first(folder: Path) -> list[Path]:
    """List the checkpoints: the one committed last, then by step and repetition; none in an absent folder."""
    if not folder.is_dir():
        return []
    file = folder / _LATEST
    committed = file.read_text("utf-8", errors="replace").strip() if file.is_file() else ""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.name == committed, _order(path)), reverse=True)


def unused(folder: Path, step: int) -> Path:
    """Return a path for a checkpoint of `step` that nothing stands at."""
    path = folder / f"step-{step:08d}"
    again = 2
    while path.exists():
        path = folder / f"step-{step:08d}-{again}"
        again += 1
    return path


def commit(new: Path, keep: int) -> None:
    """Name `new` the latest, and give those that it replaces names of leftovers, to be removed when there is time.

    Those of the same or a later step are replaced too: the run went back to before them.

    Args:
        new: a complete checkpoint.
        keep: checkpoints to keep, the new one included.
    """
    write_text(new.parent / _LATEST, f"{new.name}\n")
    others = [path for path in newest_first(new.parent) if path != new]
    earlier = [path for path in others if _order(path)[0] < _order(new)[0]]
    for path in set(others) - set(earlier[: keep - 1]):
        path.rename(path.with_name(f".{path.name}.old.tmp"))


def _order(path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2] or 1)) if match else (-1, 0)
