"""Check that all ranks have the same settings and data. If they differ, all ranks exit and the first names the difference.

Without this check, ranks with different flags or data would train silently and produce meaningless results.
"""

from collections.abc import Callable, Mapping
from typing import Any

from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.errors import ProgramError, UsageError
from dlrm_adahessian.runs.sealed import fingerprint
from dlrm_adahessian.runtime.settings import differences

_NAMED = 3  # maximum differences listed in a message


def require_same(find: Callable[[], Mapping[str, Any]], remedy: str) -> None:
    """Require that all ranks have the same values. A collective: needs a process group, and all ranks call it.

    If a rank differs, the first rank raises a `UsageError` that names the difference, and the others a
    `ToldElsewhereError`.

    Args:
        find: returns this rank's values as nested dicts of JSON values, like settings.
        remedy: a sentence for the end of the message.
    """

    def found() -> tuple[str, Mapping[str, Any]]:
        mine = find()
        return fingerprint(mine), mine

    # Every rank reads the answers of all ranks, so send only fingerprints unless they differ.
    fingerprints, mine = ranks.all_open(found)
    if len(set(fingerprints)) > 1:
        told = ranks.agreed(lambda: mine)
        ranks.first_does(lambda: _compare(told, remedy))


def require_none_refused(refusal: ProgramError | None) -> None:
    """Stop all ranks if the flags of any rank are invalid. All ranks call this before any other exchange.

    The first rank raises its own error, or a `UsageError` with that of another rank. The others raise a
    `ToldElsewhereError`.

    Args:
        refusal: error of this rank's flags; None if they are valid.
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
                f"Rank {rank} has {' and '.join(f'{name} {_shown(value)}' for name, _, value in named)}, but rank 0 has "
                f"{' and '.join(_shown(value) for _, value, _ in named)}{more}. {remedy}"
            )


def _tell_refusal(told: list[str | None], refusal: ProgramError | None) -> None:
    if refusal is not None:
        raise refusal
    rank, text = next((rank, text) for rank, text in enumerate(told) if text is not None)
    raise UsageError(
        f"Rank {rank} has invalid flags, but rank 0 does not. Start all ranks with the same flags.\n{text}"
    )


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return "none" if value is None else str(value)
