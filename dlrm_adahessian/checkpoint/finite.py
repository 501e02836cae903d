"""Nothing that is not finite is ever saved: a checkpoint is what a run falls back to."""

import json
import math
from collections.abc import Iterable, Mapping

from torch import Tensor

from dlrm_adahessian.errors import DivergedError


def require_finite(step: int, tensors: Iterable[tuple[str, Tensor]], state: Mapping[str, object]) -> None:
    """Refuse what is not finite.

    Args:
        step: steps done.
        tensors: with names for the message.
        state: JSON values.

    Raises:
        DivergedError: some are not finite.
    """
    for name, tensor in tensors:
        if not is_finite(tensor):
            raise DivergedError(refusal(step, name))
    encode_state(step, state)


def is_finite(tensor: Tensor) -> bool:
    """Whether all entries are; integers always are."""
    # The extremes are NaN or infinite when any entry is; they cost no temporary of the tensor's size.
    return (
        not tensor.is_floating_point()
        or not tensor.numel()
        or all(map(math.isfinite, tensor.detach().aminmax()))
    )


def encode_state(step: int, state: Mapping[str, object]) -> str:
    """Return the state as JSON text; `DivergedError` where a number in it is not finite."""
    try:
        return json.dumps(state, allow_nan=False)
    except ValueError as error:
        raise DivergedError(refusal(step, "the state")) from error


def refusal(step: int, what: str) -> str:
    """Return why a checkpoint is not taken."""
    return (
        f"a checkpoint holds finite values only, and {what} of step {step} does not; "
        "lower the learning rate, and resume from the checkpoint before"
    )
