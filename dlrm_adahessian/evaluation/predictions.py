# pyright: basic
"""Write predictions to parquet while samples are scored, and read them again as those of a saved model.

Columns: row (int64, from 0), label (int8, null if unknown), weight (float32, if samples have weights), probability
(float32), and probability_2, probability_3, ... of further models on the same samples. Pages have checksums, which readers
verify. Files of older versions or other programs may have none. Other programs, such as pandas, may write wider numbers.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dlrm_adahessian.data.rows import NO_LABEL
from dlrm_adahessian.errors import DataError, NoInputError
from dlrm_adahessian.metrics.ranking import Probabilities
from dlrm_adahessian.runs.files import replacing
from dlrm_adahessian.runs.sealed import storage_errors
from dlrm_adahessian.runtime.terminal import printable_name

_MAGIC = b"PAR1"
_PROBABILITY, _WEIGHT = "probability", "weight"


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Scored samples.

    Attributes:
        labels: (N,) int8, `NO_LABEL` if unknown.
        scored: (N,) float32 for each model, or float64 if another program wrote it.
        file: (N,) int32, index of each sample's file in `files`.
        files: names of the files.
        numbers: (N,) int64, row numbers of the samples; None if they count from 0.
        first_row: index of the first sample among those that are split into days.
        all_rows: number of samples that are split into days; None for these N.
        weights: (N,) float32, number of samples that each one counts for; None for 1 each.
    """

    labels: npt.NDArray[np.int8]
    scored: Mapping[str, Probabilities]
    file: npt.NDArray[np.int32]
    files: Sequence[str]
    numbers: npt.NDArray[np.int64] | None = None
    first_row: int = 0
    all_rows: int | None = None
    weights: npt.NDArray[np.float32] | None = None

    @property
    def labelled(self) -> "Predictions":
        """The predictions of labeled samples."""
        known = self.labels != NO_LABEL
        if known.all():
            return self
        scored = {name: probability[known] for name, probability in self.scored.items()}
        numbers = np.flatnonzero(known) if self.numbers is None else self.numbers[known]
        weights = None if self.weights is None else self.weights[known]
        return replace(
            self,
            labels=self.labels[known],
            scored=scored,
            file=self.file[known],
            numbers=numbers,
            weights=weights,
        )

    def and_by(self, others: "Predictions") -> "Predictions":
        """Add the models of other predictions.

        Args:
            others: predictions of the same samples.

        Returns:
            Predictions of all models. Repeated names get a number. Weights are taken from either side.

        Raises:
            DataError: samples, order, or weights differ.
        """
        ours, theirs = next(iter(self.scored)), next(iter(others.scored))
        if len(self.labels) != len(others.labels):
            raise DataError(
                f"{theirs} has predictions of {len(others.labels):,} samples, but {ours} of {len(self.labels):,}. Score the "
                "same samples with both."
            )
        if differing := self._first_difference(others):
            raise DataError(
                f"Predictions must be of the same samples in the same order, but {theirs} differs from {ours}, first at "
                f"{differing}. Sort both by row, or score the same samples."
            )
        known = [each.weights for each in (self, others) if each.weights is not None]
        if len(known) == 2 and not np.array_equal(known[0], known[1]):
            raise DataError(
                f"{next(iter(others.scored))} has other sample weights than {next(iter(self.scored))}. Score the same "
                "samples with both."
            )
        names = unique_names([*self.scored, *others.scored])
        return replace(
            self,
            scored=dict(zip(names, (*self.scored.values(), *others.scored.values()), strict=True)),
            weights=known[0] if known else None,
        )

    def _first_difference(self, others: "Predictions") -> str | None:
        """Describe the first difference from predictions of equally many samples; None if there is none."""
        numbers = self._counted(), others._counted()
        for what, (ours, theirs) in (("row", numbers), ("label", (self.labels, others.labels))):
            if (differ := ours != theirs).any():
                at = int(differ.argmax())
                found, expected = (
                    "none" if what == "label" and one[at] == NO_LABEL else one[at] for one in (theirs, ours)
                )
                return f"position {at:,} with {what} {found} instead of {expected}"
        return None

    def _counted(self) -> npt.NDArray[np.int64]:
        return np.arange(len(self.labels)) if self.numbers is None else self.numbers


def unique_names(names: Iterable[str]) -> list[str]:
    """Return unique names: repeated ones get a number."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name} ({number})" for number in count(2))
        found.append(name if name not in found else next(n for n in numbered if n not in found))
    return found


def column_of(place: int) -> str:
    """Return the column name of a model by its position, from 0."""
    return _PROBABILITY if place == 0 else f"{_PROBABILITY}_{place + 1}"


class PredictionFile:
    """A parquet file that appears under its name when it is complete."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        """Take the writer; see `writing`."""
        self._writer, self._rows = writer, 0

    def write(
        self,
        labels: npt.NDArray[np.int8],
        scored: Sequence[npt.NDArray[np.float32]],
        weights: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Append samples: labels (N,), predictions (N,) of each model, and weights (N,) if the file has them."""
        rows = np.arange(self._rows, self._rows + len(labels), dtype=np.int64)
        numbers = scored if weights is None else [weights, *scored]
        columns = [pa.array(rows), pa.array(labels, mask=labels == NO_LABEL), *map(pa.array, numbers)]
        self._writer.write_table(pa.table(columns, schema=self._writer.schema))
        self._rows += len(labels)


