"""What all ranks must have alike: where one differs, all end, and the first rank names the difference.

Ranks with different flags or rows would train on without a word, each with its own, and give results of neither.
"""

from collections.abc import Callable, Mapping
from typing import Any

from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.errors import ProgramError, UsageError
from dlrm_adahessian.runs.sealed import fingerprint
from dlrm_adahessian.runtime.settings import differences

_NAMED = 3  # differences that a message names


def require_same(find: Callable[[], Mapping[str, Any]], remedy: str) -> None:
    """Refuse to go on where a rank has something else than the first one; all ranks call it, with a process group.

    A difference is a `UsageError` on the first rank, which names it, and a `ToldElsewhereError` on the others.

    Args:
        find: returns what this rank has: nested tables of JSON values, as settings are.
        remedy: ends the message.
    """

    def found() -> tuple[str, Mapping[str, Any]]:
        mine = find()
        return fingerprint(mine), mine

    # Each of many ranks reads what all others say: let it be short, unless they differ.
    fingerprints, mine = ranks.all_open(found)
    if len(set(fingerprints)) > 1:
        told = ranks.agreed(lambda: mine)
        ranks.first_does(lambda: _compare(told, remedy))


def require_none_refused(refusal: ProgramError | None) -> None:
    """Refuse to go on where the flags of a rank are refused; all ranks call it before they say anything else.

    The first rank raises its own refusal, or a `UsageError` with that of another; the others a `ToldElsewhereError`.

    Args:
        refusal: of this rank's flags; None where they are good.
    """
    told = ranks.agreed(lambda: None if refusal is None else str(refusal))
    if any(text is not None for text in told):
        ranks.first_does(lambda: _tell_refusal(told, refusal))


def _compare(told: list[Mapping[str, Any]], remedy: str) -> None:
    for rank, theirs in enumerate(told):
        found = list(differences(told[0], theirs))
        if found:
            named = found[:_NAMED]
            more = f" (and {len(found) - _NAMED} more)" if len(found) > _NAMED else ""
            raise UsageError(
                f"rank {rank} has {' and '.join(f'{name} {_shown(value)}' for name, _, value in named)}, rank 0 has "
                f"{' and '.join(_shown(value) for _, value, _ in named)}{more}; {remedy}"
            )


def _tell_refusal(told: list[str | None], refusal: ProgramError | None) -> None:
    if refusal is not None:
        raise refusal
    rank, text = next((rank, text) for rank, text in enumerate(told) if text is not None)
    raise UsageError(
        f"the flags of rank {rank} are refused, those of rank 0 are not; start all ranks with the same flags\n{text}"
    )


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return "none" if value is None else str(value)
