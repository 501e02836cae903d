# pyright: basic
"""Predictions as parquet: written while rows are scored, and read again as a model of their own.

Columns: row (int64, from 0), label (int8, null where there is none), weight (float32) where rows have weights, probability
(float32), and of further models scored on the same rows probability_2, probability_3, ... Pages have checksums, which are
verified; files of before, and of others, may have none. Those of others may have wider numbers too, as pandas writes them.
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
    """Rows that were scored.

    Attributes:
        labels: (N,) int8, `NO_LABEL` where there is none.
        scored: for each model (N,) float32; float64 where another program wrote them so.
        file: (N,) int32, which of `files` each row is of.
        files: names.
        numbers: (N,) int64 of the rows; None where they count from 0.
        first_row: place of the first row among the rows that days are cut of.
        all_rows: number of those; None where they are these N.
        weights: (N,) float32, as how many samples each row counts; None for 1 each.
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
        """Those of rows with a label."""
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
        """Return these with the models of others beside them.

        Args:
            others: of the same rows.

        Returns:
            All models; one whose name is taken gets a number. The weights are those that are known.

        Raises:
            DataError: the rows are not the same in the same order, or have other weights.
        """
        ours, theirs = next(iter(self.scored)), next(iter(others.scored))
        if len(self.labels) != len(others.labels):
            raise DataError(
                f"predictions to compare are of the same rows, and {theirs} has {len(others.labels):,} rows where {ours} "
                f"has {len(self.labels):,}; score the same rows"
            )
        if differing := self._first_difference(others):
            raise DataError(
                f"predictions to compare are of the same rows in the same order, and {theirs} differs from {ours} first "
                f"at {differing}; sort both by row, or score the same rows"
            )
        known = [each.weights for each in (self, others) if each.weights is not None]
        if len(known) == 2 and not np.array_equal(known[0], known[1]):
            raise DataError(
                f"predictions to compare are of the same rows, and {next(iter(others.scored))} has them with other weights "
                f"than {next(iter(self.scored))}; score the same rows"
            )
        names = unique_names([*self.scored, *others.scored])
        return replace(
            self,
            scored=dict(zip(names, (*self.scored.values(), *others.scored.values()), strict=True)),
            weights=known[0] if known else None,
        )

    def _first_difference(self, others: "Predictions") -> str | None:
        """Say where, and in what, as many rows differ from these; None where they do not."""
        numbers = self._counted(), others._counted()
        for what, (ours, theirs) in (("row", numbers), ("label", (self.labels, others.labels))):
            if (differ := ours != theirs).any():
                at = int(differ.argmax())
                found, expected = (
                    "none" if what == "label" and one[at] == NO_LABEL else one[at] for one in (theirs, ours)
                )
                return f"position {at:,}, where it has {what} {found} and not {expected}"
        return None

    def _counted(self) -> npt.NDArray[np.int64]:
        return np.arange(len(self.labels)) if self.numbers is None else self.numbers


def unique_names(names: Iterable[str]) -> list[str]:
    """Return the names, each that repeats an earlier one with a number behind it."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name} ({number})" for number in count(2))
        found.append(name if name not in found else next(n for n in numbered if n not in found))
    return found


def column_of(place: int) -> str:
    """Name the column of a model by its place, from 0."""
    return _PROBABILITY if place == 0 else f"{_PROBABILITY}_{place + 1}"


class PredictionFile:
    """Parquet that appears under its name when it is complete."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        """Take the writer, see `writing`."""
        self._writer, self._rows = writer, 0

    def write(
        self,
        labels: npt.NDArray[np.int8],
        scored: Sequence[npt.NDArray[np.float32]],
        weights: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Append rows: labels (N,), for each model (N,), and (N,) weights in a file that has them."""
        rows = np.arange(self._rows, self._rows + len(labels), dtype=np.int64)
        numbers = scored if weights is None else [weights, *scored]
        columns = [pa.array(rows), pa.array(labels, mask=labels == NO_LABEL), *map(pa.array, numbers)]
        self._writer.write_table(pa.table(columns, schema=self._writer.schema))
        self._rows += len(labels)


