"""Schemas: what a file may contain, and what is refused."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.published import schema_of
from dlrm_adahessian.data.schema import Schema, from_dict
from dlrm_adahessian.errors import NoInputError, UsageError

FULL = """
format = "tsv"
header = ["y", "w", "day", "x", "x2", "t", "u", "b"]
label = { column = "y" }
weight = { column = "w" }
time = { column = "day" }

[[dense]]
column = "x"
transform = "standardize"

[[dense]]
column = "x2"
name = "length of"

[[tokens]]
column = "t"
min_count = 3

[[tokens]]
column = "u"
name = "day"
buckets = 100
characters = [6, 8]

[[bags]]
column = "b"
separator = "|"
max_length = 20

[split]
by = "time"
test_from = 2024-01-07
validation_from = 2024-01-07T12:00:00Z
"""


def minimal(**more: Any) -> dict[str, Any]:
    return {"label": {"column": "y"}, "tokens": [{"column": "t"}], **more}


ROWS: dict[str, Any] = {
    "label": {"column": "y"},
    "weight": {"column": "w"},
    "dense": [{"column": "x", "transform": "standardize"}],
    "tokens": [{"column": "t"}, {"column": "u", "buckets": 9}],
    "bags": [{"column": "b"}],
}


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "parquet"},
        {"format": "csv", "header": ["y", "w", "x", "t", "u", "b"]},
        {"format": "tsv", "bags": [{"column": "b", "separator": "|"}]},
        {"tokens": [{"column": "t", "min_count": 3}, {"column": "u"}]},
        {"split": {"train": 0.5}},
    ],
    ids=str,
)
def test_how_rows_are_written_split_and_placed_changes_no_row(changes: dict[str, Any]) -> None:
    assert from_dict(ROWS).reads_as(from_dict(ROWS | changes))
    assert from_dict(ROWS | changes).reads_as(from_dict(ROWS))


@pytest.mark.parametrize(
    "changes",
    [
        {"label": {"column": "z"}},
        {"weight": None},
        {"time": {"column": "k"}},
        {"dense": [{"column": "x"}]},
        {"dense": []},
        {"tokens": [{"column": "u"}, {"column": "t"}]},
        {"tokens": [{"column": "t", "characters": [0, 2]}, {"column": "u"}]},
        {"bags": [{"column": "b", "max_length": 2}]},
        {"format": "criteo"},
    ],
    ids=str,
)
def test_other_columns_transforms_and_tokens_are_other_rows(changes: dict[str, Any]) -> None:
    assert not from_dict(ROWS).reads_as(from_dict(ROWS | changes))


def test_a_file_with_everything(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(FULL.replace("length of", "length-of"))
    schema = schema_of("criteo", path)
    assert schema.dense_names == ("x", "length-of")
    assert schema.features == ("t", "day", "b")
    assert [column.column for column in schema.categorical] == ["t", "u", "b"]
    assert schema.standardized == [0]
    assert (schema.dense[1].transform, schema.tokens[1].characters) == ("log1p", (6, 8))
    assert (schema.bags[0].separator, schema.bags[0].max_length) == ("|", 20)
    assert schema.token_bits == 63
    assert (schema.split.test_from, schema.split.validation_from) == (
        "2024-01-07",
        "2024-01-07T12:00:00+00:00",
    )


def test_a_schema_comes_back_from_json(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(FULL.replace("length of", "length-of"))
    schema = schema_of("criteo", path)
    assert from_dict(json.loads(json.dumps(schema.asdict()))) == schema
    assert from_dict(from_dict(minimal()).asdict()) == from_dict(minimal())


def test_defaults() -> None:
    schema = from_dict(minimal())
    assert (schema.format, schema.header, schema.weight, schema.time, schema.dense, schema.bags) == (
        "csv", (), None, None, (), ()
    )  # fmt: skip
    assert schema.split.by == "order"
    assert from_dict(minimal(format="criteo")).token_bits == 32


def test_a_share_of_rows_without_a_click_is_kept_and_one_of_all_leaves_no_word() -> None:
    sampled = from_dict(minimal(label={"column": "y", "negative_rate": 0.1}))
    assert sampled.asdict()["label"] == {"column": "y", "negative_rate": 0.1}
    assert from_dict(json.loads(json.dumps(sampled.asdict()))) == sampled
    for label in ({"column": "y"}, {"column": "y", "negative_rate": 1}):
        assert from_dict(minimal(label=label)).asdict()["label"] == {"column": "y"}


def test_rows_of_criteo_may_lack_some_without_a_click(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('format = "criteo"\nlabel.negative_rate = 0.5\nsplit.train = 0.5\n')
    found = schema_of("criteo", path)
    assert (found.label.column, found.label.negative_rate, found.split.train) == ("label", 0.5, 0.5)
    assert found.dense == CRITEO.dense
    path.write_text('format = "criteo"\nlabel.column = "clicked"\n')
    with pytest.raises(
        UsageError, match=r"cannot define columns\. .* except \[split\] and negative_rate of \[label\]"
    ):
        schema_of("criteo", path)


@pytest.mark.parametrize("time", [20240107, 1.5, "2024-01-07", datetime(2024, 1, 7, tzinfo=UTC)])
def test_times_keep_their_kind(time: Any) -> None:
    split = {"by": "time", "test_from": time, "validation_from": time}
    found = from_dict(minimal(time={"column": "k"}, split=split)).split.test_from
    assert found == (time.isoformat() if isinstance(time, datetime) else time)
    assert type(found) is (str if isinstance(time, datetime) else type(time))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label": {"column": "y"}}, r"needs at least one feature\. Add \[\[dense\]\], \[\[tokens\]\] or"),
        ({"tokens": [{"column": "t"}]}, "label"),
        *(
            (minimal(label={"column": "y", "negative_rate": rate}), "label.negative_rate")
            for rate in (0, -0.1, 1.1, float("nan"), "some")
        ),
        (minimal(dense=[{"column": "t"}]), "Feature names must be unique, but t occurs twice. Rename one with `name`"),
        (minimal(bags=[{"column": "b", "name": "t"}]), "but t occurs twice"),
        (minimal(dense=[{"column": "a b"}]), "letters, digits, _ and -, got 'a b'. Give the column another `name`"),
        (minimal(dense=[{"column": "x", "name": "../x"}]), r"got '\.\./x'"),
        (minimal(dense=[{"column": "x", "transform": "log"}]), "transform"),
        (minimal(tokens=[{"column": "t", "buckets": 5, "min_count": 2}]), "t sets both buckets and min_count"),
        (minimal(tokens=[{"column": "t", "buckets": 0}]), "buckets"),
        (minimal(tokens=[{"column": "t", "buckets": 2**31 - 1}]), "buckets"),
        (minimal(tokens=[{"column": "t", "min_count": 0}]), "min_count"),
        (minimal(tokens=[{"column": "t", "characters": [8, 6]}]), r"must end after they begin, got \[8, 6\]"),
        (minimal(tokens=[{"column": "t", "characters": [2, 2]}]), r"must end after they begin, got \[2, 2\]"),
        (minimal(tokens=[{"column": "t", "characters": [-1, 2]}]), "characters"),
        (minimal(tokens=[{"column": "t", "separator": "|"}]), "separator"),
        (minimal(bags=[{"column": "b", "separator": ""}]), "separator"),
        (minimal(bags=[{"column": "b", "max_length": 0}]), "max_length"),
        (minimal(labels={"column": "y"}), "Did you mean 'label'"),
        (minimal(format="json"), "format"),
        (minimal(split={"by": "time", "test_from": 1, "validation_from": 2}), r"by time requires a time column\. Add"),
        (minimal(time={"column": "k"}, split={"by": "time", "test_from": 1}), r"test_from and validation_from\. Add"),
        (minimal(split={"by": "files"}), r"A split by files requires test_files\. Add them to \[split\]"),
        (minimal(split={"train": 0.8, "test": 0.2}), "add up to less than 1, got 0.8 and 0.2"),
        (minimal(split={"train": 1.0}), "train"),
        (minimal(split={"test": 0.0}), "test"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        from_dict(values)


def test_messages_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('label = { column = "y" }\n[[dense]]\ncolumns = "x"\n')
    with pytest.raises(UsageError, match=r"s\.toml: .*columns"):
        schema_of("criteo", path)
    path.write_text("label = ")
    with pytest.raises(UsageError, match="is not valid TOML"):
        schema_of("criteo", path)
    with pytest.raises(NoInputError, match=r"Cannot read .*no\.toml"):
        schema_of("criteo", tmp_path / "no.toml")


def test_names_may_be_of_any_language() -> None:
    schema: Schema = from_dict(minimal(dense=[{"column": "größe"}, {"column": "価格"}]))
    assert schema.dense_names == ("größe", "価格")
