"""Parts of the rows that figures are asked for: by file, day, value of a column, frequency of a token, or calibration.

A slicing gives each row a code, and each code a name; every row is in one slice, so the slices sum to the whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.prepared.preprocessing import Preprocessing
from dlrm_adahessian.data.prepared.vocabulary import UNKNOWN
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.data.split import DAYS, days_of
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.evaluation.predictions import Predictions
from dlrm_adahessian.evaluation.rows import Block
from dlrm_adahessian.metrics.curves import cuts_of_weight
from dlrm_adahessian.runtime.terminal import printable_name

MOST_VALUES = 15
"""Slices of a column's values at most; rarer values share one."""

_CALIBRATION_BINS = 10
_LARGEST = 40  # integers above 2**40 share a slice
_MEAN = -1  # code of a standardized value that is 0
_WORDS = ("file", "day", "calibration")
_BAND = ".band"
_RARE, _MISSING = "unseen or rare", "missing"
_Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Slicing:
    """One way to cut the rows.

    Attributes:
        name: as the user gave it.
        about: what the slices are, for people.
        label: name of a code.
        of_block: codes of the rows of a block; None where they follow from the predictions.
        of_all: codes of all rows, where they do.
        ordered: whether the slices stand in the order of their codes, else the largest first.
    """

    name: str
    about: str
    label: Callable[[int], str]
    of_block: Callable[[Block], _Codes] | None = None
    of_all: Callable[[Predictions], _Codes] | None = None
    ordered: bool = True


@dataclass(frozen=True)
class Slice:
    """Some rows: their name and their places."""

    label: str
    rows: npt.NDArray[np.int64]


def cut(slicing: Slicing, codes: _Codes) -> list[Slice]:
    """Cut rows by their codes; every row is in exactly one slice.

    Args:
        slicing: names the codes.
        codes: (N,).

    Returns:
        The slices that have rows, in the order that `Slicing` says; of many values the rarest share the last one.
    """
    if not len(codes):
        return []
    values, places, counts = np.unique(codes, return_inverse=True, return_counts=True)
    order = np.arange(len(values)) if slicing.ordered else np.argsort(-counts, kind="stable")
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values))
    most = len(values) if slicing.ordered or len(values) <= MOST_VALUES + 1 else MOST_VALUES
    group = np.minimum(rank, most)[places]
    labels = [slicing.label(int(values[i])) for i in order[:most]]
    if most < len(values):
        labels.append(f"{len(values) - most:,} other values")
    ends = np.cumsum(np.bincount(group, minlength=len(labels)))
    return [
        Slice(label, part)
        for label, part in zip(labels, np.split(np.argsort(group, kind="stable"), ends[:-1]), strict=True)
    ]


def check_slices(names: Sequence[str], schema: Schema | None) -> None:
    """Refuse words that name no slicing, before anything is read.

    Args:
        names: of `--slices`.
        schema: of the rows; None for predictions, which have no columns.

    Raises:
        UsageError: a word is none.
    """
    for name in names:
        if name in _WORDS:
            continue
        if schema is None:
            raise UsageError(
                f"--slices of predictions are {', '.join(_WORDS)}, and {name!r} needs the rows; score these with --run"
            )
        tokens = [column.feature for column in schema.tokens]
        ranked = [column.feature for column in schema.tokens if column.buckets is None]
        if name not in (*schema.dense_names, *tokens) and name.removesuffix(_BAND) not in ranked:
            columns = ", ".join((*tokens, *schema.dense_names))
            raise UsageError(
                f"--slices names {', '.join(_WORDS)}, a column ({columns}), or the {_BAND} of one with a vocabulary, "
                f"got {name!r}"
            )


def of_predictions(name: str, files: Sequence[str]) -> Slicing:
    """Return a slicing that needs no columns.

    Args:
        name: that `check_slices` passes.
        files: names of the files, which may become known while they are read.

    Returns:
        The slicing.
    """
    if name == "file":
        return Slicing(
            name=name,
            about="file",
            of_all=lambda all_: all_.file,
            label=lambda code: files[code],
        )
    if name == "day":
        return Slicing(
            name=name,
            about="seventh of the rows, in their order",
            of_all=_days,
            label=lambda code: f"day {code + 1}",
        )
    about = "tenth of the rows, by rising prediction of the first model"
    return Slicing(
        name=name,
        about=about,
        of_all=_calibration_bins,
        label=lambda code: f"{code + 1} of {_CALIBRATION_BINS}",
    )


