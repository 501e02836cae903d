"""Compare the combined derivatives of three ranks, one of them without samples, with those of the whole batch."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dlrm_adahessian.curvature.base import Derivatives, all_finite, mean_square
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.dense_exchange import (
    distinct_over_ranks,
    gathered,
    over_ranks,
    total_over_ranks,
)
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.distributed.ranks import Share
from tests.processes import worlds

pytestmark = [pytest.mark.dist, pytest.mark.oracle]

SAMPLES, SIZE, CURVED = 5, 3, 4  # ranks with 3, 2, and 0 samples; the curvature covers the first 4
SEEN = ("loss", "logits", "grad", "curvature", "pooled_grad", "pooled_curvature")


def of_samples(first: int, last: int, curved: int) -> Derivatives:
    """Return derivatives of the mean loss over samples `first` to `last - 1`; a rank without samples has padding."""
    generator = torch.Generator().manual_seed(1)
    loss, logits = torch.randn(2, SAMPLES + 1, generator=generator, dtype=torch.float64)
    grads, diagonals = torch.randn(2, SAMPLES + 1, 7, generator=generator, dtype=torch.float64)
    pooled, pooled_diagonals = torch.randn(2, SAMPLES + 1, 2, 3, generator=generator, dtype=torch.float64)
    held = slice(first, last) if first < last else slice(SAMPLES, SAMPLES + 1)
    count = max(last - first, 1)
    whole = torch.zeros_like(pooled[held])
    whole[:curved] = pooled_diagonals[held][:curved] / count
    return Derivatives(
        loss=loss[held].mean(),
        logits=logits[held],
        grad=grads[held].mean(0),
        pooled_grad=pooled[held] / count,
        curvature=diagonals[held][:curved].mean(0) if curved else None,
        pooled_curvature=whole,
        pooled_samples=curved,
    )


def tensors_of(found: Derivatives) -> dict[str, Tensor]:
    return {name: getattr(found, name).contiguous() for name in SEEN}


def exchange(folder: Path) -> None:
    """Run the exchange on this rank, and save the result."""
    with init_process_group():
        rank = ranks.rank()
        share = Share(samples=SAMPLES, rank=rank, world_size=3, size=SIZE)
        local = of_samples(share.first, share.first + share.count, share.count_among(CURVED))
        found = over_ranks(local, share, curvature_samples=CURVED)
        assert found.pooled_samples == CURVED
        assert all_finite(found)
        squares = torch.stack([torch.full((7,), float(10 * k + rank + 1)) for k in range(2)]).double()
        drawn = local.curvature is not None
        sampled = Derivatives(
            loss=local.loss, logits=local.logits, grad=local.grad, pooled_grad=local.pooled_grad,
            curvature=local.grad if drawn else None, squares_of=squares,
        )  # fmt: skip
        of_squares = over_ranks(sampled, share, curvature_samples=CURVED).curvature
        assert of_squares is not None
        values = torch.arange(share.first, share.first + share.count).double()
        tensors = {"gathered": gathered(values, share), "of squares": of_squares}
        tensors["total"] = torch.tensor(total_over_ranks(10**rank))
        held = torch.tensor(([5, 0, 5], [0, 9, 2**41], [])[rank], dtype=torch.int64)
        tensors["distinct"] = torch.tensor(distinct_over_ranks(held))
        save_file({**tensors_of(found), **tensors}, folder / f"{rank}")


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    worlds.run(3, exchange, folder, log=folder / "log")
    return [load_file(folder / f"{rank}") for rank in range(3)]


def test_derivatives_are_those_of_the_mean_loss_over_the_whole_batch(of_ranks: list[dict[str, Tensor]]):
    expected = tensors_of(of_samples(0, SAMPLES, CURVED))
    for found in of_ranks:
        for name in ("loss", "logits", "grad", "curvature"):
            assert torch.equal(found[name], of_ranks[0][name]), "all ranks have the same bits"
            torch.testing.assert_close(found[name], expected[name], rtol=1e-14, atol=1e-14)
    for name in ("pooled_grad", "pooled_curvature"):
        # The row exchange takes the mean over ranks. Entries after the samples are padding.
        joined = torch.cat([found[name] for found in of_ranks]) / 3
        torch.testing.assert_close(joined[:SAMPLES], expected[name], rtol=1e-14, atol=1e-14)
        assert not joined[SAMPLES:].any()
        assert len(joined) == 3 * SIZE


def test_gradients_are_averaged_over_ranks_before_they_are_squared(of_ranks: list[dict[str, Tensor]]):
    # The first two ranks have 3 and 1 of the first 4 samples.
    mean = torch.tensor([(3 * (10 * k + 1) + (10 * k + 2)) / 4 for k in range(2)], dtype=torch.float64)
    expected = mean_square(mean.unsqueeze(1).expand(2, 7), CURVED)
    for found in of_ranks:
        torch.testing.assert_close(found["of squares"], expected, rtol=1e-14, atol=0)


def test_values_of_samples_are_gathered_in_order_and_numbers_added(of_ranks: list[dict[str, Tensor]]):
    for found in of_ranks:
        assert found["gathered"].tolist() == list(range(SAMPLES))
        assert int(found["total"]) == 111


def test_numbers_that_several_ranks_have_count_once(of_ranks: list[dict[str, Tensor]]):
    assert [int(found["distinct"]) for found in of_ranks] == [len({5, 0, 9, 2**41})] * 3
