"""A run folder of somebody else is refused with what is wrong in it."""

import json
from pathlib import Path

import pytest
import torch

from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import CheckpointError
from dlrm_adahessian.evaluation.trained_model import open_trained


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
    with pytest.raises(CheckpointError, match=r"prepared of \S*config.json must be .*, found .*; restore"):
        open_trained(tmp_path, torch.device("cpu"), best=False)
