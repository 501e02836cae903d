"""A small run on generated data, and its exports. All tests share them, because an export takes seconds."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch

from dlrm_adahessian.config import from_dict
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.evaluation.calibration.maps import IsotonicMap, PlattMap
from dlrm_adahessian.evaluation.trained_model import TrainedModel, open_trained
from dlrm_adahessian.presets import optimizer_preset
from dlrm_adahessian.runtime.settings import merged
from dlrm_adahessian.serving import export as exporting
from dlrm_adahessian.serving.export import head_program, write_folder
from dlrm_adahessian.serving.parity import compared
from dlrm_adahessian.train.with_baseline import run_job


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    values = {
        "dataset": "synthetic",
        "optimizer": "hybrid",
        "baseline": "none",
        "rows": 3_000,
        "batch_size": 128,
        "model": {"embedding_dim": 4, "bottom": [8], "top": [8, 6], "self_interaction": False},
        "data": {"cache_dir": str(folder / "cache"), "min_count": 2},
        "out": str(folder / "run"),
    }
    run_job(from_dict(merged(optimizer_preset("hybrid"), values)))
    return folder / "run"


@pytest.fixture(scope="session")
def trained(run) -> TrainedModel:
    with init_process_group():
        found = open_trained(run, torch.device("cpu"), best=False)
    # Embedding rows of all magnitudes, and one of equal entries.
    generator = torch.Generator().manual_seed(1)
    for rows in found.state.lookup.tables().values():
        rows.mul_(torch.rand(len(rows), 1, generator=generator)).add_(0.01)
        rows[-1] = 0.1
    return found


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory):
    """Return folder and figures of an export for each storage type."""
    folder = tmp_path_factory.mktemp("exported")
    # The head is the same in all exports, and takes longest.
    program = cache(lambda head, **sizes: head_program(head, **sizes))
    with init_process_group(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "head_program", program)
        found = {"fp32": (folder / "fp32", write_folder(trained, folder / "fp32", "fp32"))}
        patch.setattr(
            exporting, "compared", partial(compared, rows=20_000)
        )  # one comparison of all samples is enough
        for kind in ("bf16", "int8"):
            found[kind] = folder / kind, write_folder(trained, folder / kind, kind)
    return found


MAPS = {
    "platt": PlattMap(slope=1.7, intercept=-0.9),
    "isotonic": IsotonicMap(thresholds=[-3.0, -1.5, 0.25, 2.0], values=[-4.0, -1.5, -1.5, 1.0]),
}


@pytest.fixture(scope="session", params=MAPS)
def calibrated(request, trained, exported, tmp_path_factory):
    """Return the same model with a calibration, and its folder."""
    folder = tmp_path_factory.mktemp("calibrated") / "folder"
    model = replace(trained, calibration=MAPS[request.param])
    with init_process_group(), pytest.MonkeyPatch.context() as patch:
        program = (exported["fp32"][0] / "head.pt2").read_bytes()
        patch.setattr(exporting, "head_program", lambda head, **sizes: program)
        patch.setattr(exporting, "compared", partial(compared, rows=20_000))
        figures = write_folder(model, folder, "fp32")
    return model, folder, figures


@pytest.fixture(scope="session")
def exact(exported) -> Path:
    """Return the folder with unrounded rows. Tests copy it before they change it."""
    return exported["fp32"][0]
