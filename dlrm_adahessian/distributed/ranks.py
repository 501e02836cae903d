# pyright: basic
"""Who the ranks are, which part of a batch is whose, and what they tell each other beside tensors.

They tell results of work that one of them does, failures, and who reports them. It goes through the store at which the
ranks met, as JSON. Unlike a collective, waiting there may take as long as the work does, and a rank can say something that
nobody waits for.
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
_POLL = 0.02  # seconds between two looks at the store
_FAREWELL = 5.0  # seconds that a rank which failed, or is done, waits for the others: it may hold the store
_VOICE = "voice"  # the key under which the rank that tells of a failure stands
_FROM_GLOO = (
    "gloo",
    "Application timeout caused pair closure",
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
)
_rounds = count()  # calls of `agreed`, the same number on all ranks
_groups = count()  # process groups that were left, the same number on all ranks


def rank() -> int:
    """Return the number of this process among the ranks; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the rank that prepares, writes and reports."""
    return rank() == 0


@dataclass(frozen=True, kw_only=True)
class Share:
    """Samples `first` up to `first + count` of a batch of B samples over all ranks: those that one rank works on.

    Ranks have consecutive samples in their order, `size` each: so what they hold one after another is the global batch, and
    padding, if any, comes after all samples. The last ranks have fewer where the batch is smaller, or none at all.

    Attributes:
        samples: B, at least 1.
        rank: of whom.
        world_size: number of ranks.
        size: samples of a rank that has its full part; `world_size * size` is at least B.
    """

    samples: int
    rank: int = 0
    world_size: int = 1
    size: int

    @property
    def first(self) -> int:
        """The first sample of this rank, counted in the global batch; B for a rank without samples."""
        return min(self.rank * self.size, self.samples)

    @property
    def count(self) -> int:
        """Samples of this rank."""
        return min(self.size, self.samples - self.first)

    @property
    def own(self) -> slice:
        """The places of this rank's samples in the global batch."""
        return slice(self.first, self.first + self.count)

    @property
    def padded(self) -> int:
        """Samples of this rank and padding: the same on all ranks, and at least 1."""
        return min(self.size, self.samples)

    def count_among(self, first_samples: int) -> int:
        """Return how many of the first samples of the global batch this rank has."""
        return min(max(first_samples - self.first, 0), self.count)

    @classmethod
    def whole(cls, samples: int) -> "Share":
        """Return the share of a rank that is alone."""
        return cls(samples=samples, size=samples)


def agreed(work: Callable[[], T], *, patient: bool = False) -> list[T]:
    """Do work on every rank, and wait for all; when it fails on one, or one does not answer, all fail.

    Args:
        work: returns a JSON value; called on every rank.
        patient: wait for the others as long as it takes, not until the timeout of the process group.

    Returns:
        What each rank's work returned, by rank.

    Raises:
        ToldElsewhereError: it failed on another rank.
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
    store.delete_key(_key(number - 1, rank()))  # that all have read, since all came here
    if failures := [answer["failed"] for answer in answers if "failed" in answer]:
        store.add(_key(number, "heard"), 1)
        if is_first():  # it may hold the store, where the rank that failed takes its turn to speak
            _wait(lambda: store.check([_VOICE]), _FAREWELL)
        raise ToldElsewhereError(failures[0])
    return [answer["value"] for answer in answers]


def first_does(work: Callable[[], T], *, patient: bool = False) -> T:
    """Do work on the first rank, and return its result, a JSON value, on all; raises as `agreed`."""
    results: list[Any] = agreed(lambda: work() if is_first() else None, patient=patient)
    return results[0]


def all_open(work: Callable[[], tuple[T, L]], *, patient: bool = False) -> tuple[list[T], L]:
    """Do work on every rank that also opens something there.

    Args:
        work: returns a JSON value for all ranks, and what this one keeps.
        patient: as in `agreed`, which says what is raised.

    Returns:
        The JSON values of all ranks, by rank, and what this one keeps.
    """
    kept: list[L] = []

    def told() -> T:
        value, mine = work()
        kept.append(mine)
        return value

    return agreed(told, patient=patient), kept[0]


def first_opens(work: Callable[[], tuple[T, L]], *, patient: bool = False) -> tuple[T, L | None]:
    """Do work on the first rank that also opens something there.

    Args:
        work: returns a JSON value for all ranks, and what the first one keeps.
        patient: as in `agreed`, which says what is raised.

    Returns:
        The JSON value on all ranks, and with it on the first one what it keeps, on the others None.
    """
    found: tuple[list[Any], L | None] = all_open(
        lambda: work() if is_first() else (None, None), patient=patient
    )
    return found[0][0], found[1]


def leave_together() -> None:
    """Let the first rank leave last, since it may hold the store, from which the others still read what was said there."""
    left = f"left/{next(_groups)}"
    store: Any = _get_default_store()
    with suppress(RuntimeError):  # the store went with the rank that held it
        store.add(left, 1)
        if is_first():
            _wait(lambda: store.add(left, 0) == world_size(), _FAREWELL)


class Vote:
    """Numbers of each rank, of which all learn the largest; on their way while the ranks work."""

    def __init__(self, *numbers: int) -> None:
        """Send them."""
        self._largest = torch.tensor(numbers)
        self._sent = (
            dist.all_reduce(self._largest, dist.ReduceOp.MAX, async_op=True) if world_size() > 1 else None
        )

    def largest(self) -> list[int]:
        """Wait for the others; return the largest of each."""
        if self._sent is not None:
            self._sent.wait()
        return [int(number) for number in self._largest]


@contextmanager
def one_voice() -> Generator[None]:
    """Let one rank tell of a failure within the block: the first that fails; the others raise `ToldElsewhereError`.

    Where another rank is gone or does not answer, `LostRankError` takes the place of what the collective raised.

    Yields:
        Nothing.

    Raises:
        ToldElsewhereError: another rank tells.
    """
    try:
        yield
    except ToldElsewhereError:
        raise
    except Exception as error:
        heard, told = _is_heard(), error
        if world_size() > 1 and isinstance(error, RuntimeError) and _is_of_others(error):
            told = LostRankError(
                f"every rank must answer, and one is gone or hung, as rank {rank()} of {world_size()} found; see what the "
                "launcher says of it, and continue with --resume; if it was only slow, allow more with --timeout"
            )
        if not heard and isinstance(told, ProgramError):
            raise ToldElsewhereError(told.exit_code) from error
        raise told from error


def _is_heard() -> bool:
    """Take the turn to speak, and return whether it was free."""
    if world_size() == 1:
        return True
    try:
        return _get_default_store().compare_set(_VOICE, "", str(rank())) == str(rank()).encode()
    except RuntimeError:  # the store went with the rank that held it, which has told or was killed
        return False


def _is_of_others(error: RuntimeError) -> bool:
    # Gloo raises plain RuntimeErrors, most of which name its sources.
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in _FROM_GLOO)


def _answer(store: Any, key: str, timeout: float) -> dict[str, Any]:
    if not _wait(lambda: store.check([key]), timeout):
        raise LostRankError(
            f"every rank must answer within {timeout:g} s, and one does not; see what the launcher says of it, and "
            "continue with --resume; if it was only slow, allow more with --timeout"
        )
    return json.loads(store.get(key))


def _wait(until: Callable[[], bool], timeout: float) -> bool:
    """Wait for a condition; return whether it came true in time."""
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