@contextmanager
def writing(path: Path | None, models: int, *, weighted: bool = False) -> Generator[PredictionFile | None]:
    """Write a file while the block runs; it replaces what stands at `path` when the block ends well.

    Args:
        path: where; None writes nothing.
        models: number of columns of probabilities.
        weighted: whether rows have weights.

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
    """Whether a path names parquet with probabilities, or damaged parquet; a pipe is not looked into, which would take."""
    try:
        if not Path(path).is_file():
            return False
        with Path(path).open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return False
        return _PROBABILITY in pq.read_schema(path).names
    except pa.ArrowException:
        return True
    except OSError:  # who reads it as rows says so
        return False


def read_predictions(paths: Sequence[str]) -> Predictions:
    """Read the files of an earlier scoring, one after the other as one set of rows.

    Args:
        paths: of parquet files with the same columns.

    Returns:
        The predictions; the models are named after the first file, and their columns where there are several.

    Raises:
        DataError: files differ in their columns, a column is missing or of another type, or a value is out of range.
    """
    tables = [_read(Path(path)) for path in paths]
    columns = [name for name in tables[0].column_names if name.startswith(_PROBABILITY)]
    for path, table in zip(paths, tables, strict=True):
        if table.schema != tables[0].schema:
            raise DataError(
                f"files of one scoring have the same columns, and {path} has others than {paths[0]}"
            )
    table = pa.concat_tables(tables)
    if not np.isin(table["label"].cast(pa.float64()).drop_null().to_numpy(), (0, 1)).all():
        raise DataError(f"labels must be 0, 1 or null, and {paths[0]} holds others; score the rows again")
    labels = table["label"].cast(pa.int8()).fill_null(NO_LABEL).to_numpy()
    stem = printable_name(Path(paths[0]).stem)
    names = [stem, *(f"{stem}{name.removeprefix(_PROBABILITY)}" for name in columns[1:])]
    scored = {name: table[column].to_numpy() for name, column in zip(names, columns, strict=True)}
    for name, probability in scored.items():
        # Written so that NaN, which null becomes, fails too.
        if not ((probability >= 0) & (probability <= 1)).all():
            raise DataError(
                f"probabilities must lie in [0, 1], and those of {name} do not all; score the rows again"
            )
    weights = table[_WEIGHT].cast(pa.float32()).to_numpy() if _WEIGHT in table.column_names else None
    if weights is not None and not ((weights >= 0) & (weights < np.inf)).all():  # so that NaN fails too
        raise DataError(
            f"weights must be finite and at least 0, and those of {paths[0]} are not all; score the rows again"
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
    """Join the row numbers of files; what was scored apart, and counts from 0 again, follows what is before it."""
    joined = np.empty(0, np.int64)
    for part in parts:
        again = len(joined) and len(part) and part.min() == 0
        joined = np.concatenate((joined, part + len(joined) if again else part))
    return None if np.array_equal(joined, np.arange(len(joined))) else joined


def _require_columns(path: Path, schema: pa.Schema, probabilities: Sequence[str]) -> None:
    """Refuse a file without a column that predictions have, or with one of a type that holds no such numbers."""
    floats, optional = (pa.float32(), pa.float64()), {_WEIGHT} & set(schema.names)
    wanted = {
        "row": (pa.int64(),),
        # With missing labels pandas writes floats.
        "label": (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.bool_(), *floats),
        **dict.fromkeys((_PROBABILITY, *probabilities, *optional), floats),
    }
    for name, kinds in wanted.items():
        found = schema.field(name).type if name in schema.names else "nothing"
        if found not in kinds:
            raise DataError(
                f"predictions have a column {name} of {' or '.join(map(str, kinds))}, and {path} has {found}; give what "
                "evaluate wrote, or cast the column"
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
            raise DataError(f"every row has a number, and {path} has rows with none; score the rows again")
        return table
    except FileNotFoundError as error:
        raise NoInputError(f"cannot read {path}: no such file; name a parquet file of predictions") from error
    except pa.ArrowException as error:
        raise DataError(f"{path} must be a whole parquet file: {error}; score the rows again") from error
    except OSError as error:
        raise DataError(
            f"{path} must be a whole parquet file of predictions: {error}; score the rows again"
        ) from error
