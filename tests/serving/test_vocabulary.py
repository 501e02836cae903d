"""Both forms of the vocabulary give each token the row that the program's own encoder gives it."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.prepared.preprocessing import NO_SCALES, Preprocessing
from dlrm_adahessian.data.prepared.vocabulary import Vocabulary
from dlrm_adahessian.serving.vocabulary import sorted_tensors, write_parquet

EXTREMES = [0xFFFFFFFF, 0, 0x80000000, 0x7FFFFFFF, 1]


@pytest.fixture
def vocabulary() -> Vocabulary:
    """Have a feature with all extremes, one whose missing token has row 2, one without tokens; the rest have one."""
    tokens = [EXTREMES, [9, 0, 7], [], *([[5]] * 23)]
    missing = [0, 2, 0, *([0] * 23)]
    return Vocabulary(
        tokens=np.concatenate([np.array(each, np.uint32) for each in tokens]),
        offsets=np.cumsum([0, *map(len, tokens)]).astype(np.int64),
        missing=np.array(missing, np.int32),
    )


def test_tensors_are_sorted_and_keep_the_rows(vocabulary):
    found = {
        name: tensor.tolist()
        for name, tensor in sorted_tensors(Preprocessing(CRITEO, vocabulary, NO_SCALES)).items()
    }
    assert found["C1/tokens"] == sorted(EXTREMES)
    assert [EXTREMES[row - 1] for row in found["C1/rows"]] == sorted(EXTREMES)
    assert (found["C2/tokens"], found["C2/rows"], found["C2/missing"]) == ([7, 9], [3, 1], [2])
    assert (found["C3/tokens"], found["C3/rows"], found["C3/missing"]) == ([], [], [0])


def test_parquet_has_a_line_per_row_of_a_table_but_the_first(vocabulary, tmp_path):
    write_parquet(Preprocessing(CRITEO, vocabulary, NO_SCALES), tmp_path / "words.parquet")
    found = pq.read_table(tmp_path / "words.parquet").to_pylist()
    by_feature = {
        name: {f["token"]: f["row"] for f in found if f["feature"] == name} for name in ("C1", "C2", "C3")
    }
    assert by_feature["C1"] == {f"{token:08x}": row for row, token in enumerate(EXTREMES, 1)}
    assert by_feature["C2"] == {"00000009": 1, None: 2, "00000007": 3}
    assert by_feature["C3"] == {}
    assert len(found) == len(vocabulary.tokens)
