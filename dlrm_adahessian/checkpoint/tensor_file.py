"""Write tensors to a safetensors file without a copy, and read them into existing tensors.

The format is 8 bytes of header length, a JSON header, and the raw bytes of the tensors. This module writes files, and the
safetensors library reads them. The library's own writer rejects views that share storage, copies all device tensors to
the host at once, and does not raise `OSError` if the disk is full.

Files bypass the page cache. Checkpoints are rarely read soon, and copying gigabytes into the page cache takes CPU time from
the steps: 6 s for 2 GB on a virtual machine. Direct I/O takes 0.9 s, with 0.2 s of CPU time (docs/checkpoints.md).
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

BLOCK = 4 << 20  # bytes written at once, a multiple of any sector size

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

    Tensors that are not contiguous or not in host memory are copied one at a time during writing.

    Args:
        path: the file.
        tensors: tensors of any shape with a dtype in `DTYPES`; they may share storage.
        between: called between blocks of a few megabytes.

    Returns:
        The manifest entry of the file: its size, and the digest of the bytes in memory.

    Raises:
        ValueError: the format does not support a dtype.
    """
    if odd := {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype not in DTYPES}:
        raise ValueError(f"Tensors with these dtypes cannot be saved: {odd}. Convert them first.")
    # Widest elements first, so each tensor starts at a multiple of its element size, as memory mapping requires.
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
    # The strides of an empty tensor may not allow a view with another dtype.
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def write_past_cache(file: BinaryIO, parts: Iterable[bytes | memoryview]) -> None:
    """Write parts in order, bypassing the page cache if the file system supports it.

    Args:
        file: a new, unbuffered file.
        parts: bytes of any length.
    """
    # Mapped memory is aligned to pages, as direct I/O requires.
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
    _set_direct(file, direct=False)  # the last block may be partial
    _write_all(file, buffer.data[:filled])


def _write_all(file: BinaryIO, block: memoryview) -> None:
    while block:
        try:
            block = block[file.write(block) :]
        except OSError as error:
            # After a partial write, the rest is not aligned for direct I/O.
            if error.errno != errno.EINVAL or not _set_direct(file, direct=False):
                raise


def _set_direct(file: BinaryIO, *, direct: bool) -> bool:
    """Turn direct I/O, which bypasses the page cache, on or off, and return whether that changed anything."""
    flag = getattr(os, "O_DIRECT", 0)  # defined on Linux
    before = fcntl.fcntl(file, fcntl.F_GETFL)
    with suppress(OSError):  # not all file systems support it
        fcntl.fcntl(file, fcntl.F_SETFL, before | flag if direct else before & ~flag)
    return fcntl.fcntl(file, fcntl.F_GETFL) != before


def is_finite(tensor: Tensor) -> bool:
    """Return whether all entries are finite; always true for integers."""
    # Minimum and maximum are NaN or infinite if any entry is, and need no temporary of the tensor's size.
    return (
        not tensor.is_floating_point()
        or not tensor.numel()
        or all(map(math.isfinite, tensor.detach().aminmax()))
    )


def entries_of(path: Path, name: str) -> int:
    """Return the number of entries of a tensor in a file without reading it; 0 if there is no such tensor."""
    with safe_open(path, framework="pt") as file:
        return math.prod(file.get_slice(name).get_shape()) if name in file.keys() else 0  # noqa: SIM118 -- not a mapping


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Describe tensors to fill from one file.

    Attributes:
        path: the file, which contains the names of `targets`.
        owner: name of the owner of the tensors, for messages.
        rows: stored rows to read, or None for whole tensors.
        targets: tensors to fill, with the shape of these rows and columns.
        columns: stored columns of matrices to read, or None for all.
        partly: whether the file may contain other names.
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
            CheckpointError: the file contains other names, shapes, or dtypes.
        """
        with safe_open(self.path, framework="pt") as file:
            stored = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping
            wanted = set(self.targets)
            alone = wanted - set(stored) if self.partly else wanted ^ set(stored)
            different = [f"only one of them has {name!r}" for name in sorted(alone)]
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
                f"The checkpoint {self.path} ({self.owner}) does not fit the model: "
                f"{'; '.join(different)}. Resume with the configuration that saved it."
            )

    def copy_(self) -> None:
        """Copy the stored values into the targets; call `check` first.

        Raises:
            CheckpointError: some values are not finite, which this program never saves.
        """
        rows = ... if self.rows is None else self.rows
        with safe_open(self.path, framework="pt") as file, torch.no_grad():
            for name, target in self.targets.items():
                stored = file.get_slice(name)
                cut = self.columns is not None and len(stored.get_shape()) == 2
                target.copy_(stored[rows, self.columns] if cut else stored[rows])
                if not is_finite(target):
                    raise CheckpointError(
                        f"Non-finite values in {name!r} of {self.path} ({self.owner}). Use the checkpoint before it, or "
                        "train again."
                    )
