"""Both exported vocabularies map each token to the same row as the program's encoder."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.prepared.preprocessing import NO_SCALES, Preprocessing
from dlrm_adahessian.data.prepared.vocabulary import Vocabulary
from dlrm_adahessian.data.raw import prepare_raw
from dlrm_adahessian.data.schema import from_dict
from dlrm_adahessian.serving.vocabulary import sorted_tensors, write_parquet
from tests.data.columnar.slow import fnv, write_text

EXTREMES = [0xFFFFFFFF, 0, 0x80000000, 0x7FFFFFFF, 1]


@pytest.fixture
def vocabulary() -> Vocabulary:
    """One feature has all extremes, one has a missing token with row 2, one has no tokens, and the others have one."""
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


def test_parquet_has_the_texts_of_tokens(tmp_path):
    table = {
        "y": [0, 1] * 28,
        "site": ["漢", "漢", None, "news.example"] * 14,
        "ad": [7, -7] * 28,
        "genres": ["a|b"] * 56,
    }
    described = {
        "format": "csv",
        "label": {"column": "y"},
        "tokens": [{"column": "site"}, {"column": "site", "name": "shared", "buckets": 3}, {"column": "ad"}],
        "bags": [{"column": "genres", "separator": "|"}],
    }
    data = prepare_raw(
        "own",
        from_dict(described),
        str(write_text(tmp_path / "x.csv", table)),
        DataConfig(cache_dir=tmp_path / "cache", min_count=1),
        rows=None,
        bad_rows="strict",
    )
    write_parquet(data.preprocessing, tmp_path / "words.parquet")
    found = pq.read_table(tmp_path / "words.parquet").to_pylist()
    # 48 samples train. Among equally frequent tokens the missing one comes first, and the others follow by hash.
    ads, genres = (sorted(tokens, key=fnv) for tokens in (["7", "-7"], ["a", "b"]))
    assert {(line["feature"], line["token"], line["row"]) for line in found} == {
        *(("site", site, row) for row, site in enumerate(["漢", None, "news.example"], 1)),
        *(("ad", ad, row) for row, ad in enumerate(ads, 1)),
        *(("genres", genre, row) for row, genre in enumerate(genres, 1)),
    }
    assert len(found) == 7
