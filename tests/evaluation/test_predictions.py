"""Files of predictions: what was written is read, and nothing else is taken for it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlrm_adahessian.data.rows import NO_LABEL
from dlrm_adahessian.errors import DataError, StorageError
from dlrm_adahessian.evaluation.predictions import (
    Predictions,
    is_predictions,
    read_predictions,
    unique_names,
    writing,
)

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
        ({"label": None}, "a column label of int8, and .* has nothing"),
        ({"probability": None}, "a column probability of float, and .* has nothing"),
        ({"label": pa.array(["a", "b"])}, "has string"),
        ({"probability": pa.array([0.1, 0.2])}, "has double"),
        ({"probability_2": pa.array([0.1, 0.2])}, "probabilities are float"),
        ({"label": pa.array([0, 3], pa.int8())}, "0, 1 or null"),
        ({"probability": pa.array([0.1, 1.5], pa.float32())}, r"lie in \[0, 1\]"),
        ({"probability": pa.array([0.1, float("nan")], pa.float32())}, r"lie in \[0, 1\]"),
        ({"probability": pa.array([0.1, None], pa.float32())}, r"lie in \[0, 1\]"),
    ],
)
def test_other_tables_are_refused(tmp_path, changes, told):
    with pytest.raises(DataError, match=told):
        read_predictions([table(tmp_path / "t.parquet", **changes)])


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 0.99])
def test_a_damaged_file_is_refused(tmp_path, place):
    path = tmp_path / "a.parquet"
    write(path)
    path.write_bytes(path.read_bytes()[: int(place * path.stat().st_size)])
    with pytest.raises(DataError, match="whole parquet file"):
        read_predictions([str(path)])


def test_files_of_different_scorings_are_refused(tmp_path):
    paths = [write(tmp_path / "a.parquet"), write(tmp_path / "b.parquet", scores=SCORES[:1])]
    with pytest.raises(DataError, match="others than"):
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


@pytest.mark.parametrize("labels", [LABELS[:3], np.array([0, 1, 0, 1], np.int8)])
def test_other_rows_are_not_compared(labels):
    a = Predictions(labels=LABELS, scored={"m": SCORES[0]}, file=np.zeros(4, np.int32), files=["x"])
    b = Predictions(labels=labels, scored={"n": SCORES[1]}, file=a.file, files=["x"])
    with pytest.raises(DataError, match="the same rows"):
        a.and_by(b)
