"""Tensors in a safetensors file: written without a copy, read into tensors that exist.

The format is 8 bytes of header length, a JSON header, and the raw bytes of the tensors. It is written here
and read by the library. The library's own writer refuses views that share storage, brings all device tensors
to the host at once, and does not raise `OSError` when the disk is full.

It is written past the page cache. Nothing reads a checkpoint soon, and putting gigabytes into the page cache takes the
processor from the steps: on a virtual machine 6 s for 2 GB, where the disk takes the same from memory in 0.9 s and the
processor 0.2 (docs/checkpoints.md).
"""

import errno
import fcntl
import json
import math
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import xxhash
from safetensors import safe_open
from torch import Tensor

from dlrm_adahessian.errors import CheckpointError
from dlrm_adahessian.runs.files import flush_to_disk, new_file

BLOCK = 4 << 20  # bytes written at once; a multiple of every disk's sectors

Entry = dict[str, int | str]

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def _nothing() -> None:
    pass


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, between: Callable[[], None] = _nothing
) -> Entry:
    """Write `tensors` to a new file, and flush it to disk.

    A tensor on a device or one that is not contiguous is copied to the host while it is written.

    Args:
        path: the file.
        tensors: of any shape and a dtype in `DTYPES`; they may share storage.
        between: called between blocks of some megabytes.

    Returns:
        What the manifest says of the file: its size, and its digest as taken of the memory that was written.

    Raises:
        ValueError: a dtype has no name in the format.
    """
    if odd := {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype not in DTYPES}:
        raise ValueError(f"tensors of these types cannot be saved: {odd}; convert them first")
    # Widest elements first: then each tensor starts at a multiple of its element size, as mapping needs.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, object] = {}
    offset = 0
    for name, tensor in ordered:
        span = [offset, offset + tensor.nbytes]
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        offset = span[1]
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    encoded = len(encoded).to_bytes(8, "little") + encoded
    digest = xxhash.xxh3_128()

    def hashed() -> Iterator[bytes | memoryview]:
        for block in _blocks(encoded, ordered):
            between()
            digest.update(block)
            yield block

    with new_file(path, buffering=0) as file:
        write_past_cache(file, hashed())
        flush_to_disk(file.fileno())
    return {"bytes": len(encoded) + offset, "xxh3_128": digest.hexdigest()}


def _blocks(header: bytes, ordered: Sequence[tuple[str, Tensor]]) -> Iterator[bytes | memoryview]:
    yield header
    for _, tensor in ordered:
        raw = _raw(tensor)
        for first in range(0, len(raw), BLOCK):
            yield raw[first : first + BLOCK]


def _raw(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    # An empty tensor may have a stride that no other type can be viewed with.
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def write_past_cache(file: BinaryIO, parts: Iterable[bytes | memoryview]) -> None:
    """Write parts one after another; where the file system wants the page cache, through it.

    Args:
        file: new and unbuffered.
        parts: of any sizes.
    """
    # Mapped memory begins at a page, as the disk needs it.
    buffer = np.frombuffer(mmap.mmap(-1, BLOCK), np.uint8)
    filled = 0
    _set_direct(file, direct=True)
    for part in parts:
        rest = np.frombuffer(part, np.uint8)
        while len(rest):
            taken = min(len(rest), BLOCK - filled)
            buffer[filled : filled + taken] = rest[:taken]
            filled += taken
            rest = rest[taken:]
            if filled == BLOCK:
                _write_all(file, buffer.data)
                filled = 0
    _set_direct(file, direct=False)  # the end is no whole block
    _write_all(file, buffer.data[:filled])


def _write_all(file: BinaryIO, block: memoryview) -> None:
    while block:
        try:
            block = block[file.write(block) :]
        except OSError as error:
            # The disk took a part before, and what is left does not begin or end where it wants.
            if error.errno != errno.EINVAL or not _set_direct(file, direct=False):
                raise


def _set_direct(file: BinaryIO, *, direct: bool) -> bool:
    """Write past the page cache from now on, or through it; return whether that changed anything."""
    flag = getattr(os, "O_DIRECT", 0)  # Linux has it
    before = fcntl.fcntl(file, fcntl.F_GETFL)
    with suppress(OSError):  # not every file system can
        fcntl.fcntl(file, fcntl.F_SETFL, before | flag if direct else before & ~flag)
    return fcntl.fcntl(file, fcntl.F_GETFL) != before


def is_finite(tensor: Tensor) -> bool:
    """Whether all entries are; integers always are."""
    # The extremes are NaN or infinite when any entry is; they cost no temporary of the tensor's size.
    return (
        not tensor.is_floating_point()
        or not tensor.numel()
        or all(map(math.isfinite, tensor.detach().aminmax()))
    )


def entries_of(path: Path, name: str) -> int:
    """Return how many entries a tensor of a file has; 0 where the file has no such tensor. The tensor is not read."""
    with safe_open(path, framework="pt") as file:
        return math.prod(file.get_slice(name).get_shape()) if name in file.keys() else 0  # noqa: SIM118 -- not a mapping


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Tensors to fill from one file.

    Attributes:
        path: the file, which holds the names of `targets`.
        owner: what messages call the tensors by, beside their names.
        rows: the stored rows to read, or None for whole tensors.
        targets: tensors to fill, of the shape of those rows and columns.
        columns: the stored columns to read of matrices, or None for all.
        partly: whether the file may hold other names too.
    """

    path: Path
    owner: str
    rows: slice | None
    targets: Mapping[str, Tensor]
    columns: slice | None = None
    partly: bool = False

    def check(self) -> None:
        """Compare names, shapes and dtypes.

        Raises:
            CheckpointError: the file holds something else.
        """
        with safe_open(self.path, framework="pt") as file:
            stored = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping
            wanted = set(self.targets)
            alone = wanted - set(stored) if self.partly else wanted ^ set(stored)
            different = [f"only one of both has {name!r}" for name in sorted(alone)]
            for name in sorted(set(stored) & set(self.targets)):
                shape, dtype, target = stored[name].get_shape(), stored[name].get_dtype(), self.targets[name]
                if self.rows is not None and shape[0] >= self.rows.stop:
                    shape = [self.rows.stop - self.rows.start, *shape[1:]]
                if self.columns is not None and len(shape) == 2 and shape[1] >= self.columns.stop:
                    shape = [shape[0], self.columns.stop - self.columns.start]
                if shape != [*target.shape] or dtype != DTYPES.get(target.dtype):
                    different.append(f"{name!r} was {dtype} {shape}, is {target.dtype} {[*target.shape]}")
        if different:
            raise CheckpointError(
                f"a checkpoint must fit the model, and {self.path} ({self.owner}) does not: "
                f"{'; '.join(different)}; resume with the configuration that saved it"
            )

    def copy_(self) -> None:
        """Copy the stored values into the targets; call `check` first.

        Raises:
            CheckpointError: some are not finite, which no program of ours has saved.
        """
        rows = ... if self.rows is None else self.rows
        with safe_open(self.path, framework="pt") as file, torch.no_grad():
            for name, target in self.targets.items():
                stored = file.get_slice(name)
                cut = self.columns is not None and len(stored.get_shape()) == 2
                target.copy_(stored[rows, self.columns] if cut else stored[rows])
                if not is_finite(target):
                    raise CheckpointError(
                        f"a checkpoint holds finite numbers, and {name!r} in {self.path} ({self.owner}) holds others; use "
                        "the checkpoint before it, or train again"
                    )
