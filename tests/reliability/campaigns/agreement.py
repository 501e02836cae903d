"""Two ranks that differ in a flag, the program, the data, a checkpoint, or the device: both must end with one message.

As a script, it runs one rank under torchrun: `agreement.py NAME FOLDER`.
"""

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import dlrm_adahessian
from dlrm_adahessian import cli
from dlrm_adahessian.checkpoint.step_folders import newest_first
from dlrm_adahessian.data.prepared.folder import PreparedData, map_prepared
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runs.sealed import MANIFEST, file_digest, read_sealed, sealed_folder
from dlrm_adahessian.train import agreement, opened_run
from tests.processes import worlds
from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import Launched, job, torchrun, uninterrupted

_ERROR = re.compile(r"^error: ", re.MULTILINE)  # start of each error message of the command line
_CODE = re.compile(r"exitcode *: (-?\d+)")  # in torchrun's report
# torchrun terminates the other ranks as soon as it sees that one has exited.
_LEFT = {UsageError.exit_code, -signal.SIGTERM}


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A difference of rank 1.

    Attributes:
        told: expected text of the message.
        flags: flags of rank 1.
        change: context that changes what rank 1 sees, given a run directory or the data in the campaign's folder.
        resumes: whether both ranks resume a run with checkpoints.
        launched: whether torchrun starts the ranks. Otherwise the same two processes run one disagreement after another.
    """

    told: str
    flags: Sequence[str] = ()
    change: Callable[[Path], AbstractContextManager[object]] = lambda folder: nullcontext()
    resumes: bool = False
    launched: bool = False


def _flag(name: str, value: object, first: object, *, launched: bool = False) -> Disagreement:
    told = f"Rank 1 has {name} {value}, but rank 0 has {first}. Start all ranks with the same flags"
    flag = "--" + name.replace("_", "-")
    return Disagreement(told=told, flags=(flag, *str(value).strip("[]").split(", ")), launched=launched)


def _program(name: str, value: str) -> Disagreement:
    """Give a package another version."""

    def change(folder: Path) -> AbstractContextManager[object]:
        other = {**agreement.program(), name: value}
        return mock.patch.object(agreement, "program", return_value=other)

    return Disagreement(told=f"Rank 1 has {name} {value}, but rank 0 has ", change=change)


def _another_source(folder: Path) -> AbstractContextManager[object]:
    """Add an empty line to one source file."""
    copy = folder / "program" / "dlrm_adahessian"
    if not copy.exists():
        shutil.copytree(
            Path(dlrm_adahessian.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__")
        )
        with (copy / "train" / "step.py").open("a") as file:
            file.write("\n")
    return mock.patch.object(agreement, "program", partial(agreement.program, copy))


def _other_labels(folder: Path) -> AbstractContextManager[object]:
    """Change labels of the prepared data under the same path and fingerprint, like edited data on another machine."""

    def mapped(path: Path) -> PreparedData:
        other = folder / "other-labels"
        with sealed_folder(other, read_sealed(path)) as temporary:
            shutil.copytree(path, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
            np.save(temporary / "labels.npy", 1 - np.load(path / "labels.npy"))
        return map_prepared(other)

    return mock.patch.object(opened_run, "map_prepared", mapped)


def _other_rows(folder: Path) -> AbstractContextManager[object]:
    def mapped(path: Path) -> PreparedData:
        return replace(map_prepared(path), fingerprint="0123456789abcdef")

    return mock.patch.object(opened_run, "map_prepared", mapped)


def _other_checkpoint(see: Callable[[Path], Path | None]) -> Callable[[Path], AbstractContextManager[object]]:
    return lambda folder: mock.patch.object(agreement, "latest", see)


def _older(checkpoints: Path) -> Path:
    return newest_first(checkpoints)[1]


def _changed(checkpoints: Path) -> Path:
    """Return a checkpoint with the same name and other content."""
    newest = newest_first(checkpoints)[0]
    other = checkpoints.parent.parent / "other-checkpoint" / newest.name
    other.mkdir(parents=True, exist_ok=True)
    (other / MANIFEST).write_bytes((newest / MANIFEST).read_bytes() + b"\n")
    return other


def _gpu(folder: Path) -> AbstractContextManager[object]:
    return mock.patch.object(agreement, "find_device", return_value=torch.device("cuda"))


_REFUSED = "Rank 1 has invalid flags, but rank 0 does not. Start all ranks with the same flags"
DISAGREEMENTS: dict[str, Disagreement] = {
    "seed": _flag("seed", 7, 0, launched=True),
    "rate of rows": _flag("optim.rows.lr", 5, 0.05, launched=True),
    "rate of the dense part": _flag("optim.dense.lr", 0.1, 0.003),
    "batch": _flag("batch_size", 32, 64, launched=True),
    "curvature": _flag("curvature", "gauss_newton", "exact"),
    "steps between curvature": _flag("curvature_every", 3, 8),
    "samples with curvature": _flag("curvature_fraction", 0.5, 0.25),
    "width": _flag("model.top", "[8]", "[16]"),
    "decay": _flag("optim.schedule.decay", "linear", "inverse_sqrt"),
    "order": _flag("data.order", "shuffled", "time"),
    "training rows": _flag("data.train_rows", 2000, 2560),
    "rows": _flag("rows", 6000, 7000),
    "batches read ahead": _flag("data.prefetch", 2, 4),
    "baseline": _flag("baseline", "adagrad", "none", launched=True),
    "checkpoints": _flag("checkpoint_every", 9, 8, launched=True),
    "patience": _flag("patience", 2, 0),
    "skipped steps": _flag("max_skipped", 5, 3),
    "timeout": _flag("timeout", 60, 600),
    "products": _flag("precision", "bf16", "fp32"),
    "exchange": _flag("exchange_precision", "bf16", "fp32"),
    "shards": _flag("distributed.sharding", "row", "auto"),
    "several": Disagreement(
        told="Rank 1 has seed 7 and optim.dense.lr 0.1, but rank 0 has 0 and 0.003. Start",
        flags=("--seed", "7", "--lr", "0.1"),
        launched=True,
    ),
    "optimizer": Disagreement(
        told="Rank 1 has optimizer adagrad and curvature none and ",
        flags=("--optimizer", "adagrad", "--curvature", "none"),
        launched=True,
    ),
    "resume": Disagreement(
        told="Rank 1 has resume True, but rank 0 has False", flags=("--resume",), launched=True
    ),
    "unknown flag": Disagreement(told=_REFUSED, flags=("--optim.rows.rate", "5"), launched=True),
    "no file of settings": Disagreement(told=_REFUSED, flags=("--config", "nowhere.toml"), launched=True),
    "version": _program("dlrm_adahessian", "0.0.1"),
    "version of Python": _program("python", "3.10.1"),
    "version of torch": _program("torch", "2.12.0"),
    "version of torchrec": _program("torchrec", "1.7.0"),
    "version of fbgemm": _program("fbgemm-gpu", "1.7.0"),
    "version of numba": _program("numba", "0.64.0"),
    "version of numpy": _program("numpy", "2.2.0"),
    "source": Disagreement(
        told="Rank 1 has dlrm_adahessian/train/step.py ", change=_another_source, launched=True
    ),
    "device": Disagreement(
        told="Rank 1 has device cuda, but rank 0 has cpu. Give each rank a GPU", change=_gpu
    ),
    "labels": Disagreement(told="Rank 1 has files.labels.npy.xxh3_128 ", change=_other_labels),
    "prepared rows": Disagreement(
        told="Rank 1 has prepared rows 0123456789abcdef, rank 0", change=_other_rows
    ),
    "no checkpoint": Disagreement(
        told="Rank 1 has checkpoint none and ", change=_other_checkpoint(lambda folder: None), resumes=True
    ),
    "older checkpoint": Disagreement(
        told="Rank 1 has checkpoint step-00000112 and ", change=_other_checkpoint(_older), resumes=True
    ),
    "another checkpoint": Disagreement(
        told="Rank 1 has content of the checkpoint ", change=_other_checkpoint(_changed), resumes=True
    ),
}
"""Disagreements by name, which failures report."""


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Try some of the disagreements, evenly distributed over their kinds."""
    names = list(DISAGREEMENTS)[:: max(1, len(DISAGREEMENTS) // times)][:times]
    tried = f"2 ranks that differ, {sum(DISAGREEMENTS[name].launched for name in names)} times under torchrun"
    with counting(27, tried, len(names)) as (outcome, show):
        begun = {}
        if any(DISAGREEMENTS[name].resumes for name in names):
            begun = _content(uninterrupted(folder, 2))
        for name, (codes, printed) in {**in_turn(names, folder), **_under_torchrun(names, folder)}.items():
            judge(outcome, name, codes, printed)
            if _content(_run_of(name, folder)) != (begun if DISAGREEMENTS[name].resumes else {}):
                outcome.lose(f"{name}: the run directory changed")
            show()
    yield outcome


def differ(case: tuple[str, Path]) -> int:
    """Train on this rank, which has the named difference if it is the second. Return the exit code."""
    name, folder = case
    disagreement = DISAGREEMENTS[name]
    flags = job(_run_of(name, folder), *["--resume"] * disagreement.resumes)
    if os.environ["RANK"] == "0":
        return cli.main(["train", *flags])
    with disagreement.change(folder):
        return cli.main(["train", *flags, *disagreement.flags])


def judge(outcome: Outcome, name: str, codes: Sequence[int], printed: str) -> None:
    """Check the outcome of a disagreement, which must end all ranks with one message that names it."""
    outcome.times += 1
    if 0 in codes:
        outcome.miss(f"{name}: ranks with exit codes {codes} went on: {printed[-300:]}")
    elif not (UsageError.exit_code in codes and {*codes} <= _LEFT):
        outcome.lose(f"{name}: exit codes {codes}: {printed[-600:]}")
    elif len(_ERROR.findall(printed)) != 1 or DISAGREEMENTS[name].told not in printed:
        outcome.lose(f"{name}: expected one message with the difference: {printed[-600:]}")


def in_turn(
    names: Sequence[str], folder: Path, work: Callable[[tuple[str, Path]], int] = differ
) -> dict[str, tuple[list[int], str]]:
    """Run several disagreements in the same processes, and return exit codes and output by name."""
    calls = {name: (name, folder) for name in names if not DISAGREEMENTS[name].launched}
    codes, printed = worlds.in_turn(2, work, calls, folder)
    return {name: (codes[name], printed[name]) for name in calls}


def _under_torchrun(names: Sequence[str], folder: Path) -> dict[str, tuple[list[int], str]]:
    found: dict[str, tuple[list[int], str]] = {}
    for name in names:
        if DISAGREEMENTS[name].launched:
            launched = Launched(
                [*torchrun(2, script=Path(__file__)), name, str(folder)], folder / f"{name}.log"
            )
            try:
                code = launched.wait()
            finally:
                launched.end()
            printed = launched.printed()
            found[name] = ([int(rank) for rank in _CODE.findall(printed)] or [code or 0], printed)
    return found


def _run_of(name: str, folder: Path) -> Path:
    return folder / "whole-2" if DISAGREEMENTS[name].resumes else folder / name


def _content(run: Path) -> dict[str, str]:
    """Return the content of a run directory, except its lock."""
    files = (path for path in run.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(run)): file_digest(path) for path in files}


if __name__ == "__main__":
    sys.exit(differ((sys.argv[1], Path(sys.argv[2]))))
