# pyright: basic
"""Identify ranks, split batches among them, and exchange results and failures as JSON.

Messages go through the store with which the ranks connected. They carry results of work that one rank does, failures, and
the choice of the rank that reports them. Unlike in a collective, ranks can wait for as long as the work takes, and a rank
can leave a message that no other rank waits for.
"""

import json
import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from dlrm_adahessian.errors import LostRankError, ProgramError, ToldElsewhereError

T = TypeVar("T")
L = TypeVar("L")
_POLL = 0.02  # seconds between polls of the store
_FAREWELL = 5.0  # seconds that a finished or failed rank waits for the others, because it may host the store
_VOICE = "voice"  # key of the rank that reports a failure
_FROM_GLOO = (
    "gloo",
    "Application timeout caused pair closure",
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
)
_rounds = count()  # calls of `agreed`, the same number on all ranks
_groups = count()  # process groups left so far, the same number on all ranks


def rank() -> int:
    """Return the rank of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Return whether this is rank 0, which prepares data, writes files, and reports."""
    return rank() == 0


@dataclass(frozen=True, kw_only=True)
class Share:
    """Samples `first` to `first + count - 1` of a global batch of B samples: the part of one rank.

    Each rank has `size` consecutive samples, in the order of ranks. The parts concatenated are the global batch, and any
    padding comes after all samples. If the batch is smaller, the last ranks have fewer samples or none.

    Attributes:
        samples: B, at least 1.
        rank: rank that has the samples.
        world_size: number of ranks.
        size: number of samples of a full part; `world_size * size` is at least B.
    """

    samples: int
    rank: int = 0
    world_size: int = 1
    size: int

    @property
    def first(self) -> int:
        """Index of this rank's first sample in the global batch; B for a rank without samples."""
        return min(self.rank * self.size, self.samples)

    @property
    def count(self) -> int:
        """Number of samples of this rank."""
        return min(self.size, self.samples - self.first)

    @property
    def own(self) -> slice:
        """Slice of this rank's samples in the global batch."""
        return slice(self.first, self.first + self.count)

    @property
    def padded(self) -> int:
        """Number of samples including padding, the same on all ranks and at least 1."""
        return min(self.size, self.samples)

    def count_among(self, first_samples: int) -> int:
        """Return how many of the first `first_samples` samples of the global batch this rank has."""
        return min(max(first_samples - self.first, 0), self.count)

    @classmethod
    def whole(cls, samples: int) -> "Share":
        """Return the share of a single rank."""
        return cls(samples=samples, size=samples)


def agreed(work: Callable[[], T], *, patient: bool = False) -> list[T]:
    """Run `work` on every rank, and wait for all. If it fails on one rank, or one does not answer, all ranks fail.

    Args:
        work: returns a JSON value; called on every rank.
        patient: wait for the other ranks without limit, instead of the timeout of the process group.

    Returns:
        The results of all ranks, by rank.

    Raises:
        ToldElsewhereError: `work` failed on another rank.
    """
    if world_size() == 1:
        return [work()]
    store: Any = _get_default_store()
    number = next(_rounds)
    try:
        value = work()
    except BaseException as error:
        store.set(_key(number, rank()), json.dumps({"failed": _exit_code(error)}))
        store.add(_key(number, "heard"), 1)
        _wait(lambda: store.add(_key(number, "heard"), 0) == world_size(), _FAREWELL)
        raise
    store.set(_key(number, rank()), json.dumps({"value": value}))
    limit = math.inf if patient else store.timeout.total_seconds()
    answers = [_answer(store, _key(number, other), limit) for other in range(world_size())]
    store.delete_key(_key(number - 1, rank()))  # every rank has read it, because all have reached this round
    if failures := [answer["failed"] for answer in answers if "failed" in answer]:
        store.add(_key(number, "heard"), 1)
        if is_first():  # rank 0 may host the store, in which the failed rank claims the report
            _wait(lambda: store.check([_VOICE]), _FAREWELL)
        raise ToldElsewhereError(failures[0])
    return [answer["value"] for answer in answers]


def first_does(work: Callable[[], T], *, patient: bool = False) -> T:
    """Run `work` on the first rank, and return its JSON result on all. Raises the same errors as `agreed`."""
    results: list[Any] = agreed(lambda: work() if is_first() else None, patient=patient)
    return results[0]


