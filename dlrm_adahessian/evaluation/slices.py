"""Slice samples by file, day, value of a column, frequency of a token, or predicted probability.

A slicing gives each sample a code, and each code a name. Every sample is in exactly one slice, so the slices add up to all.
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
"""Maximum number of slices by the values of a column. Rarer values share one."""

_CALIBRATION_BINS = 10
_LARGEST = 40  # integers above 2**40 share a slice
_MEAN = -1  # code of a standardized value of 0
_WORDS = ("file", "day", "calibration")
_BAND = ".band"
_RARE, _MISSING = "unseen or rare", "missing"
_Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Slicing:
    """One way to slice samples.

    Attributes:
        name: argument of the user.
        about: explanation of the slices.
        label: function that names a code.
        of_block: function from a block to codes; None if codes depend on the predictions.
        of_all: function from all predictions to codes, in that case.
        ordered: whether slices are in the order of their codes; otherwise the largest comes first.
    """

    name: str
    about: str
    label: Callable[[int], str]
    of_block: Callable[[Block], _Codes] | None = None
    of_all: Callable[[Predictions], _Codes] | None = None
    ordered: bool = True


@dataclass(frozen=True)
class Slice:
    """The name and the indices of some samples."""

    label: str
    rows: npt.NDArray[np.int64]


def cut(slicing: Slicing, codes: _Codes) -> list[Slice]:
    """Split samples by their codes. Every sample is in exactly one slice.

    Args:
        slicing: the slicing of the codes.
        codes: (N,).

    Returns:
        The nonempty slices, in the order of `Slicing`. If there are too many, the rarest ones share the last slice.
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
    """Check the arguments of `--slices` before any data is read.

    Args:
        names: arguments of `--slices`.
        schema: schema of the samples; None for predictions, which have no columns.

    Raises:
        UsageError: an argument is not a slicing.
    """
    for name in names:
        if name in _WORDS:
            continue
        if schema is None:
            raise UsageError(
                f"--slices {name!r} requires the columns of the samples, which predictions do not have. Use "
                f"{', '.join(_WORDS)}, or score the samples with --run."
            )
        tokens = [column.feature for column in schema.tokens]
        ranked = [column.feature for column in schema.tokens if column.buckets is None]
        if name not in (*schema.dense_names, *tokens) and name.removesuffix(_BAND) not in ranked:
            columns = ", ".join((*tokens, *schema.dense_names))
            raise UsageError(
                f"Unknown --slices {name!r}. Use {', '.join(_WORDS)}, a column ({columns}), or the {_BAND} of a column with "
                "a vocabulary."
            )


def of_predictions(name: str, files: Sequence[str]) -> Slicing:
    """Return a slicing that requires no columns.

    Args:
        name: argument that `check_slices` accepted.
        files: names of the files. The list may grow during reading.

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
            about="seventh of the samples, in their order",
            of_all=_days,
            label=lambda code: f"day {code + 1}",
        )
    about = "tenth of the samples, by ascending prediction of the first model"
    return Slicing(
        name=name,
        about=about,
        of_all=_calibration_bins,
        label=lambda code: f"{code + 1} of {_CALIBRATION_BINS}",
    )


def of_rows(name: str, files: Sequence[str], preprocessing: Preprocessing) -> Slicing:
    """Return a slicing of any kind.

    Args:
        name: argument that `check_slices` accepted.
        files: names of the files. The list may grow during reading.
        preprocessing: preprocessing of the first model, which names tokens.

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
            about=f"rank of the token of {column} by frequency in training",
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
    """Return a function that names embedding rows by their tokens: as text, or as digits if no texts are stored."""
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
        return f'"{text}"' if text in (_RARE, _MISSING) else text  # quoted to avoid confusion

    return name


def _of_dense(name: str, preprocessing: Preprocessing) -> Slicing:
    """Return the slicing of a numeric column by magnitude.

    A missing value is 0 after the transform, as in the model, so it shares a slice with other values that become 0: with 0
    and below for the transforms log1p and none, or with values equal to the mean for a standardized column.
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
    """Return 0 for values of at most 0, otherwise 1 + log2 of the value, rounded down."""
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
    """Return the tenth of the samples, by weight, that each one is in. Equal probabilities share the lower one."""
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
