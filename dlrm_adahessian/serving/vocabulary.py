# pyright: basic
"""Export the vocabulary: as parquet for databases, and as sorted tensors for the loader."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from dlrm_adahessian.data.prepared.preprocessing import Preprocessing
from dlrm_adahessian.data.prepared.vocabulary import UNKNOWN
from dlrm_adahessian.runs.files import new_file

_SCHEMA = pa.schema([("feature", pa.string()), ("token", pa.string()), ("row", pa.int32())])
_BLOCK = 1 << 20  # tokens per write


def sorted_tensors(preprocessing: Preprocessing) -> dict[str, Tensor]:
    """Return for each feature `tokens` (K,) ascending, `rows` (K,) int32, and `missing` (1,) int32; plus `scales`, if any.

    Tokens are uint32 if they have 32 bits, or int64 for 63-bit hashes.
    """
    found: dict[str, Tensor] = {}
    for name, tokens, rows, missing in _features(preprocessing):
        order = np.argsort(tokens)
        narrow = tokens.dtype == np.uint32
        found[f"{name}/tokens"] = torch.from_numpy(tokens[order].astype(np.uint32 if narrow else np.int64))
        found[f"{name}/rows"] = torch.from_numpy(rows[order])
        found[f"{name}/missing"] = torch.tensor([missing], dtype=torch.int32)
    if preprocessing.schema.standardized:
        found["scales"] = torch.from_numpy(preprocessing.scales)
    return found


def write_parquet(preprocessing: Preprocessing, path: Path) -> None:
    """Write columns feature, token, and row. Tokens are text, or hexadecimal hashes; null is the missing token.

    Tokens that are not listed have row 0.
    """
    with new_file(path) as file, pq.ParquetWriter(file, _SCHEMA) as writer:
        for place, (name, tokens, rows, missing) in enumerate(_features(preprocessing)):
            texts = None if preprocessing.texts is None else preprocessing.texts.column(place)
            for first in range(0, len(tokens), _BLOCK):
                block = slice(first, first + _BLOCK)
                shown = (
                    _hexadecimal(tokens[block]) if texts is None else texts.take(pa.array(rows[block] - 1))
                )
                writer.write_table(_table(name, shown.cast(pa.string()), pa.array(rows[block])))
            if missing != UNKNOWN:
                writer.write_table(_table(name, pa.nulls(1, pa.string()), pa.array([missing], pa.int32())))


def _features(
    preprocessing: Preprocessing,
) -> Iterator[tuple[str, npt.NDArray[Any], npt.NDArray[np.int32], int]]:
    """Yield name, tokens, their embedding rows, and the row of the missing token, or `UNKNOWN` if it has none."""
    vocabulary = preprocessing.vocabulary
    for feature, name in enumerate(preprocessing.schema.features):
        first, stop = vocabulary.offsets[feature : feature + 2]
        rows = np.arange(1, stop - first + 1, dtype=np.int32)
        missing = int(vocabulary.missing[feature])
        tokens = vocabulary.tokens[first:stop]
        # The entry of the missing token is a meaningless 0.
        yield name, tokens[rows != missing], rows[rows != missing], missing


def _hexadecimal(tokens: npt.NDArray[Any]) -> pa.Array:
    digits = tokens.astype(tokens.dtype.newbyteorder(">")).tobytes().hex().encode()
    offsets = np.arange(0, len(digits) + 1, 2 * tokens.itemsize, dtype=np.int32)
    return pa.StringArray.from_buffers(len(tokens), pa.py_buffer(offsets), pa.py_buffer(digits))


def _table(name: str, tokens: pa.Array, rows: pa.Array) -> pa.Table:
    return pa.table([pa.repeat(name, len(rows)), tokens, rows], schema=_SCHEMA)
