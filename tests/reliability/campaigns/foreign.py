"""Forged run folders that claim sizes beyond their files: they must be rejected without allocating that memory."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.hostile import LARGE, forged
from tests.processes.program import Command
from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import uninterrupted

_CLAIMS: dict[str, dict[str, Any]] = {
    **{name: {"model": model} for name, model in LARGE.items()},
    "seed": {"seed": 2**70},
}


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Try all of them once, or none if `times` is 0."""
    if not times:
        return
    whole = uninterrupted(folder, 1)
    rows = next(folder.glob("cache/synthetic-*[0-9a-f]"))
    with counting(30, "run folders that claim huge sizes or seeds: refused with 3", 3 * len(_CLAIMS)) as (
        outcome,
        show,
    ):
        for name, claim in _CLAIMS.items():
            theirs = forged(Path(shutil.copytree(whole, folder / name)), **claim)
            for command in (
                ["evaluate", "--run", theirs, "--data-path", rows],
                ["export", "--run", theirs, "--out", folder / "exported"],
                ["train", "--resume", "--out", theirs],
            ):
                process = Command(*command, log=folder / "log")
                code, printed = process.wait(), process.printed()
                right = code == 3 and "Traceback" not in printed and not (folder / "exported").exists()
                outcome.expect(right, f"{name}, {command[0]}: exit {code}: {printed[-300:]}")
                show()
    yield outcome
