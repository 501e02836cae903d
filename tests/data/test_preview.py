"""Compare what a schema reads with pandas, and raise the same errors as training."""

import numpy as np
import pandas as pd
import pytest

from dlrm_adahessian.data.preview import preview
from dlrm_adahessian.data.published import schema_of
from dlrm_adahessian.data.schema import from_dict
from dlrm_adahessian.errors import DataError
from tests.data.test_published import CRITEO, INTEGERS, TOKENS, criteo_rows

ROWS = 400
SCHEMA = {
    "format": "csv",
    "label": {"column": "click"},
    "dense": [{"column": "price"}],
    "tokens": [{"column": "site", "buckets": 5, "name": "place"}],
    "bags": [{"column": "genres", "separator": "|"}],
    "split": {"by": "order", "train": 0.5, "test": 0.25},
}


def log():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "click": rng.integers(0, 2, ROWS),
            "price": np.where(rng.random(ROWS) < 0.2, np.nan, rng.integers(0, 50, ROWS) / 4),
            "site": rng.choice(["a", "b", "c", None], ROWS),
            "genres": ["|".join(rng.choice(list("uvwxyz"), rng.integers(0, 4))) for _ in range(ROWS)],
            "more": 1,
        }
    )


@pytest.fixture
def path(tmp_path):
    log().to_csv(tmp_path / "log.csv", index=False)
    return str(tmp_path / "log.csv")


def test_columns_are_counted_as_pandas_counts_them(path):
    frame = log()
    found = preview(from_dict(SCHEMA), path, rows=1000)
    assert (found.rows, found.clicks, found.others) == (ROWS, frame.click.sum(), ("more",))
    label, price, site, genres = found.columns
    assert (label.reading, label.missing, label.example) == ("label", None, str(frame.click[0]))
    assert (price.missing, price.distinct) == (frame.price.isna().mean(), frame.price.nunique())
    assert (site.missing, site.distinct) == (frame.site.isna().mean(), 3)
    assert site.reading == "tokens, 5 buckets as place"
    assert (genres.missing, genres.distinct) == ((frame.genres == "").mean(), 6)
    assert genres.reading == "bag, split at '|'"
    assert found.parts == (200, 100, 100)
    assert "train on the first 50.0%, test on the next 25.0%, validate on the last 25.0%" in found.split


def test_of_a_part_of_the_rows_the_split_is_not_counted(path):
    found = preview(from_dict(SCHEMA), path, rows=300)
    assert (found.rows, found.clicks, found.parts) == (300, log().click[:300].sum(), None)


def test_a_split_by_time_is_counted(tmp_path):
    path = tmp_path / "log.csv"
    log().assign(ts=np.arange(ROWS)).to_csv(path, index=False)
    split = {"by": "time", "test_from": 310, "validation_from": 350}
    found = preview(from_dict({**SCHEMA, "time": {"column": "ts"}, "split": split}), str(path), rows=1000)
    assert found.parts == (310, 40, 50)
    assert "train before 310 of ts, test before 350" in found.split


def test_a_split_by_files_is_counted_and_needs_some_that_test(tmp_path):
    for name, rows in (("test", 30), ("train", 100), ("valid", 20)):
        criteo_rows(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    found = preview(schema_of("criteo_x4", None), str(tmp_path), rows=1000)
    assert found.parts == (100, 30, 20)
    assert "train on train.csv, test on test.csv, validate on valid.csv" in found.split
    (tmp_path / "test.csv").unlink()
    with pytest.raises(
        DataError, match=r"none of train\.csv, valid\.csv matches split\.test_files \['test\*'\]"
    ):
        preview(schema_of("criteo_x4", None), str(tmp_path), rows=10)


def test_rows_of_criteo_are_read_too(tmp_path):
    rows = criteo_rows(200)
    for day in range(2):
        rows[day * 100 : day * 100 + 100].to_csv(
            tmp_path / f"day_{day * 23}", sep="\t", index=False, header=False
        )
    found = preview(schema_of("criteo_1tb", None), str(tmp_path), rows=1000)
    assert [column.name for column in found.columns] == CRITEO
    assert [column.missing for column in found.columns[1:]] == list((rows[INTEGERS + TOKENS] == "").mean())
    assert [column.distinct for column in found.columns[1:]] == [
        rows[name][rows[name] != ""].nunique() for name in INTEGERS + TOKENS
    ]
    assert found.parts == (100, 50, 50)


def test_what_training_refuses_is_refused(path, tmp_path):
    schema = from_dict({**SCHEMA, "label": {"column": "price"}})
    with pytest.raises(DataError, match=r"log\.csv, row \d+: column 'price' must be 0 or 1"):
        preview(schema, path, rows=100)
    with pytest.raises(DataError, match=r"log\.csv has no column 'clickd', .*Did you mean 'click"):
        preview(from_dict({**SCHEMA, "label": {"column": "clickd"}}), path, rows=100)
    log().assign(click=0).to_csv(path, index=False)
    with pytest.raises(DataError, match="must contain both labels, but 0 of its 200 samples are clicks"):
        preview(from_dict(SCHEMA), path, rows=1000)
