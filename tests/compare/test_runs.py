"""Test that the report reads what a final run wrote, and refuses changed files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dlrm_adahessian.compare.runs import Run
from dlrm_adahessian.compare.study import Study
from dlrm_adahessian.errors import CheckpointError


@pytest.fixture
def final(models: Study, tmp_path: Path) -> Run:
    (run, *_) = models.contenders[0].finals
    return replace(run, folder=shutil.copytree(run.folder, tmp_path / "run"))


def read_again(run: Run, study: Study) -> Run:
    return run.as_final(study.data, "val")


def test_the_curve_is_that_of_the_validations_in_metrics_jsonl(models: Study, final: Run) -> None:
    lines = [json.loads(line) for line in (final.folder / "metrics.jsonl").read_text().splitlines()]
    validated = [line for line in lines if "val" in line]
    assert len(validated) > 1
    found = read_again(final, models)
    assert [(point.samples, point.seconds, point.logloss) for point in found.curve] == [
        (128 * line["step"], line["timing"]["seconds"], line["val"]["logloss"]) for line in validated
    ]
    assert found.curvature is not None
    assert found.curvature.curvature == json.loads((final.folder / "curvature.json").read_text())["curvature"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "test.f32", "summary.json", "curvature.json"])
def test_a_final_run_that_changed_while_others_trained_is_refused(
    models: Study, final: Run, name: str
) -> None:
    with (final.folder / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(
        CheckpointError, match=f"{name} changed since it was written\\. Run the same command again"
    ):
        read_again(final, models)
    (final.folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing. Run the same command again"):
        read_again(final, models)
