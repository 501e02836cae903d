"""Test that a comparison can be extended in its folder, and that another comparison is refused without writing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dlrm_adahessian.compare.config import CompareConfig
from dlrm_adahessian.compare.folder import claim, require_settings
from dlrm_adahessian.compare.study import run_study
from dlrm_adahessian.errors import CheckpointError, NoInputError, UsageError

ROWS = "a" * 16


@pytest.fixture
def asked(tmp_path: Path) -> CompareConfig:
    config = CompareConfig(optimizers="adagrad,adam", out=tmp_path)
    claim(config, ROWS, {})
    return config


@pytest.mark.parametrize("more", [
    {"seeds": 5}, {"trials": 8}, {"trials": 8, "refine": 2}, {"optimizers": "adagrad,hybrid"}, {"parallel": 2},
    {"device": "cpu"}, {"data_path": "copy.txt"},
])  # fmt: skip
def test_more_of_a_comparison_is_taken(asked: CompareConfig, more: dict[str, object]) -> None:
    claim(replace(asked, **more), ROWS, {})
    claim(asked, ROWS, {})


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"batch_size": 64, "epochs": 2}, "batch_size 256 -> 64, epochs 1 -> 2. Leave these flags out"),
        ({"seed": 4}, "seed 0 -> 4. Leave"),
        ({"select": "progressive"}, "select val -> progressive. Leave"),
    ],
)
def test_another_comparison_is_refused_with_what_differs(
    asked: CompareConfig, changed: dict[str, object], told: str
) -> None:
    before = (asked.out / "comparison.json").read_bytes()
    other = replace(asked, **changed)
    for refuse in (require_settings, lambda config: claim(config, ROWS, {})):
        with pytest.raises(
            UsageError, match=f"{asked.out} has a comparison with other settings or data: {told}"
        ):
            refuse(other)
    assert (asked.out / "comparison.json").read_bytes() == before


def test_other_rows_are_refused(asked: CompareConfig) -> None:
    require_settings(asked)
    with pytest.raises(UsageError, match="the settings are the same, but the data differs. Leave"):
        claim(asked, "b" * 16, {})


@pytest.mark.parametrize("content", ["[]", "{}", '{"batch_size": 256}'])
def test_a_description_that_lacks_keys_is_refused(asked: CompareConfig, content: str) -> None:
    (asked.out / "comparison.json").write_text(content)
    with pytest.raises(UsageError, match="epochs None -> 1"):
        claim(asked, ROWS, {})


def test_a_description_that_is_no_json_is_refused(asked: CompareConfig) -> None:
    (asked.out / "comparison.json").write_text("{")
    with pytest.raises(CheckpointError, match="comparison.json is not valid JSON. Restore it from a backup"):
        claim(asked, ROWS, {})


def test_a_study_leaves_the_folder_of_a_run_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        UsageError, match=f"{tmp_path} contains a training run .* cannot be used for a comparison"
    ):
        run_study(CompareConfig(dataset="synthetic", out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_study_that_fails_before_it_wrote_anything_leaves_no_folder(tmp_path: Path) -> None:
    config = CompareConfig(data_path=str(tmp_path / "nowhere.txt"), out=tmp_path / "study")
    with pytest.raises(NoInputError):
        run_study(config)
    assert not list(tmp_path.iterdir())


def test_an_earlier_comparison_stays_where_the_next_one_fails(asked: CompareConfig) -> None:
    before = (asked.out / "comparison.json").read_bytes()
    with pytest.raises(UsageError):
        run_study(replace(asked, seed=4))
    assert (asked.out / "comparison.json").read_bytes() == before


def test_what_is_written_says_what_was_asked(asked: CompareConfig) -> None:
    said = json.loads((asked.out / "comparison.json").read_text())
    assert (said["batch_size"], said["dataset"], said["prepared"]) == (256, "criteo", ROWS)
    assert not {"seeds", "optimizers", "out", "parallel"} & said.keys()
