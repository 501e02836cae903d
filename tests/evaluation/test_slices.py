"""Slicings against plain Python."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.prepared.preprocessing import NO_SCALES, Preprocessing
from dlrm_adahessian.data.prepared.vocabulary import Vocabulary
from dlrm_adahessian.data.raw import prepare_raw
from dlrm_adahessian.data.rows import ColumnBlock, Features, missing_words
from dlrm_adahessian.data.schema import from_dict
from dlrm_adahessian.data.split import split_rows
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.evaluation.predictions import Predictions
from dlrm_adahessian.evaluation.rows import Block
from dlrm_adahessian.evaluation.slices import MOST_VALUES, check_slices, cut, of_predictions, of_rows

PREPROCESSING = Preprocessing(
    CRITEO,
    Vocabulary(
        tokens=np.arange(26 * 3, dtype=np.uint32) + 0xAB0000,
        offsets=np.arange(27) * 3,
        missing=np.full(26, 2, np.int32),
    ),
    NO_SCALES,
)


def block(dense=None, ids=None):
    n = len(dense if dense is not None else ids)
    dense = np.zeros((n, 13), np.float32) if dense is None else dense
    ids = np.zeros((n, 26), np.int32) if ids is None else ids
    features = Features(dense=dense, ids=ids)
    return Block(labels=np.zeros(n, np.int8), file=np.zeros(n, np.int32), features=(features,))


def predictions(probability, **more):
    n = len(probability)
    values = {"labels": np.zeros(n, np.int8), "file": np.zeros(n, np.int32), "files": ["x"], **more}
    return Predictions(scored={"a": np.asarray(probability, np.float32)}, **values)


def labels_of(slicing, codes):
    return [slicing.label(int(code)) for code in codes]


@given(arrays(np.int64, 7, elements=st.integers(-9, 2**31)))
def test_integers_lie_in_the_slice_that_names_them(values):
    integers = np.zeros((7, 13), np.int64)
    integers[:, 4] = values
    slicing = of_rows("I5", [], PREPROCESSING)
    codes = slicing.of_block(block(np.log1p(np.maximum(integers, 0.0)).astype(np.float32)))
    for value, label in zip(values.tolist(), labels_of(slicing, codes), strict=True):
        # float32 logarithms are off by some parts per million for integers above about 2**20.
        low, _, high = label.replace(",", "").partition(" to ")
        if value <= 0:
            assert label == "0, less or missing"
        elif not high:
            assert int(low) == value
        else:
            assert int(low) * (1 - 1e-5) <= value <= int(high) * (1 + 1e-5) + 1


@pytest.mark.parametrize(
    ("row", "label"),
    [
        (0, "unseen or rare"),
        (1, "1 to 10"),
        (10, "1 to 10"),
        (11, "11 to 100"),
        (100, "11 to 100"),
        (10_001, "10,001 to 100,000"),
    ],
)
def test_bands_are_decades_of_the_rank(row, label):
    ids = np.full((1, 26), row, np.int32)
    slicing = of_rows("C4.band", [], PREPROCESSING)
    assert labels_of(slicing, slicing.of_block(block(ids=ids))) == [label]


def test_tokens_have_their_names():
    slicing = of_rows("C2", [], PREPROCESSING)
    ids = np.arange(4, dtype=np.int32)[:, None].repeat(26, 1)
    assert labels_of(slicing, slicing.of_block(block(ids=ids))) == [
        "unseen or rare",
        "00ab0003",
        "missing",
        "00ab0005",
    ]


def test_texts_of_tokens_name_the_slices_that_pandas_groups(tmp_path):
    rng = np.random.default_rng(0)
    sites = [
        "news.example",
        "漢字🙂",
        "a\nb",
        "\x1b[31m",
        "missing",
        "unseen or rare",
        None,
        "rare.example",
        "00ab0003",
    ]
    frame = pd.DataFrame({"y": rng.integers(0, 2, 900), "site": rng.choice(np.array(sites, object), 900)})
    frame.loc[frame.site == "rare.example", "site"] = [
        f"rare-{n}" for n in range((frame.site == "rare.example").sum())
    ]
    frame["ad"] = rng.integers(-2, 3, 900)
    frame.to_parquet(tmp_path / "x.parquet")
    described = {
        "format": "parquet",
        "label": {"column": "y"},
        "tokens": [{"column": "site"}, {"column": "ad"}],
    }
    data = prepare_raw(
        "own",
        from_dict(described),
        str(tmp_path / "x.parquet"),
        DataConfig(cache_dir=tmp_path / "cache", min_count=5),
        rows=None,
        bad_rows="strict",
    )
    rows = Block(labels=data.labels, file=np.zeros(900, np.int32), features=(data.features,))

    def found(column):
        slicing = of_rows(column, [], data.preprocessing)
        parts = cut(slicing, slicing.of_block(rows))
        return {part.label: part.rows.tolist() for part in parts}

    shown = {
        "a\nb": "a\\nb",
        "\x1b[31m": "\\x1b[31m",
        "missing": '"missing"',
        "unseen or rare": '"unseen or rare"',
    }
    named = frame.site.map(lambda site: "missing" if pd.isna(site) else shown.get(site, site))
    named[named.str.startswith("rare-")] = "unseen or rare"
    assert found("site") == {name: list(part.index) for name, part in frame.groupby(named)}
    assert found("ad") == {str(ad): list(part.index) for ad, part in frame.groupby("ad")}


def test_hashes_without_texts_are_digits_and_buckets_have_numbers():
    described = {
        "label": {"column": "y"},
        "tokens": [{"column": "site", "buckets": 7}, {"column": "ad"}],
    }
    vocabulary = Vocabulary(
        np.array([0xABCDEF0123456789 >> 1], np.uint64), np.array([0, 0, 1]), np.zeros(2, np.int32)
    )
    preprocessing = Preprocessing(from_dict(described), vocabulary, NO_SCALES)
    assert labels_of(of_rows("site", [], preprocessing), np.array([0, 1, 7])) == [
        "missing",
        "bucket 0",
        "bucket 6",
    ]
    assert labels_of(of_rows("ad", [], preprocessing), np.array([0, 1])) == [
        "unseen or rare",
        "55e6f78091a2b3c4",
    ]

    assert of_rows("site", [], preprocessing).about == "bucket of site"


def test_buckets_have_no_ranks():
    schema = from_dict(
        {"label": {"column": "y"}, "tokens": [{"column": "site", "buckets": 7}, {"column": "ad"}]}
    )
    check_slices(["site", "ad.band"], schema)
    with pytest.raises(UsageError, match=r"Unknown --slices 'site.band'.* or the \.band of a column"):
        check_slices(["site.band"], schema)


def test_days_are_those_of_the_preparation():
    whole = split_rows(100)
    expected = [next(d for d in range(7) if row < whole.days[d + 1]) for row in range(100)]
    assert of_predictions("day", []).of_all(predictions(np.zeros(100))).tolist() == expected
    part = predictions(np.zeros(7), first_row=whole.test.start, all_rows=100)
    assert (
        of_predictions("day", []).of_all(part).tolist() == expected[whole.test.start : whole.test.start + 7]
    )


@given(st.lists(st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.9]), min_size=1, max_size=60))
def test_calibration_slices_are_tenths_and_split_no_tie(probability):
    codes = of_predictions("calibration", []).of_all(predictions(probability))
    order = sorted(np.float32(probability).tolist())
    # The largest of each tenth except the last. With fewer than ten samples, tenths may be empty.
    uppers = [order[len(order) * tenth // 10 - 1] for tenth in range(1, 10) if len(order) * tenth // 10]
    expected = [sum(upper < p for upper in uppers) for p in np.float32(probability).tolist()]
    assert codes.tolist() == expected


@given(st.lists(st.integers(0, 40), min_size=1, max_size=200), st.sampled_from(["C1", "C1.band"]))
def test_each_row_is_in_exactly_one_slice(codes, name):
    vocabulary = Vocabulary(np.arange(26 * 50, dtype=np.uint32), np.arange(27) * 50, np.zeros(26, np.int32))
    slicing = of_rows(name, [], Preprocessing(CRITEO, vocabulary, NO_SCALES))
    codes = np.minimum(codes, 8 if name == "C1.band" else 40).astype(np.int32)
    slices = cut(slicing, codes)
    assert np.sort(np.concatenate([part.rows for part in slices])).tolist() == list(range(len(codes)))
    assert all(len(part.rows) for part in slices)
    assert len({part.label for part in slices}) == len(slices)
    for part in slices:
        if not part.label.endswith("other values"):
            assert {slicing.label(int(code)) for code in codes[part.rows]} == {part.label}
    if not slicing.ordered:
        sizes = [len(part.rows) for part in slices[:MOST_VALUES]]
        assert sizes == sorted(sizes, reverse=True)
        assert len(slices) <= MOST_VALUES + 1


@pytest.mark.parametrize("name", ["C27", "C0", "I14", "hour", "C1.", "C1.bands", "I1.band", "", "files"])
def test_unknown_slicings_are_refused(name):
    with pytest.raises(UsageError, match="Unknown --slices .* Use file, day"):
        check_slices(["day", name], CRITEO)


def test_predictions_have_no_columns():
    check_slices(["day", "file", "calibration"], None)
    with pytest.raises(UsageError, match="'C3.band' requires the columns"):
        check_slices(["C3.band"], None)


def test_magnitudes_reach_their_last_slice():
    slicing = of_rows("I1", [], PREPROCESSING)
    dense = np.full((1, 13), math.log1p(2.0**62), np.float32)
    assert labels_of(slicing, slicing.of_block(block(dense))) == [f"{2**39:,} or more"]


def test_tenths_of_the_weight_are_those_of_repeated_rows():
    rng = np.random.default_rng(0)
    probability, weights = rng.random(300).astype(np.float32), rng.integers(0, 4, 300)
    weights[0] += -weights.sum() % 10
    slicing = of_predictions("calibration", [])
    labels = np.zeros(300, np.int8)
    of_rows_ = Predictions(
        labels=labels,
        scored={"a": probability},
        file=np.zeros(300, np.int32),
        files=["x"],
        weights=weights.astype(np.float32),
    )
    repeated = np.repeat(probability, weights)
    of_repeated = Predictions(
        labels=np.repeat(labels, weights),
        scored={"a": repeated},
        file=np.zeros(len(repeated), np.int32),
        files=["x"],
    )
    found, expected = slicing.of_all(of_rows_), slicing.of_all(of_repeated)
    np.testing.assert_array_equal(np.repeat(found, weights), expected)


@pytest.mark.parametrize("transform", ["log1p", "none", "standardize"])
def test_values_are_those_before_the_transform(transform):
    values, scales = np.array([0.0, 1.0, 5.0, 700.0]), np.array([[3.0], [20.0]])
    transformed = {"log1p": np.log1p(values), "none": values, "standardize": (values - 3) / 20}[transform]
    schema = from_dict({"label": {"column": "y"}, "dense": [{"column": "x", "transform": transform}]})
    none = Vocabulary(np.empty(0, np.uint64), np.zeros(1, np.int64), np.empty(0, np.int32))
    slicing = of_rows("x", [], Preprocessing(schema, none, scales))
    found = labels_of(slicing, slicing.of_block(block(transformed.astype(np.float32)[:, None])))
    least = "0 or less" if transform == "standardize" else "0, less or missing"
    assert found == [least, "1", "4 to 7", "512 to 1,023"]


@pytest.mark.parametrize(
    ("transform", "labels"),
    [
        ("log1p", ["0, less or missing", "16 to 31", "0, less or missing", "8 to 15"]),
        ("none", ["0, less or missing", "16 to 31", "0, less or missing", "8 to 15"]),
        ("standardize", ["0 or less", "16 to 31", "missing or the mean", "8 to 15"]),
    ],
)
def test_missing_values_are_not_shown_as_the_mean(transform, labels):
    """The mean of 0, 20, and 10.5 is in 8 to 15, and no value equals it."""
    values = np.array([[0.0], [20.0], [np.nan], [10.5]])
    schema = from_dict({"label": {"column": "y"}, "dense": [{"column": "x", "transform": transform}]})
    rows = ColumnBlock(
        schema=schema,
        labels=np.zeros(4, np.int8),
        values=values,
        tokens=np.empty((4, 0), np.uint64),
        missing=missing_words(np.isnan(values)),
    )
    none = Vocabulary(np.empty(0, np.uint64), np.zeros(1, np.int64), np.empty(0, np.int32))
    scales = np.array([[np.nanmean(values)], [np.nanstd(values)]])
    preprocessing = Preprocessing(schema, none, scales)
    slicing = of_rows("x", [], preprocessing)
    dense = preprocessing.features(rows).dense
    assert labels_of(slicing, slicing.of_block(block(dense))) == labels
    assert cut(slicing, slicing.of_block(block(dense)))[0].label == labels[2], "the first"
