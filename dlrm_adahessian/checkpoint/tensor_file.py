"""Tensors in a safetensors file: written without a copy, read into tensors that exist.

The format is 8 bytes of header length, a JSON header, and the raw bytes of the tensors. It is written here
and read by the library. The library's own writer refuses views that share storage, brings all device tensors
to the host at once, and does not raise `OSError` when the disk is full.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from safetensors import safe_open
from torch import Tensor

from dlrm_adahessian.checkpoint.direct_io import BLOCK, write_past_cache
from dlrm_adahessian.errors import CheckpointError
from dlrm_adahessian.runs.sealed import flush_to_disk

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

    with path.open("wb", buffering=0) as file:
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
    return flat.view(torch.uint8).numpy().data


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Tensors to fill from one file.

    Attributes:
        path: the file, which holds exactly the names of `targets`.
        owner: what messages call the tensors by, beside their names.
        rows: the stored rows to read, or None for whole tensors.
        targets: tensors to fill, of the shape of those rows and columns.
        columns: the stored columns to read of matrices, or None for all.
    """

    path: Path
    owner: str
    rows: slice | None
    targets: Mapping[str, Tensor]
    columns: slice | None = None

    def check(self) -> None:
        """Compare names, shapes and dtypes.

        Raises:
            CheckpointError: the file holds something else.
        """
        with safe_open(self.path, framework="pt") as file:
            stored = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping
            different = [f"only one of both has {name!r}" for name in sorted(set(stored) ^ set(self.targets))]
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
        """Copy the stored values into the targets; call `check` first."""
        rows = ... if self.rows is None else self.rows
        with safe_open(self.path, framework="pt") as file, torch.no_grad():
            for name, target in self.targets.items():
                stored = file.get_slice(name)
                cut = self.columns is not None and len(stored.get_shape()) == 2
                target.copy_(stored[rows, self.columns] if cut else stored[rows])
