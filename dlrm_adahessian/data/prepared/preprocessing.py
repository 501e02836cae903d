"""Turn raw samples into features, with the schema and with what was learned from the training part."""

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
"""(2, S) mean and standard deviation of each standardized column."""


@dataclass(frozen=True)
class Preprocessing:
    """Turns raw samples into features.

    Attributes:
        schema: the columns.
        vocabulary: maps tokens to embedding rows.
        scales: mean and deviation of the standardized columns.
        texts: texts of the tokens; None if tokens are numbers, or if an earlier version stored no texts.
        fingerprint: fingerprint of the prepared data it was learned from; None before that is sealed.
    """

    schema: Schema
    vocabulary: Vocabulary
    scales: Scales
    texts: VocabularyTexts | None = None
    fingerprint: str | None = None

    @property
    def num_rows(self) -> tuple[int, ...]:
        """Number of rows of each table, including row 0."""
        known = np.diff(self.vocabulary.offsets).tolist()
        columns = zip(self.schema.categorical, known, strict=True)
        return tuple((column.buckets or tokens) + 1 for column, tokens in columns)

    @cached_property
    def encoder(self) -> Encoder:
        """Hash tables that look up tokens."""
        return Encoder(self.schema, self.vocabulary)

    def features(self, block: RowBlock) -> Features:
        """Return the features of raw samples."""
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
        """Raise unless this can be extended with data of another schema.

        Args:
            schema: schema of the new data; `min_count` and the split may differ.

        Raises:
            UsageError: columns, transforms, or buckets differ.
        """
        buckets = [[column.buckets for column in columns.categorical] for columns in (schema, self.schema)]
        if not schema.reads_as(self.schema) or buckets[0] != buckets[1]:
            raise UsageError(
                "Cannot continue from the earlier run, because the new schema has other columns, transforms, or buckets. "
                "Pass data and a schema with the same columns, or train a new model."
            )

    def values(self, dense: npt.NDArray[np.float32], place: int) -> npt.NDArray[np.float64]:
        """Invert the transform of a dense column: return its values (N,) from `dense` (N,)."""
        found, transform = dense.astype(np.float64), self.schema.dense[place].transform
        if transform == "log1p":
            return np.expm1(found)
        if transform == "standardize":
            mean, deviation = self.scales[:, self.schema.standardized.index(place)]
            return found * deviation + mean
        return found

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the learned state to a folder, and return the manifest entries that `load` needs."""
        self.vocabulary.save(folder)
        if self.schema.standardized:
            write_array(folder / _SCALES, self.scales)
        if self.texts is not None:
            with self.texts.path.open("rb") as texts, new_file(folder / FILE) as file:
                shutil.copyfileobj(texts, file)
        return {"schema": self.schema.asdict()}

    @classmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any]) -> "Preprocessing":
        """Read what `save` wrote. A manifest of a version without schemas means Criteo's.

        Args:
            folder: folder that `save` wrote.
            manifest: manifest of the folder.

        Returns:
            The preprocessing.

        Raises:
            DamagedFolderError: the arrays do not fit the schema.
        """
        schema = from_dict(manifest["schema"]) if "schema" in manifest else CRITEO
        scales = read_array(folder / _SCALES) if schema.standardized else NO_SCALES
        if scales.shape != (2, len(schema.standardized)) or not np.isfinite(scales).all():
            raise DamagedFolderError(
                f"{folder / _SCALES} must contain 2 finite numbers for each standardized column"
            )
        vocabulary, path = Vocabulary.load(folder, schema), folder / FILE
        texts = VocabularyTexts(path, vocabulary) if path.exists() else None
        return cls(schema, vocabulary, scales, texts, manifest.get("fingerprint"))


NO_SCALES: Scales = np.empty((2, 0))


def scales_of(pieces: Callable[[], Iterable[npt.NDArray[np.float64]]], columns: int) -> Scales:
    """Compute mean and standard deviation of columns in two passes, ignoring missing values.

    Args:
        pieces: returns an iterator over all values from the start, (n, S) each, NaN if missing.
        columns: S.

    Returns:
        (2, S) mean and deviation: 0 and 1 for a column without values, and deviation 1 for a constant column.
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
    # The mean of equal values may be rounded, which gives a tiny deviation instead of 0.
    return np.stack([mean, np.where(least < most, np.sqrt(squares / count), 1.0)])


def scaled(values: npt.NDArray[np.float64], scales: Scales) -> npt.NDArray[np.float32]:
    """Return (x - mean) / deviation of values (N, S), 0 if missing."""
    return np.nan_to_num((values - scales[0]) / scales[1]).astype(np.float32)
