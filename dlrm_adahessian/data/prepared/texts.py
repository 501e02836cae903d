"""Collect the texts of a vocabulary's tokens while data streams by, and store them in the order of the embedding rows.

The vocabulary is known only after all samples are read. Until then texts go to a temporary file, and a filter of fixed size
drops most repetitions. The result is one Arrow file with a batch per categorical column. It is mapped, and only read to
show tokens. Criteo's tokens are numbers and have no texts.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc
from numba import njit

from dlrm_adahessian.data.prepared.vocabulary import UNKNOWN, Encoder, Vocabulary
from dlrm_adahessian.data.rows import RowBlock, TokenTexts
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.errors import CheckpointError
from dlrm_adahessian.runs.files import new_file

FILE = "vocabulary_texts.arrow"
"""File in a folder with a vocabulary; absent if no texts are known."""

_SLOTS = 1 << 15  # tokens of a column that the filter remembers
_TEXT = pa.large_string()  # a column may have more than 2 GiB of text
_SPILLED = pa.schema([("token", pa.uint64()), ("text", _TEXT)])
_KEPT = pa.schema([("text", _TEXT)])
_OPEN, _EMPTY = -1, -2  # embedding rows whose text is not found yet, and rows without a text

_REMEDY = "Restore it from a copy, or train again."

ipc: Any = pyarrow.ipc  # unknown to type checkers


class SpilledTexts:
    """Stores texts in order of appearance, most of them once, in a file per column with a vocabulary."""

    def __init__(self, folder: Path, schema: Schema) -> None:
        """Set up. `folder` must exist before the first texts are appended."""
        self._paths = {
            place: folder / f"{column.feature}.texts"
            for place, column in enumerate(schema.categorical)
            if column.buckets is None
        }
        self._met = {place: np.zeros(_SLOTS, np.uint64) for place in self._paths}
        self._files: dict[int, Any] = {}
        self._stack = ExitStack()

    def append(self, block: RowBlock) -> None:
        """Write the texts of a block that the filter does not remember."""
        if not block.texts:
            return
        for place, path in self._paths.items():
            if place not in self._files:
                self._files[place] = self._stack.enter_context(
                    ipc.new_stream(self._stack.enter_context(new_file(path)), _SPILLED)
                )
            found = block.texts[place]
            if len(new := _unmet(found.tokens, self._met[place])):
                columns = [pa.array(found.tokens[new]), found.texts.take(pa.array(new)).cast(_TEXT)]
                self._files[place].write_batch(pa.record_batch(columns, schema=_SPILLED))

    def close(self) -> None:
        """Close the files. A second call does nothing."""
        self._stack.close()

    def __bool__(self) -> bool:
        return bool(self._files)

    def column(self, place: int) -> Iterator[TokenTexts]:
        """Read the texts of a categorical column in pieces; none for a column with buckets."""
        if place in self._files:
            with ipc.open_stream(str(self._paths[place])) as pieces:
                for piece in pieces:
                    yield TokenTexts(piece["token"].to_numpy(), piece["text"])


def write_texts(
    spilled: SpilledTexts,
    vocabulary: Vocabulary,
    encoder: Encoder,
    folder: Path,
    known: "VocabularyTexts | None" = None,
) -> None:
    """Write the texts of a vocabulary to a folder; write nothing if no texts are known.

    Args:
        spilled: texts of all samples.
        vocabulary: vocabulary of the training part.
        encoder: encoder of the same vocabulary.
        folder: folder for the file.
        known: texts of the vocabulary that this one extends.
    """
    if not spilled and known is None:
        return
    with new_file(folder / FILE) as texts, ipc.new_file(texts, _KEPT) as file:
        for place, missing in enumerate(vocabulary.missing.tolist()):
            before = pa.array([], _TEXT) if known is None else known.column(place)
            places = np.full(len(vocabulary.tokens_of(place)) + 1, _OPEN, np.int64)
            places[[UNKNOWN, missing]] = _EMPTY
            places[: len(before) + 1] = _EMPTY
            found = _gathered(spilled, place, encoder, places)
            new = places[len(before) + 1 :]
            in_order = pa.concat_arrays([before, found.take(pa.array(new, mask=new < 0))])
            file.write_batch(pa.record_batch([in_order], schema=_KEPT))


class VocabularyTexts:
    """The texts of a vocabulary, in a file that is read on demand.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, vocabulary: Vocabulary) -> None:
        """Store the path; the file is not opened yet."""
        self.path = path
        self._vocabulary = vocabulary

    def column(self, place: int) -> Any:
        """Map the texts of a categorical column.

        Args:
            place: index of the column, counting tokens and then bags.

        Returns:
            Arrow array of strings, one for each entry of `Vocabulary.tokens_of`; null for the missing token.

        Raises:
            CheckpointError: the file has other contents.
        """
        rows = len(self._vocabulary.tokens_of(place))
        wrong = f"{self.path} must contain the texts of {rows} tokens of categorical column {place + 1}"
        try:
            with ipc.open_file(pa.memory_map(str(self.path))) as file:
                batch = file.get_batch(place)
            batch.validate(full=True)
        except (ValueError, pa.ArrowException, OSError) as error:
            raise CheckpointError(f"{wrong}: {error}. {_REMEDY}") from error
        if batch.schema != _KEPT or len(batch) != rows:
            raise CheckpointError(f"{wrong}, found {len(batch)} of {batch.schema.names}. {_REMEDY}")
        return batch["text"]


def _gathered(spilled: SpilledTexts, place: int, encoder: Encoder, places: npt.NDArray[np.int64]) -> Any:
    """Return the texts of the embedding rows whose `places` (R + 1,) are open, and set these to indices of the texts."""
    texts: list[Any] = [pa.array([], _TEXT)]
    known, wanted = 0, np.count_nonzero(places == _OPEN)
    for piece in spilled.column(place):
        if known == wanted:
            break
        new = _settled(encoder.rows_of(place, piece.tokens), places, known)
        texts.append(piece.texts.take(pa.array(new)))
        known += len(new)
    return pa.concat_arrays(texts)


@njit(cache=True, nogil=True)
def _unmet(tokens: npt.NDArray[np.uint64], met: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return the indices of tokens not in the filter `met`, and add them; the last bits of a token choose its slot."""
    places = np.empty(len(tokens), np.int64)
    count = 0
    for place in range(len(tokens)):
        at = tokens[place] & np.uint64(len(met) - 1)
        if met[at] != tokens[place]:
            met[at] = tokens[place]
            places[count] = place
            count += 1
    return places[:count]


@njit(cache=True, nogil=True)
def _settled(rows: npt.NDArray[np.int32], places: npt.NDArray[np.int64], known: int) -> npt.NDArray[np.int64]:
    """Number the open embedding rows among `rows`, starting at `known`. Return the index of each one's first occurrence."""
    first = np.empty(len(rows), np.int64)
    count = 0
    for n in range(len(rows)):
        if places[rows[n]] == _OPEN:
            places[rows[n]] = known + count
            first[count] = n
            count += 1
    return first[:count]
