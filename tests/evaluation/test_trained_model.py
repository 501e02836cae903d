"""Invalid run folders raise specific errors, and a run in training can be read at any time."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch

from dlrm_adahessian.checkpoint.reader import Checkpoint
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import CheckpointError
from dlrm_adahessian.evaluation.trained_model import open_trained
from dlrm_adahessian.train.state import TrainState
from tests.hostile import LARGE, forged


def test_memory_is_planned_as_in_training_for_bags_of_the_same_length(own: Path) -> None:
    run = own / "csv"
    with init_process_group():
        plan = open_trained(run, torch.device("cpu"), best=False).state.lookup.plan
    assert plan.asdict() == json.loads((run / "plan.json").read_text())


@pytest.mark.parametrize(
    "config",
    [{}, {"prepared": 3}, {"prepared": [{}]}, {"prepared": {}}, {"prepared": {"fingerprint": 3}}],
    ids=str,
)
def test_a_configuration_that_names_no_rows_is_refused(tmp_path: Path, config: dict[str, object]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"prepared in \S*config.json must be .*, found .*\. Restore"):
        open_trained(tmp_path, torch.device("cpu"), best=False)


def test_a_checkpoint_that_the_run_replaces_before_it_is_read_is_looked_for_again(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(own / "csv", tmp_path / "run")
    real, replaced = TrainState.restore_, []

    def restore_(state: TrainState, found: Checkpoint) -> None:
        if not replaced:
            newer = found.path.with_name(f"{found.path.name}-2")
            replaced.append(found.path.rename(newer))
            (newer.parent / "latest").write_text(f"{newer.name}\n")
        real(state, found)

    monkeypatch.setattr(TrainState, "restore_", restore_)
    with init_process_group():
        found = open_trained(run, torch.device("cpu"), best=False)
    assert found.checkpoint.path == replaced[0]


def test_a_checkpoint_that_cannot_be_restored_and_is_still_there_is_refused_at_once(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(state: TrainState, found: Checkpoint) -> None:
        raise CheckpointError(f"{found.path} does not fit")

    monkeypatch.setattr(TrainState, "restore_", refuse)
    with init_process_group(), pytest.raises(CheckpointError, match="does not fit"):
        open_trained(own / "csv", torch.device("cpu"), best=False)


@pytest.mark.parametrize(
    "model",
    [*LARGE.values(), {"name": "dcnv2", "crosses": 10**12}],
    ids=[*LARGE, "crosses"],
)
def test_sizes_that_the_files_do_not_have_are_refused_before_they_are_made(
    place: Path, tmp_path: Path, model: dict[str, object]
) -> None:
    run = forged(Path(shutil.copytree(place / "adagrad", tmp_path / "run")), model=model)
    began = time.process_time()
    with (
        init_process_group(),
        pytest.raises(CheckpointError, match="does not fit the model: the .* has .* numbers"),
    ):
        open_trained(run, torch.device("cpu"), best=False)
    assert time.process_time() - began < 1
