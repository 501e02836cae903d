"""What a folder is, by what it holds: nothing is written over a folder of another kind."""

from pathlib import Path
from typing import Literal

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runs.finished import METRICS, TEST
from dlrm_adahessian.runs.sealed import MANIFEST

COMPARISON = "comparison.json"
"""What a comparison was asked to do, in its folder."""
WARM: str = "warm"
"""Folder of the runs of a study of days that went on from the day before."""
Kind = Literal["run", "comparison", "daily"]
_SIGNS: dict[Kind | None, tuple[str, tuple[str, ...]]] = {
    "run": ("a training run", ("config.json", METRICS, TEST, "checkpoints")),
    "comparison": ("a comparison", (COMPARISON, "results.csv")),
    "daily": ("a study of days", (WARM,)),
    None: ("prepared rows, an export or a checkpoint", (MANIFEST,)),
}
"""For each kind its name, and the files of which each tells it."""


def require_kind(folder: Path, kind: Kind) -> None:
    """Refuse a folder of another kind than is to be written, before anything is.

    Args:
        folder: it may be absent.
        kind: what is to be written there.

    Raises:
        UsageError: the folder holds files of another kind.
    """
    for other, (name, signs) in _SIGNS.items():
        found = [sign for sign in signs if (folder / sign).exists()]
        if other != kind and found:
            raise UsageError(
                f"{_SIGNS[kind][0]} needs a folder of its own, and {folder} is that of {name}: it holds "
                f"{', '.join(found)}; name another folder with --out"
            )