def of_rows(name: str, files: Sequence[str], preprocessing: Preprocessing) -> Slicing:
    """Return any slicing.

    Args:
        name: that `check_slices` passes.
        files: names of the files, which may become known while they are read.
        preprocessing: of the first model, whose ids name tokens.

    Returns:
        The slicing.
    """
    if name in _WORDS:
        return of_predictions(name, files)
    schema = preprocessing.schema
    if name in schema.dense_names:
        return _of_dense(name, preprocessing)
    column = name.removesuffix(_BAND)
    place = schema.features.index(column)
    if column != name:
        return Slicing(
            name=name,
            about=f"rank of the token of {column} among those of training, the most frequent first",
            of_block=lambda block: np.searchsorted(_RANKS, block.features[0].ids[:, place], "right").astype(
                np.int32
            ),
            label=_band,
        )
    buckets = schema.tokens[place].buckets is not None
    return Slicing(
        name=name,
        about=f"{'bucket' if buckets else 'token'} of {column}",
        of_block=lambda block: np.ascontiguousarray(block.features[0].ids[:, place]),
        label=_bucket if buckets else _token_names(preprocessing, place),
        ordered=False,
    )


_RANKS = np.array([1, *(10**power + 1 for power in range(1, 9))])  # first rank of each band


def _band(code: int) -> str:
    if code == UNKNOWN:
        return _RARE
    return f"{_RANKS[code - 1]:,} to {10**code:,}"


def _bucket(row: int) -> str:
    return _MISSING if row == UNKNOWN else f"bucket {row - 1}"


def _token_names(preprocessing: Preprocessing, feature: int) -> Callable[[int], str]:
    """Return what names the rows of a table by their tokens: the text, or digits where no texts are kept."""
    missing, tokens = preprocessing.vocabulary.missing[feature], preprocessing.vocabulary.tokens_of(feature)
    texts = None if preprocessing.texts is None else preprocessing.texts.column(feature)

    def name(row: int) -> str:
        if row == UNKNOWN:
            return _RARE
        if row == missing:
            return _MISSING
        if texts is None:
            return f"{int(tokens[row - 1]):08x}"
        text = printable_name(texts[row - 1].as_py())
        return f'"{text}"' if text in (_RARE, _MISSING) else text  # not to be taken for those

    return name


def _of_dense(name: str, preprocessing: Preprocessing) -> Slicing:
    """Return the slicing of a dense column by magnitude.

    A missing value is 0 after the transform, as for the model, so it shares its slice with what else is: with 0 and less
    where the transform is log1p or none, with values that are just the mean where the column is standardized.
    """
    place = preprocessing.schema.dense_names.index(name)
    standardized = place in preprocessing.schema.standardized

    def of_block(block: Block) -> _Codes:
        dense = block.features[0].dense[:, place]
        codes = _magnitudes(preprocessing.values(dense, place))
        if standardized:
            codes[dense == 0] = _MEAN
        return codes

    return Slicing(
        name=name,
        about=f"value of {name}",
        of_block=of_block,
        label=partial(_magnitude, least="0 or less" if standardized else "0, less or missing"),
    )


def _magnitudes(values: npt.NDArray[np.float64]) -> _Codes:
    """Return 0 for 0 and less, else 1 + log2 of the value, rounded down."""
    return np.minimum(np.floor(np.log2(np.maximum(np.rint(values), 0.5))) + 1, _LARGEST).astype(np.int32)


def _magnitude(code: int, *, least: str) -> str:
    if code == _MEAN:
        return "missing or the mean"
    if code == 0:
        return least
    low, high = 2 ** (code - 1), 2**code - 1
    if code == _LARGEST:
        return f"{low:,} or more"
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _days(predictions: Predictions) -> _Codes:
    count = len(predictions.labels)
    starts = days_of(predictions.all_rows or count)
    places = np.arange(predictions.first_row, predictions.first_row + count)
    return (np.searchsorted(starts[:DAYS], places, "right") - 1).astype(np.int32)


def _calibration_bins(predictions: Predictions) -> _Codes:
    """Return which tenth of the rows, or of their weight, each lies in, equal probabilities in the same, the lower one."""
    probability, weights = next(iter(predictions.scored.values())), predictions.weights
    if weights is not None and weights.any():
        order = np.argsort(probability, kind="stable")
        order = order[weights[order] > 0]
        ordered = probability[order]
        ends = cuts_of_weight(ordered, weights[order].astype(np.float64), _CALIBRATION_BINS)
        return np.searchsorted(ordered[ends[:-1] - 1], probability, "left").astype(np.int32)
    ordered = np.sort(probability)
    cuts = [len(ordered) * bin_ // _CALIBRATION_BINS - 1 for bin_ in range(1, _CALIBRATION_BINS)]
    return np.searchsorted(ordered[[cut for cut in cuts if cut >= 0]], probability, "left").astype(np.int32)
