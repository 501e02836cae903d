# pyright: basic
"""Row blocks to planar memory maps, in two passes and bounded memory.

The first pass writes what is final (labels, logarithms of the integers) and spills the tokens as binary; the vocabulary
needs the number of rows, which standard input tells only at its end. The second pass counts tokens of the training
part, the third encodes. Files are written, not mapped, so that their pages do not count as memory.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.schema import NUM_INTEGERS, NUM_TOKENS, RowBlock
from dlrm_adahessian.data.vocabulary import Vocabulary, VocabularyCounter
from dlrm_adahessian.errors import DataError

DAYS = 7
MIN_ROWS = 10 * DAYS
_SPILL = np.dtype([("missing", "<u8"), ("tokens", "<u4", (NUM_TOKENS,))])
_SPILL_ROWS = 1 << 17
_HEADER_BYTES = 128  # of every .npy file here; numpy pads to a multiple of 64


@dataclass(frozen=True)
class Split:
    """First rows of the parts, as facebookresearch/dlrm cuts them: 7 equal days, 6 train, half test, half validation.

    Attributes:
        days: (8,) first row of each day, and the number of rows.
        validation: first row of the validation part; the test part begins with the last day.
    """

    days: tuple[int, ...]
    validation: int

    @property
    def train(self) -> range:
        """Rows of the first six days."""
        return range(self.days[DAYS - 1])

    @property
    def test(self) -> range:
        """First half of the last day."""
        return range(self.days[DAYS - 1], self.validation)

    @property
    def val(self) -> range:
        """Second half of the last day."""
        return range(self.validation, self.days[DAYS])


def split_rows(rows: int) -> Split:
    """Cut `rows` rows in time order; where they don't divide evenly, earlier parts are longer by one."""
    each, more = divmod(rows, DAYS)
    days = [day * each + min(day, more) for day in range(DAYS + 1)]
    return Split(tuple(days), days[DAYS - 1] + math.ceil((rows - days[DAYS - 1]) / 2))


def dense_features(integers: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return log(1 + max(x, 0)) of (N, 13) integers as float32; missing ones are 0 and stay 0."""
    dense = np.empty(integers.shape, np.float32)
    _log1p(integers, dense)
    return dense


@numba.njit(cache=True, nogil=True)
def _log1p(integers, dense):
    # Small values are most of them, and a table is quicker than a logarithm.
    table = np.log1p(np.arange(4096).astype(np.float64)).astype(np.float32)
    for n in range(integers.shape[0]):
        for i in range(integers.shape[1]):
            x = max(integers[n, i], 0)
            dense[n, i] = table[x] if x < 4096 else np.log1p(np.float64(x))


def write_prepared(
    blocks: Iterable[RowBlock], folder: Path, *, min_count: int, advance: Callable[[str, int], None]
) -> dict[str, Any]:
    """Write labels.npy, dense.npy, ids.npy, the vocabulary, and truth.npy where blocks carry a probability.

    Args:
        blocks: labelled rows in time order.
        folder: where to.
        min_count: see `DataConfig`.
        advance: told the stage and the rows done, for progress.

    Returns:
        What the manifest says: number of rows and table heights.

    Raises:
        DataError: there are too few rows to split.
    """
    spill = folder / "spill.bin"
    rows = 0
    labels = _Planar(folder / "labels.npy", np.dtype("<i1"), ())
    dense = _Planar(folder / "dense.npy", np.dtype("<f4"), (NUM_INTEGERS,))
    truth = _Planar(folder / "truth.npy", np.dtype("<f4"), ())
    with labels, dense, truth, spill.open("wb") as spilled:
        for block in blocks:
            labels.append(block.labels)
            dense.append(dense_features(block.integers))
            if block.probability is not None:
                truth.append(block.probability)
            records = np.empty(len(block), _SPILL)
            records["missing"], records["tokens"] = block.missing, block.tokens
            spilled.write(records.view(np.uint8).data)
            rows += len(block)
            advance("read", len(block))
    if not truth.rows:
        truth.path.unlink()
    if rows < MIN_ROWS:
        raise DataError(
            f"{MIN_ROWS} good rows at least are needed for {DAYS} days, found {rows}; name more rows"
        )
    train = len(split_rows(rows).train)
    counter = VocabularyCounter()
    for records in _read_spill(spill, train):
        counter.count(records["tokens"], records["missing"])
        advance("count", len(records))
    vocabulary = counter.build(min_count)
    del counter
    vocabulary.save(folder)
    _encode(vocabulary, spill, folder, rows, advance)
    spill.unlink()
    return {"rows": rows, "num_rows": list(vocabulary.num_rows)}


def _encode(
    vocabulary: Vocabulary, spill: Path, folder: Path, rows: int, advance: Callable[[str, int], None]
) -> None:
    encoder = vocabulary.encoder()
    with _Planar(folder / "ids.npy", np.dtype("<i4"), (NUM_TOKENS,)) as ids:
        for records in _read_spill(spill, rows):
            ids.append(encoder.encode(records["tokens"], records["missing"]))
            advance("encode", len(records))


def _read_spill(path: Path, rows: int) -> Iterator[npt.NDArray[np.void]]:
    with path.open("rb") as file:
        while rows > 0:
            records = np.frombuffer(file.read(min(rows, _SPILL_ROWS) * _SPILL.itemsize), _SPILL)
            rows -= len(records)
            yield records


class _Planar:
    """A .npy file that grows; its header is written last, when the number of rows is known."""

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.path, self.rows = path, 0
        self._dtype, self._shape = dtype, shape
        self._file = path.open("wb")

    def __enter__(self) -> "_Planar":
        self._file.write(bytes(_HEADER_BYTES))
        return self

    def append(self, block: npt.NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(block, self._dtype).data)
        self.rows += len(block)

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.seek(0)
            np.lib.format.write_array_header_1_0(
                self._file,
                {
                    "descr": np.lib.format.dtype_to_descr(self._dtype),
                    "fortran_order": False,
                    "shape": (self.rows, *self._shape),
                },
            )
            if self._file.tell() != _HEADER_BYTES:
                raise RuntimeError(f"numpy wrote a header of {self._file.tell()} bytes, not {_HEADER_BYTES}")
