"""From a raw row to what a model reads of it: the schema, and what was learnt from the training part."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.prepared.arrays import read_array, write_array
from dlrm_adahessian.data.prepared.texts import FILE, VocabularyTexts
from dlrm_adahessian.data.prepared.vocabulary import Encoder, Vocabulary
from dlrm_adahessian.data.rows import Bags, Features, RowBlock
from dlrm_adahessian.data.schema import Schema, from_dict
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runs.files import new_file
from dlrm_adahessian.runs.sealed import DamagedFolderError

_SCALES = "scales.npy"

Scales = npt.NDArray[np.float64]
"""(2, S) mean and standard deviation of each dense column that is standardized."""


@dataclass(frozen=True)
class Preprocessing:
    """What turns rows into features.

    Attributes:
        schema: the columns.
        vocabulary: tokens to table rows.
        scales: of the dense columns that are standardized.
        texts: of the tokens; None where tokens are numbers, or an earlier version kept no texts.
        fingerprint: of the prepared rows that it was learnt from; None before they are sealed.
    """

    schema: Schema
    vocabulary: Vocabulary
    scales: Scales
    texts: VocabularyTexts | None = None
    fingerprint: str | None = None

    @property
    def num_rows(self) -> tuple[int, ...]:
        """Height of each table, row 0 included."""
        known = np.diff(self.vocabulary.offsets).tolist()
        columns = zip(self.schema.categorical, known, strict=True)
        return tuple((column.buckets or tokens) + 1 for column, tokens in columns)

    @cached_property
    def encoder(self) -> Encoder:
        """The hash tables that look tokens up."""
        return Encoder(self.schema, self.vocabulary)

    def features(self, block: RowBlock) -> Features:
        """Return the features of rows as they were read."""
        dense = block.dense
        if self.schema.standardized:
            dense[:, self.schema.standardized] = scaled(block.unscaled, self.scales)
        return Features(
            dense=dense,
            ids=self.encoder.encode(block.tokens, block.missing),
            bags=tuple(
                Bags(values=self.encoder.encode_values(place, bags.values), offsets=bags.offsets)
                for place, bags in enumerate(block.bags)
            ),
        )

    def require_extendable(self, schema: Schema) -> None:
        """Refuse to extend this to rows of another kind.

        Args:
            schema: of the new rows; how often a token is seen at least, and how the rows are split, may differ.

        Raises:
            UsageError: they have other columns, transforms or buckets.
        """
        buckets = [[column.buckets for column in columns.categorical] for columns in (schema, self.schema)]
        if not schema.reads_as(self.schema) or buckets[0] != buckets[1]:
            raise UsageError(
                "what was learnt from rows is extended by rows of the same columns, and the schema of these differs in a "
                "column, a transform or in buckets; give rows and a schema of the same columns, or train a new model"
            )

    def values(self, dense: npt.NDArray[np.float32], place: int) -> npt.NDArray[np.float64]:
        """Return the values (N,) of the dense column at a place, before the transform that gave `dense` (N,)."""
        found, transform = dense.astype(np.float64), self.schema.dense[place].transform
        if transform == "log1p":
            return np.expm1(found)
        if transform == "standardize":
            mean, deviation = self.scales[:, self.schema.standardized.index(place)]
            return found * deviation + mean
        return found

    def save(self, folder: Path) -> dict[str, Any]:
        """Write what was learnt into a folder, and return what its manifest has to say for `load`."""
        self.vocabulary.save(folder)
        if self.schema.standardized:
            write_array(folder / _SCALES, self.scales)
        if self.texts is not None:
            with self.texts.path.open("rb") as texts, new_file(folder / FILE) as file:
                shutil.copyfileobj(texts, file)
        return {"schema": self.schema.asdict()}

    @classmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any]) -> "Preprocessing":
        """Read what `save` wrote; before there were schemas, all rows were Criteo's.

        Args:
            folder: that holds it.
            manifest: of the folder.

        Returns:
            The same.

        Raises:
            DamagedFolderError: the arrays are not those of the schema.
        """
        schema = from_dict(manifest["schema"]) if "schema" in manifest else CRITEO
        scales = read_array(folder / _SCALES) if schema.standardized else NO_SCALES
        if scales.shape != (2, len(schema.standardized)) or not np.isfinite(scales).all():
            raise DamagedFolderError(
                f"{folder / _SCALES} must hold 2 finite numbers for each standardized column"
            )
        vocabulary, path = Vocabulary.load(folder, schema), folder / FILE
        texts = VocabularyTexts(path, vocabulary) if path.exists() else None
        return cls(schema, vocabulary, scales, texts, manifest.get("fingerprint"))


NO_SCALES: Scales = np.empty((2, 0))


def scales_of(pieces: Callable[[], Iterable[npt.NDArray[np.float64]]], columns: int) -> Scales:
    """Return mean and standard deviation of columns, in two passes; missing values count in neither.

    Args:
        pieces: gives the rows from the first on, (n, S) each, NaN where missing.
        columns: S.

    Returns:
        (2, S); of a column without values 0 and 1, and 1 as the deviation of one whose values are equal.
    """
    if not columns:
        return NO_SCALES
    count, total, squares = np.zeros((3, columns))
    least, most = np.full(columns, np.inf), np.full(columns, -np.inf)
    for piece in pieces():
        count += np.isfinite(piece).sum(0)
        total += np.nansum(piece, 0)
        least, most = np.fmin(least, np.fmin.reduce(piece)), np.fmax(most, np.fmax.reduce(piece))
    count = np.maximum(count, 1)
    mean = total / count
    for piece in pieces():
        squares += np.nansum((piece - mean) ** 2, 0)
    # Of equal values the mean may be rounded, and the deviation be tiny in place of 0.
    return np.stack([mean, np.where(least < most, np.sqrt(squares / count), 1.0)])


def scaled(values: npt.NDArray[np.float64], scales: Scales) -> npt.NDArray[np.float32]:
    """Return (x - mean) / deviation of values (N, S), 0 where missing."""
    return np.nan_to_num((values - scales[0]) / scales[1]).astype(np.float32)
