"""If a rank differs from the first, all ranks exit and the first names the difference."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.agreement import require_none_refused, require_same
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import NoInputError, ProgramError, StorageError, UsageError
from tests.processes import worlds

START = "Start all ranks with the same flags."
RATES = {"seed": 0, "optim": {"name": "adam", "lr": 0.05, "decay": None}}
STATED: dict[str, tuple[Any, Any, str]] = {
    "one setting": (RATES, {**RATES, "seed": 7}, "Rank 2 has seed 7, but rank 0 has 0. remedy"),
    "below a table": (
        RATES,
        {**RATES, "optim": {"name": "adam", "lr": 5.0, "decay": "linear"}},
        "Rank 2 has optim.lr 5 and optim.decay linear, but rank 0 has 0.05 and none. remedy",
    ),
    "another table": (
        RATES,
        {**RATES, "optim": {"name": "sgd", "lr": 5.0}},
        "Rank 2 has optim.name sgd, but rank 0 has adam. remedy",
    ),
    "absent": (RATES, {"seed": 0}, f"Rank 2 has optim none, but rank 0 has {RATES['optim']}. remedy"),
    "five": (
        dict.fromkeys("abcde", 1),
        dict.fromkeys("abcde", 2),
        "Rank 2 has a 2 and b 2 and c 2, but rank 0 has 1 and 1 and 1 (and 2 more). remedy",
    ),
}
"""Values of ranks 0 and 1, values of rank 2, and the expected message."""
REFUSED: dict[str, tuple[list[ProgramError | None], int, str]] = {
    "on one": (
        [None, NoInputError("no file"), None],
        64,
        f"Rank 1 has invalid flags, but rank 0 does not. {START}\nno file",
    ),
    "on all": ([NoInputError("no file")] * 3, 66, "no file"),
    "on the first": ([UsageError("wrong"), None, None], 64, "wrong"),
}
"""Errors of the flags of each rank, the exit code, and the expected message."""


def test_one_process_has_nobody_to_differ_from() -> None:
    require_same(lambda: RATES, "remedy")
    require_none_refused(None)
    with pytest.raises(NoInputError, match="no file"):
        require_none_refused(NoInputError("no file"))


def unreadable() -> dict[str, Any]:
    raise StorageError("cannot read")


def state(folder: Path) -> None:
    with init_process_group(timeout=60):
        rank = ranks.rank()
        found: dict[str, Any] = {}

        def note(name: str, *told: Any) -> None:
            found[name] = told

        require_same(lambda: {"rank": 3, "of": "all"}, "remedy")
        for name, (usual, other, _) in STATED.items():
            try:
                require_same(lambda usual=usual, other=other: other if rank == 2 else usual, "remedy")
            except ProgramError as error:
                note(name, error.exit_code, str(error))
        for name, (refusals, _, _) in REFUSED.items():
            try:
                require_none_refused(refusals[rank])
            except ProgramError as error:
                note(name, error.exit_code, str(error))
        try:
            require_same(unreadable if rank == 1 else lambda: RATES, "remedy")
        except ProgramError as error:
            note("unreadable", error.exit_code, str(error))
        require_none_refused(None)
        (folder / str(rank)).write_text(json.dumps(found))


@pytest.mark.dist
def test_what_a_rank_has_of_its_own_is_told_once_by_name_and_all_end_alike(tmp_path: Path) -> None:
    worlds.run(3, state, tmp_path, log=tmp_path / "log")
    first, *others = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(3))
    for name, (_, _, told) in STATED.items():
        assert first[name] == [UsageError.exit_code, told]
        assert [other[name] for other in others] == [[UsageError.exit_code, ""]] * 2
    for name, (_, code, told) in REFUSED.items():
        assert first[name] == [code, told]
        assert [other[name] for other in others] == [[code, ""]] * 2
    codes = [found["unreadable"] for found in (first, *others)]
    assert codes == [[74, ""], [74, "cannot read"], [74, ""]], (
        "the rank that cannot say what it has tells why"
    )


def wait_for(limit: float, silence: float) -> int:
    """Let the last rank stay silent for a while, and return the exit code of the others."""
    try:
        with init_process_group(timeout=limit), ranks.one_voice():
            if ranks.rank() == 1:
                time.sleep(silence)
            require_same(lambda: RATES, "remedy")
    except ProgramError as error:
        print(error)
        return error.exit_code
    return 0


@pytest.mark.dist
def test_a_rank_that_says_nothing_is_waited_for_until_the_timeout(tmp_path: Path) -> None:
    processes = worlds.start(2, wait_for, 1.0, 60.0, log=tmp_path / "log")
    try:
        processes[0].join(30)
        assert processes[0].exitcode == 75
        assert "A rank did not answer within 1 s" in worlds.printed(tmp_path / "log", 0)
    finally:
        processes[1].kill()
        processes[1].join()
