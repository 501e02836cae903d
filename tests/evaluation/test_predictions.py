"""Files of predictions: round trips, and errors for all other files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from dlrm_adahessian.data.rows import NO_LABEL
from dlrm_adahessian.errors import DataError, StorageError
from dlrm_adahessian.evaluation.job import evaluate
from dlrm_adahessian.evaluation.predictions import (
    Predictions,
    is_predictions,
    read_predictions,
    unique_names,
    writing,
)
from dlrm_adahessian.evaluation.request import EvaluationRequest

LABELS = np.array([0, 1, NO_LABEL, 1], np.int8)
SCORES = [np.array([0.1, 0.9, 0.5, 1.0], np.float32), np.array([0.2, 0.8, 0.4, 0.0], np.float32)]


def write(path, labels=LABELS, scores=SCORES):
    with writing(path, len(scores)) as file:
        for part in (slice(0, 3), slice(3, None)):
            file.write(labels[part], [score[part] for score in scores])
    return str(path)


def table(path, **changes):
    columns = {
        "row": pa.array([0, 1], pa.int64()),
        "label": pa.array([0, 1], pa.int8()),
        "probability": pa.array([0.1, 0.2], pa.float32()),
        **changes,
    }
    pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), path)
    return str(path)


def test_what_was_written_is_read(tmp_path):
    found = read_predictions([write(tmp_path / "a.parquet"), write(tmp_path / "b.parquet")])
    np.testing.assert_array_equal(found.labels, np.tile(LABELS, 2))
    assert list(found.scored) == ["a", "a_2"]
    for ours, score in zip(found.scored.values(), SCORES, strict=True):
        np.testing.assert_array_equal(ours, np.tile(score, 2))
    assert found.file.tolist() == [0] * 4 + [1] * 4
    assert found.files == ["a.parquet", "b.parquet"]
    assert pq.read_table(tmp_path / "a.parquet")["row"].to_pylist() == [0, 1, 2, 3]
    assert found.labelled.labels.tolist() == [0, 1, 1, 0, 1, 1]
    assert len(found.labelled.file) == 6


def test_a_file_that_is_not_finished_leaves_the_one_before(tmp_path):
    path = tmp_path / "a.parquet"
    write(path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError), writing(path, 1) as file:
        file.write(LABELS, SCORES[:1])
        raise RuntimeError
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_a_full_disk_names_the_file():
    with pytest.raises(StorageError, match="/dev/full"), writing(Path("/dev/full/x"), 1):
        pass


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"label": None}, "a column label of int8 or .*, but .* has nothing"),
        ({"probability": None}, "a column probability of float or double, but .* has nothing"),
        ({"label": pa.array(["a", "b"])}, "has string"),
        (
            {"probability": pa.array([0, 1])},
            "a column probability of float or double, but .* has int64\\. .* cast",
        ),
        (
            {"probability_2": pa.array(["a", "b"])},
            "a column probability_2 of float or double, but .* has string",
        ),
        ({"label": pa.array([0.0, 0.5])}, "0, 1, or null"),
        ({"label": pa.array([0.0, float("nan")])}, "0, 1, or null"),
        ({"label": pa.array([0, 257])}, "0, 1, or null"),
        ({"probability": pa.array([0.1, 1 + 2**-40])}, r"must be in \[0, 1\]"),
        ({"label": pa.array([0, 3], pa.int8())}, "0, 1, or null"),
        ({"label": pa.array([-1, 1], pa.int8())}, "0, 1, or null"),
        ({"label": pa.array([-1, None], pa.int8())}, "0, 1, or null"),
        ({"row": None}, "a column row of int64, but .* has nothing"),
        ({"row": pa.array([0.0, 1.0])}, "a column row of int64, but .* has double"),
        ({"row": pa.array([0, None], pa.int64())}, "have no row number"),
        ({"probability": pa.array([0.1, 1.5], pa.float32())}, r"must be in \[0, 1\]"),
        ({"probability": pa.array([0.1, float("nan")], pa.float32())}, r"must be in \[0, 1\]"),
        ({"probability": pa.array([0.1, None], pa.float32())}, r"must be in \[0, 1\]"),
    ],
)
def test_other_tables_are_refused(tmp_path, changes, told):
    with pytest.raises(DataError, match=told):
        read_predictions([table(tmp_path / "t.parquet", **changes)])


@pytest.mark.oracle
def test_what_pandas_writes_of_other_programs_is_judged_as_scikit_learn_does(tmp_path):
    def judged(**columns):
        frame.assign(**columns).to_parquet(tmp_path / "theirs.parquet", index=False)
        return evaluate(EvaluationRequest(data=[str(tmp_path / "theirs.parquet")])).summary

    rng = np.random.default_rng(0)
    labels, probability = rng.integers(0, 2, 500), rng.random(500) ** 3
    probability[0] = 1 - 1e-12  # float32 would make it 1
    frame = pd.DataFrame({"row": np.arange(500), "label": labels, "probability": probability})
    metrics = judged().first.measured.metrics
    assert metrics.logloss == pytest.approx(log_loss(labels, probability), rel=1e-12)
    assert metrics.auc == pytest.approx(roc_auc_score(labels, probability), abs=1e-12)
    for kind in ("bool", "float64", "int32"):
        assert judged(label=labels.astype(kind)).first.measured.metrics == metrics
    known = np.arange(500) % 10 > 0
    found = judged(label=np.where(known, labels, np.nan), weight=np.full(500, 2.0))
    expected = log_loss(labels[known], probability[known])
    assert (found.labelled, found.weight) == (450, 900)
    assert found.first.measured.metrics.logloss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 0.99])
def test_a_damaged_file_is_refused(tmp_path, place):
    path = tmp_path / "a.parquet"
    write(path)
    path.write_bytes(path.read_bytes()[: int(place * path.stat().st_size)])
    with pytest.raises(DataError, match="complete parquet file"):
        read_predictions([str(path)])


@pytest.mark.parametrize("score", SCORES)
def test_a_probability_that_changed_since_it_was_written_is_refused(tmp_path, score):
    path = tmp_path / "a.parquet"
    write(path)
    content = path.read_bytes()
    stored = score[:2].tobytes()  # within a page, in any storage order of the first row group
    at = content.index(stored)
    path.write_bytes(content[:at] + (score[:2] / 2).tobytes() + content[at + len(stored) :])
    with pytest.raises(DataError, match="complete parquet file"):
        read_predictions([str(path)])


def test_files_of_different_scorings_are_refused(tmp_path):
    paths = [write(tmp_path / "a.parquet"), write(tmp_path / "b.parquet", scores=SCORES[:1])]
    with pytest.raises(DataError, match="must have the same columns"):
        read_predictions(paths)


def test_only_parquet_is_predictions(tmp_path):
    text = tmp_path / "x.parquet"
    text.write_text("PAR\n")
    assert [is_predictions(p) for p in (write(tmp_path / "a"), str(text), str(tmp_path), "-", "nowhere")] == [
        True,
        *[False] * 4,
    ]


def test_models_are_put_side_by_side_under_names_of_their_own():
    a = Predictions(labels=LABELS, scored={"m": SCORES[0]}, file=np.zeros(4, np.int32), files=["x"])
    b = Predictions(labels=LABELS, scored={"m": SCORES[1], "n": SCORES[0]}, file=a.file, files=["y"])
    both = a.and_by(b)
    assert {name: score[0] for name, score in both.scored.items()} == {
        "m": SCORES[0][0],
        "m (2)": SCORES[1][0],
        "n": SCORES[0][0],
    }
    assert unique_names(["a", "a (2)", "a", "a"]) == ["a", "a (2)", "a (3)", "a (4)"]


def predicted(name, labels=LABELS, numbers=None):
    file = np.zeros(len(labels), np.int32)
    scored = {name: SCORES[0][: len(labels)]}
    return Predictions(labels=labels, scored=scored, file=file, files=["x"], numbers=numbers)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"labels": LABELS[:3]}, "n has predictions of 3 samples, but m of 4"),
        ({"labels": np.array([0, 1, NO_LABEL, 0], np.int8)}, "at position 3 with label 0 instead of 1"),
        ({"labels": np.array([0, 1, 1, 1], np.int8)}, "at position 2 with label 1 instead of none"),
        ({"numbers": np.array([0, 3, 2, 1])}, "at position 1 with row 3 instead of 1"),
        ({"numbers": np.arange(4) + 10}, "at position 0 with row 10 instead of 0"),
    ],
)
def test_other_rows_are_not_compared(changes, told):
    with pytest.raises(DataError, match=told):
        predicted("m").and_by(predicted("n", **changes))


def test_rows_in_another_order_are_not_compared(tmp_path):
    ordered = read_predictions([write(tmp_path / "a.parquet")])
    turned = pq.read_table(tmp_path / "a.parquet").take([0, 3, 2, 1])  # this keeps the order of the labels
    pq.write_table(turned, tmp_path / "b.parquet")
    other = read_predictions([str(tmp_path / "b.parquet")])
    np.testing.assert_array_equal(ordered.labels, other.labels)
    with pytest.raises(
        DataError, match="b differs from a, first at position 1 with row 3 instead of 1. Sort"
    ):
        ordered.and_by(other)
    assert list(other.and_by(predicted("c", other.labels, np.array([0, 3, 2, 1]))).scored) == [
        "b",
        "b_2",
        "c",
    ]


def test_files_of_one_scoring_and_of_several_are_the_rows_of_the_whole(tmp_path):
    whole = np.tile(LABELS, 2), [np.tile(score, 2) for score in SCORES]
    all_rows = read_predictions([write(tmp_path / "all.parquet", *whole)])
    apart = [write(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    table = pq.read_table(tmp_path / "all.parquet")
    cut = [str(tmp_path / name) for name in ("c.parquet", "d.parquet")]
    for path, part in zip(cut, (table[:4], table[4:]), strict=True):
        pq.write_table(part, path)
    for paths in (apart, cut):
        assert len(all_rows.and_by(read_predictions(paths)).scored) == 4
    with pytest.raises(DataError, match="at position 0 with row 4 instead of 0"):
        read_predictions(cut[:1]).and_by(read_predictions(cut[1:]))
    assert read_predictions(cut[1:]).labelled.numbers.tolist() == [4, 5, 7]
    assert all_rows.labelled.numbers.tolist() == [0, 1, 3, 4, 5, 7]


def test_weights_are_written_beside_the_labels_and_read_again(tmp_path):
    weights = np.array([0.5, 0.0, 2.0, 3.0], np.float32)
    with writing(tmp_path / "a.parquet", 1, weighted=True) as file:
        file.write(LABELS, SCORES[:1], weights)
    assert pq.read_schema(tmp_path / "a.parquet").names == ["row", "label", "weight", "probability"]
    found = read_predictions([str(tmp_path / "a.parquet")])
    np.testing.assert_array_equal(found.weights, weights)
    assert found.labelled.weights.tolist() == [0.5, 0.0, 3.0]
    plain = read_predictions([write(tmp_path / "b.parquet")])
    assert plain.weights is None
    assert plain.and_by(found).weights is found.weights
    other = Predictions(
        labels=LABELS, scored={"c": SCORES[0]}, file=found.file, files=["c"], weights=weights + 1
    )
    with pytest.raises(DataError, match="c has other sample weights than a. Score the same samples"):
        found.and_by(other)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (pa.array([1.0, -1.0], pa.float32()), "Weights must be finite and at least 0"),
        (pa.array([1.0, None], pa.float32()), "Weights must be finite and at least 0"),
        (pa.array([1.0, np.inf], pa.float32()), "Weights must be finite and at least 0"),
        (pa.array([1, 2], pa.int64()), "a column weight of float or double, but .* has int64"),
    ],
)
def test_weights_are_finite_numbers_from_0_on(tmp_path, weights, message):
    with pytest.raises(DataError, match=message):
        read_predictions([table(tmp_path / "a.parquet", weight=weights)])
