"""Copies of what is to be saved, taken between two steps, so that training can go on while they are written.

The memory is used again by the next copy: new memory costs its page faults, three to twenty times the time of the copy
itself (docs/checkpoints.md).
"""

import json
from dataclasses import replace

import torch
from torch import Tensor

from dlrm_adahessian.checkpoint.finite import encode_state, is_finite, refusal
from dlrm_adahessian.checkpoint.writer import Contents
from dlrm_adahessian.errors import DivergedError

_BLOCK = 1 << 20  # entries copied and then looked through while they are in the cache


class SnapshotMemory:
    """Host memory for one snapshot of one rank."""

    def __init__(self) -> None:
        self._copies: dict[tuple[int, str], Tensor] = {}

    def take(self, step: int, contents: Contents) -> Contents:
        """Copy everything; what is not finite is refused with a `DivergedError`.

        Args:
            step: steps done.
            contents: tensors on any device, with the names, shapes and dtypes of the last call, which are otherwise new
                memory.

        Returns:
            The copies, valid until the next call.
        """
        state = json.loads(encode_state(step, contents.state))
        return Contents(
            dense={
                name: self._copy(step, (-1, name), name, tensor) for name, tensor in contents.dense.items()
            },
            shards=[
                replace(
                    shard,
                    tensors={
                        name: self._copy(step, (index, name), f"{shard.table}/{name}", tensor)
                        for name, tensor in shard.tensors.items()
                    },
                )
                for index, shard in enumerate(contents.shards)
            ],
            state=state,
        )

    def num_bytes(self) -> int:
        """Return what is held."""
        return sum(copy.nbytes for copy in self._copies.values())

    def _copy(self, step: int, key: tuple[int, str], name: str, tensor: Tensor) -> Tensor:
        copy = self._copies.get(key)
        if copy is None or (copy.shape, copy.dtype) != (tensor.shape, tensor.dtype):
            copy = self._copies[key] = torch.empty(tensor.shape, dtype=tensor.dtype)
        with torch.no_grad():
            for source, target in zip(_blocks(tensor), _blocks(copy), strict=True):
                target.copy_(source)
                if not is_finite(target):
                    raise DivergedError(refusal(step, name))
        return copy


def _blocks(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return views of consecutive rows, which together are the tensor."""
    if tensor.dim() == 0:
        return (tensor,)
    return tensor.split(max(1, _BLOCK // max(1, tensor[:1].numel())))
