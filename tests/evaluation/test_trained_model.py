"""A run folder of somebody else is refused with what is wrong in it."""

import json
from pathlib import Path

import pytest
import torch

from dlrm_adahessian.errors import CheckpointError
from dlrm_adahessian.evaluation.trained_model import open_trained


@pytest.mark.parametrize(
    "config",
    [{}, {"prepared": 3}, {"prepared": [{}]}, {"prepared": {}}, {"prepared": {"fingerprint": 3}}],
    ids=str,
)
def test_a_configuration_that_names_no_rows_is_refused(tmp_path: Path, config: dict[str, object]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"prepared of \S*config.json must be .*, found .*; restore"):
        open_trained(tmp_path, torch.device("cpu"), best=False)
