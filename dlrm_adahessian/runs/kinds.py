"""Detect the kind of a folder by its files, so that nothing overwrites a folder of another kind."""

from pathlib import Path
from typing import Literal

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runs.finished import METRICS, TEST
from dlrm_adahessian.runs.sealed import MANIFEST

COMPARISON = "comparison.json"
"""File with the settings of a comparison."""
WARM: str = "warm"
"""Folder of the warm-started runs in a study of days."""
Kind = Literal["run", "comparison", "daily"]
_SIGNS: dict[Kind | None, tuple[str, tuple[str, ...]]] = {
    "run": ("a training run", ("config.json", METRICS, TEST, "checkpoints")),
    "comparison": ("a comparison", (COMPARISON, "results.csv")),
    "daily": ("a study of days", (WARM,)),
    None: ("prepared data, an export, or a checkpoint", (MANIFEST,)),
}
"""Name of each kind, and the files that identify it."""


def require_kind(folder: Path, kind: Kind) -> None:
    """Refuse a folder of another kind before anything is written to it.

    Args:
        folder: the folder. It may be missing.
        kind: kind of the results to write.

    Raises:
        UsageError: the folder contains files of another kind.
    """
    for other, (name, signs) in _SIGNS.items():
        found = [sign for sign in signs if (folder / sign).exists()]
        if other != kind and found:
            raise UsageError(
                f"{folder} contains {name} ({', '.join(found)}), so it cannot be used for {_SIGNS[kind][0]}. Choose another "
                "folder with --out."
            )
