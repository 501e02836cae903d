"""Compare two ranks with half of the samples each with one rank, under DistributedDataParallel on gloo."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel

from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.library.eigenbasis import Eigenbasis
from dlrm_adahessian.library.exact import exact_curvature
from dlrm_adahessian.library.hutchinson import hutchinson_curvature
from dlrm_adahessian.library.optimizers import HessianAdagrad
from tests.library.models import SAMPLES, batch, mlp
from tests.processes import worlds

pytestmark = [pytest.mark.dist, pytest.mark.oracle]
STEPS, HALF = 4, SAMPLES // 2


def train(model, samples, *, in_basis=False) -> dict[str, torch.Tensor]:
    """Take four steps with curvature in every second one, the last in two parts. Return parameters and curvature."""
    if in_basis:
        # For inactive layers, rounding errors determine the basis. eps keeps their effect small.
        optimizer = Eigenbasis(model.parameters(), lr=0.1, eps=1e-3)
        curvature = exact_curvature(model, every=2, optimizer=optimizer)
    else:
        optimizer = HessianAdagrad(model.parameters(), lr=0.1)
        curvature = exact_curvature(model, every=2)
    for step in range(STEPS):
        x, y = batch(step)
        optimizer.zero_grad()
        with curvature:
            for part in samples.chunk(2 if step == 2 else 1):
                loss = F.binary_cross_entropy_with_logits(model(x[part]).squeeze(1), y[part])
                (loss * len(part) / len(samples)).backward()
        if step == 2:
            found = {f"curvature {i}": p.curvature.clone() for i, p in enumerate(model.parameters())}
            found["samples"] = next(model.parameters()).curvature_samples.clone()
            if in_basis:
                found["factors"] = next(model.parameters()).curvature_factors.clone()
        optimizer.step()
    return found | {f"{i}": p.detach().clone() for i, p in enumerate(model.parameters())}


def on_rank(folder: Path) -> None:
    with init_process_group():
        rank = ranks.rank()
        samples = torch.arange(rank * HALF, (rank + 1) * HALF)
        for in_basis in (False, True):
            model = DistributedDataParallel(mlp())
            save_file(train(model, samples, in_basis=in_basis), folder / f"{in_basis} {rank}")
        with pytest.raises(ValueError, match="DistributedDataParallel does not allow"):
            hutchinson_curvature(model)


def test_two_ranks_have_the_curvature_and_the_steps_of_one(tmp_path: Path) -> None:
    worlds.run(2, on_rank, tmp_path, log=tmp_path / "log")
    for in_basis in (False, True):
        expected = train(mlp(), torch.arange(SAMPLES), in_basis=in_basis)
        for rank in range(2):
            found = load_file(tmp_path / f"{in_basis} {rank}")
            for name, tensor in expected.items():
                torch.testing.assert_close(found[name], tensor, rtol=1e-12, atol=1e-15, msg=name)