def all_open(work: Callable[[], tuple[T, L]], *, patient: bool = False) -> tuple[list[T], L]:
    """Run `work` on every rank, and keep a local object such as an open file on each. Raises the errors of `agreed`.

    Args:
        work: returns a JSON value for all ranks, and an object that this rank keeps.
        patient: see `agreed`.

    Returns:
        The JSON values of all ranks, by rank, and the object of this rank.
    """
    kept: list[L] = []

    def told() -> T:
        value, mine = work()
        kept.append(mine)
        return value

    return agreed(told, patient=patient), kept[0]


def first_opens(work: Callable[[], tuple[T, L]], *, patient: bool = False) -> tuple[T, L | None]:
    """Run `work` on the first rank, and keep a local object such as an open file there. Raises the errors of `agreed`.

    Args:
        work: returns a JSON value for all ranks, and an object that the first rank keeps.
        patient: see `agreed`.

    Returns:
        The JSON value, on all ranks, and the object on the first rank or None on the others.
    """
    found: tuple[list[Any], L | None] = all_open(
        lambda: work() if is_first() else (None, None), patient=patient
    )
    return found[0][0], found[1]


def leave_together() -> None:
    """Make the first rank leave last, because it may host the store that the other ranks still read."""
    left = f"left/{next(_groups)}"
    store: Any = _get_default_store()
    with suppress(RuntimeError):  # the store is gone with the rank that hosted it
        store.add(left, 1)
        if is_first():
            _wait(lambda: store.add(left, 0) == world_size(), _FAREWELL)


class Vote:
    """Find the largest of each number over all ranks, asynchronously."""

    def __init__(self, *numbers: int) -> None:
        """Send this rank's numbers without waiting."""
        self._largest = torch.tensor(numbers)
        self._sent = (
            dist.all_reduce(self._largest, dist.ReduceOp.MAX, async_op=True) if world_size() > 1 else None
        )

    def largest(self) -> list[int]:
        """Wait for the other ranks, and return the largest of each number."""
        if self._sent is not None:
            self._sent.wait()
        return [int(number) for number in self._largest]


@contextmanager
def one_voice() -> Generator[None]:
    """Let only the first rank that fails in the block report it. The others raise `ToldElsewhereError`.

    If another rank is gone or does not answer, `LostRankError` replaces the error of the collective.

    Yields:
        Nothing.

    Raises:
        ToldElsewhereError: another rank reports the failure.
    """
    try:
        yield
    except ToldElsewhereError:
        raise
    except Exception as error:
        heard, told = _is_heard(), error
        if world_size() > 1 and isinstance(error, RuntimeError) and _is_of_others(error):
            told = LostRankError(
                f"Another rank exited or does not respond, as rank {rank()} of {world_size()} found. See the launcher's "
                "output for the cause, and continue with --resume. If the rank was only slow, raise --timeout."
            )
        if not heard and isinstance(told, ProgramError):
            raise ToldElsewhereError(told.exit_code) from error
        raise told from error


def _is_heard() -> bool:
    """Claim the report, and return whether this rank got it."""
    if world_size() == 1:
        return True
    try:
        return _get_default_store().compare_set(_VOICE, "", str(rank())) == str(rank()).encode()
    except RuntimeError:  # the store is gone with its rank, which has reported or was killed
        return False


def _is_of_others(error: RuntimeError) -> bool:
    # Gloo raises plain RuntimeErrors. Most of them name its source files.
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in _FROM_GLOO)


def _answer(store: Any, key: str, timeout: float) -> dict[str, Any]:
    if not _wait(lambda: store.check([key]), timeout):
        raise LostRankError(
            f"A rank did not answer within {timeout:g} s. See the launcher's output for the cause, and continue with "
            "--resume. If the rank was only slow, raise --timeout."
        )
    return json.loads(store.get(key))


def _wait(until: Callable[[], bool], timeout: float) -> bool:
    """Wait for a condition, and return whether it became true in time."""
    began = time.monotonic()
    while not until():
        if time.monotonic() - began > timeout:
            return False
        time.sleep(_POLL)
    return True


def _key(number: int, of: object) -> str:
    return f"agreed/{number}/{of}"


def _exit_code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, ProgramError) else 1
