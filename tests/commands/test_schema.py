"""Test `schema infer` and `schema check` on a small file."""

import pandas as pd
import pytest

from dlrm_adahessian.cli import main

ROWS = 200
WRITTEN = """\
# Guessed from the first 200 rows of clicks.parquet. Correct what is wrong; docs/own-data.md has all keys.
format = "parquet"

# click: int64, 2 distinct, 0.0% missing, e.g. 0
[label]
column = "click"
# negative_rate = 0.1  # if the log keeps only this share of the rows without a click

# price: double, 199 distinct, 0.5% missing, e.g. 0.5
[[dense]]
column = "price"

# the site: string, 2 distinct, 0.0% missing, e.g. a
[[tokens]]
column = "the site"
name = "the_site"

# genres: list<element: string>, 2 distinct, 50.0% missing, e.g. ['x', 'y']
[[bags]]
column = "genres"
max_length = 2

# The split follows the order of the file. No column shows whether that is time order.
[split]
by = "order"
train = 0.8
test = 0.1

# Left out:
# id: int64, 200 distinct, 0.0% missing, e.g. 0: no value repeats
"""
READ = """\
All 200 samples, 50.00% clicks:

column    read as             type                   missing  distinct  example
click     label               int64                                     0
price     dense, log1p        double                    0.5%       199  0.5
the site  tokens as the_site  string                    0.0%         2  a
genres    bag, first 2        list<element: string>    50.0%         2  ['x', 'y']

not read: id
split by order: train on the first 80.0%, test on the next 10.0%, validate on the last 10.0%
samples in these parts: 160, 20, 20
"""


@pytest.fixture
def path(tmp_path):
    frame = pd.DataFrame(
        {
            "id": range(ROWS),
            "click": [0, 1] * (ROWS // 2),
            "price": [None if n == 1 else n + 0.5 for n in range(ROWS)],
            "the site": ["a", "a", "b", "a"] * (ROWS // 4),
            "genres": [["x", "y"], []] * (ROWS // 2),
        }
    )
    frame["the site"] = frame["the site"].astype(object)
    frame.to_parquet(tmp_path / "clicks.parquet")
    return tmp_path / "clicks.parquet"


def test_a_schema_is_written_once_and_says_what_is_read(path, tmp_path, capsys):
    out = tmp_path / "schema.toml"
    assert main(["schema", "infer", str(path), "--out", str(out)]) == 0
    assert out.read_text() == WRITTEN
    assert main(["schema", "infer", str(path)]) == 0
    assert capsys.readouterr().out == WRITTEN
    assert main(["schema", "infer", str(path), "--out", str(out)]) == 64
    assert "File already exists: " in capsys.readouterr().err
    assert main(["schema", "check", "--schema", str(out), "--data-path", str(path)]) == 0
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == READ.splitlines()


def test_as_many_rows_as_are_asked_for(path, tmp_path, capsys):
    assert main(["schema", "infer", str(path), "--rows", "150"]) == 0
    assert "the first 150 rows" in capsys.readouterr().out
    (tmp_path / "schema.toml").write_text(WRITTEN)
    flags = ["--schema", str(tmp_path / "schema.toml"), "--data-path", str(path)]
    assert main(["schema", "check", *flags, "--rows", "120"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("The first 120 samples, 50.00% clicks:")
    assert "samples in these parts" not in printed


def test_the_share_of_rows_without_a_click_is_shown(path, tmp_path, capsys):
    (tmp_path / "schema.toml").write_text(WRITTEN.replace("# negative_rate", "negative_rate"))
    assert main(["schema", "check", "--schema", str(tmp_path / "schema.toml"), "--data-path", str(path)]) == 0
    assert "click     label, negative_rate 0.1  int64 " in capsys.readouterr().out


@pytest.mark.parametrize("action", ["infer", "check"])
def test_each_has_help(action, capsys):
    assert main(["schema", action, "--help"]) == 0
    assert "--rows" in capsys.readouterr().out
    assert main(["schema", action]) == 64


def test_help_names_both_actions(capsys):
    assert main(["schema", "--help"]) == 0
    printed = capsys.readouterr().out
    assert all(action in printed for action in ("infer", "check"))


def test_rows_that_are_not_there_are_told(path, tmp_path, capsys):
    (tmp_path / "schema.toml").write_text(WRITTEN)
    flags = ["--schema", str(tmp_path / "schema.toml"), "--data-path", "nowhere"]
    assert main(["schema", "check", *flags]) == 66
    assert main(["schema", "infer", "nowhere"]) == 66
    assert main(["schema", "check", *flags[:-1], "-"]) == 64
    assert "reads the data twice, but - is a pipe. Pass a file or a folder." in capsys.readouterr().err