@contextmanager
def writing(path: Path | None, models: int, *, weighted: bool = False) -> Generator[PredictionFile | None]:
    """Write a file during the block. It replaces `path` if the block succeeds.

    Args:
        path: path of the file; None writes nothing.
        models: number of probability columns.
        weighted: whether samples have weights.

    Yields:
        The file, or None.
    """
    if path is None:
        yield None
        return
    schema = pa.schema(
        [
            ("row", pa.int64()),
            ("label", pa.int8()),
            *([(_WEIGHT, pa.float32())] if weighted else []),
            *((column_of(place), pa.float32()) for place in range(models)),
        ]
    )
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file, pq.ParquetWriter(file, schema, write_page_checksum=True) as writer:
            yield PredictionFile(writer)


def is_predictions(path: str) -> bool:
    """Return whether a path is parquet with probabilities, or damaged parquet. A pipe is not read, to keep its data."""
    try:
        if not Path(path).is_file():
            return False
        with Path(path).open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return False
        return _PROBABILITY in pq.read_schema(path).names
    except pa.ArrowException:
        return True
    except OSError:  # reading it as samples will report the error
        return False


def read_predictions(paths: Sequence[str]) -> Predictions:
    """Read files of saved predictions, and concatenate their samples.

    Args:
        paths: parquet files with the same columns.

    Returns:
        The predictions. Models are named after the first file, and after their columns if there are several.

    Raises:
        DataError: the columns of files differ, a column is missing or has the wrong type, or a value is out of range.
    """
    tables = [_read(Path(path)) for path in paths]
    columns = [name for name in tables[0].column_names if name.startswith(_PROBABILITY)]
    for path, table in zip(paths, tables, strict=True):
        if table.schema != tables[0].schema:
            raise DataError(
                f"Files of one evaluation must have the same columns, but {path} and {paths[0]} differ."
            )
    table = pa.concat_tables(tables)
    if not np.isin(table["label"].cast(pa.float64()).drop_null().to_numpy(), (0, 1)).all():
        raise DataError(f"Labels must be 0, 1, or null, but {paths[0]} has others. Score the samples again.")
    labels = table["label"].cast(pa.int8()).fill_null(NO_LABEL).to_numpy()
    stem = printable_name(Path(paths[0]).stem)
    names = [stem, *(f"{stem}{name.removeprefix(_PROBABILITY)}" for name in columns[1:])]
    scored = {name: table[column].to_numpy() for name, column in zip(names, columns, strict=True)}
    for name, probability in scored.items():
        # Written so that NaN, which null becomes, fails too.
        if not ((probability >= 0) & (probability <= 1)).all():
            raise DataError(
                f"Probabilities must be in [0, 1], but some of {name} are not. Score the samples again."
            )
    weights = table[_WEIGHT].cast(pa.float32()).to_numpy() if _WEIGHT in table.column_names else None
    if weights is not None and not ((weights >= 0) & (weights < np.inf)).all():  # fails for NaN too
        raise DataError(
            f"Weights must be finite and at least 0, but some in {paths[0]} are not. Score the samples again."
        )
    sizes = [len(part) for part in tables]
    file = np.repeat(np.arange(len(tables), dtype=np.int32), sizes)
    return Predictions(
        labels=labels,
        scored=scored,
        file=file,
        files=[printable_name(Path(path).name) for path in paths],
        numbers=_numbers([table["row"].to_numpy() for table in tables]),
        weights=weights,
    )


def _numbers(parts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64] | None:
    """Concatenate the row numbers of files. Numbers that start from 0 again continue those before them."""
    joined = np.empty(0, np.int64)
    for part in parts:
        again = len(joined) and len(part) and part.min() == 0
        joined = np.concatenate((joined, part + len(joined) if again else part))
    return None if np.array_equal(joined, np.arange(len(joined))) else joined


def _require_columns(path: Path, schema: pa.Schema, probabilities: Sequence[str]) -> None:
    """Check that a file has the columns of predictions, with suitable types."""
    floats, optional = (pa.float32(), pa.float64()), {_WEIGHT} & set(schema.names)
    wanted = {
        "row": (pa.int64(),),
        # pandas writes floats if labels are missing.
        "label": (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.bool_(), *floats),
        **dict.fromkeys((_PROBABILITY, *probabilities, *optional), floats),
    }
    for name, kinds in wanted.items():
        found = schema.field(name).type if name in schema.names else "nothing"
        if found not in kinds:
            raise DataError(
                f"Predictions require a column {name} of {' or '.join(map(str, kinds))}, but {path} has {found}. Pass a "
                "file written by evaluate, or cast the column."
            )


def _read(path: Path) -> pa.Table:
    try:
        schema = pq.read_schema(path)
        columns = [name for name in schema.names if name.startswith(_PROBABILITY)]
        _require_columns(path, schema, columns)
        weight = [name for name in schema.names if name == _WEIGHT]
        table = pq.read_table(
            path, columns=["row", "label", *columns, *weight], page_checksum_verification=True
        )
        if table["row"].null_count:
            raise DataError(f"Some rows of {path} have no row number. Score the samples again.")
        return table
    except FileNotFoundError as error:
        raise NoInputError(f"File not found: {path}. Pass a parquet file of predictions.") from error
    except pa.ArrowException as error:
        raise DataError(
            f"{path} is not a complete parquet file: {error}. Score the samples again."
        ) from error
    except OSError as error:
        raise DataError(
            f"{path} is not a complete parquet file of predictions: {error}. Score the samples again."
        ) from error
