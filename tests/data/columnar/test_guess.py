"""Guess the roles of columns in logs with known columns, and check that the output is a schema."""

import numpy as np
import pandas as pd
import pytest

from dlrm_adahessian.data.columnar.guess import guess_roles, schema_text
from dlrm_adahessian.data.columnar.own_file import profile_file
from dlrm_adahessian.data.published import schema_of
from dlrm_adahessian.errors import DataError
from tests.data.test_published import avazu_rows

ROWS = 2000


def log(**columns):
    """Return a log with a label, a useful feature, and the given columns."""
    rng = np.random.default_rng(0)
    return pd.DataFrame({"label": rng.integers(0, 2, ROWS), "site": rng.choice(["a", "b"], ROWS), **columns})


def guessed(frame, folder, *, text=False):
    """Return the roles by column, and the schema text."""
    path = folder / "log"
    frame.to_csv(path, index=False) if text else frame.to_parquet(path)
    found = profile_file(path, rows=10**6)
    guesses = guess_roles(found.columns)
    (folder / "schema.toml").write_text(schema_text(found, guesses))
    return {guess.column.name: guess.role for guess in guesses}, schema_of("criteo", folder / "schema.toml")


RNG = np.random.default_rng(1)
CASES = {
    "price": (np.round(RNG.lognormal(size=ROWS), 4), "dense"),
    "clicks_before": (RNG.integers(0, 5000, ROWS), "dense"),
    "hour of day": (RNG.integers(0, 24, ROWS), "tokens"),
    "user_id": (RNG.integers(0, 500, ROWS), "tokens"),
    "itemId": (RNG.integers(0, 500, ROWS), "tokens"),
    "C14": (RNG.integers(0, 500, ROWS), "tokens"),
    "address": (RNG.choice(RNG.integers(2**60, 2**62, 500), ROWS), "tokens"),
    "country": (RNG.choice(["fr", "de", "in"], ROWS), "tokens"),
    "genres": (["a|b", "c|d|a"] * (ROWS // 2), "bags"),
    "session": ([f"s{n}" for n in range(ROWS)], "left out"),
    "version": (["3"] * ROWS, "left out"),
    "empty": ([None] * ROWS, "left out"),
    "when": (pd.Timestamp("2024-01-01") + pd.to_timedelta(RNG.permutation(ROWS), "s"), "left out"),
}


@pytest.mark.parametrize("text", [False, True])
def test_columns_are_what_their_values_and_names_say(text, tmp_path):
    frame = log(**{name: values for name, (values, _) in CASES.items()})
    roles, schema = guessed(frame, tmp_path, text=text)
    assert {name: roles[name] for name in CASES} == {name: role for name, (_, role) in CASES.items()}
    assert schema.label.column == "label"
    named = next(column for column in schema.tokens if column.column == "hour of day")
    assert named.feature == "hour_of_day"
    assert schema.bags[0].separator == "|"
    assert schema.bags[0].max_length == 3
    written = (tmp_path / "schema.toml").read_text()
    assert "when: " in written
    assert "sort the rows by it" in written
    assert "no value repeats" in written


def test_lists_are_bags(tmp_path):
    roles, schema = guessed(log(history=[[1, 2, 3, 4], [5]] * (ROWS // 2)), tmp_path)
    assert roles["history"] == "bags"
    assert (schema.bags[0].separator, schema.bags[0].max_length) == (None, 4)


@pytest.mark.parametrize("name", ["label", "Click", "clicked", "target", "y", "anything"])
def test_the_label_is_called_so_or_the_first_column_of_0_and_1(name, tmp_path):
    binary = np.arange(ROWS) % 2
    frame = pd.DataFrame({"site": ["a", "b"] * (ROWS // 2), "n": np.arange(ROWS) % 3})
    later = (
        frame.assign(other=binary, **{name: binary}) if name != "anything" else frame.assign(anything=binary)
    )
    assert guessed(later, tmp_path)[1].label.column == name
    with pytest.raises(DataError, match="none of the columns site, n contains only 0 and 1"):
        guessed(frame, tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "time"),
    [
        ("ts", np.arange(ROWS) // 2, True),
        ("event_time", np.arange(ROWS) // 2, True),
        ("at", pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(ROWS), "s"), True),
        ("ts", np.arange(ROWS)[::-1] // 2, False),
        ("count", np.arange(ROWS) // 2, False),
    ],
)
def test_the_time_rises_and_is_a_time_or_called_one(name, values, time, tmp_path):
    roles, schema = guessed(log(**{name: values}), tmp_path)
    assert (roles[name] == "time") == time == (schema.time is not None)


def test_a_weight_is_called_so_and_not_negative(tmp_path):
    assert guessed(log(weight=RNG.random(ROWS)), tmp_path)[0]["weight"] == "weight"
    assert guessed(log(weight=RNG.normal(size=ROWS)), tmp_path)[0]["weight"] == "dense"


def test_numbers_below_0_are_not_taken_by_their_logarithm(tmp_path):
    schema = guessed(log(a=RNG.normal(size=ROWS), b=RNG.random(ROWS)), tmp_path)[1]
    assert [column.transform for column in schema.dense] == ["standardize", "log1p"]


def test_names_that_no_feature_can_have_are_replaced_by_different_ones(tmp_path):
    odd = ['a "b"', "a b", "a_b_", "é\x7f\n", "[x]"]
    schema = guessed(log(**dict.fromkeys(odd, RNG.choice(["x", "y"], ROWS))), tmp_path)[1]
    assert [column.column for column in schema.tokens] == ["site", *odd]
    assert len(set(schema.features)) == 6


def test_a_log_of_one_value_has_nothing_to_learn_from(tmp_path):
    with pytest.raises(DataError, match="No column of the file can be a feature"):
        guessed(log()[["label"]].assign(one=1), tmp_path)


def test_avazus_columns_are_those_of_its_schema(tmp_path):
    published = schema_of("avazu", None)
    roles, schema = guessed(avazu_rows(ROWS), tmp_path, text=True)
    assert (schema.label, schema.time) == (published.label, published.time)
    assert roles["id"] == "left out"
    assert schema.features == published.features[1:], "all but the hour of the day"
