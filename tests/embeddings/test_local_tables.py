"""All lookup paths of one rank sum the same rows, and an update applies the derivatives of the last lookup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.embeddings import local_tables
from dlrm_adahessian.embeddings.local_tables import RowTables
from dlrm_adahessian.kernels.compiled import triton_kernel
from dlrm_adahessian.kernels.row_sums import Hits, sum_hits_torch
from dlrm_adahessian.optim.base import RowRule
from dlrm_adahessian.optim.rows.adagrad import RowAdagradConfig
from dlrm_adahessian.optim.rows.sgd import RowSGDConfig
from tests import oracles
from tests.devices import needs_triton
from tests.oracles import (
    plain_logits,
    pooled_of,
    small_batch,
    small_config,
    small_head,
)

if TYPE_CHECKING:
    import triton.language as tl

BATCH, FEATURES, DIM = 3, 2, 4


def new_tables() -> RowTables:
    """Return two tables, each read by one feature."""
    tables = RowTables(
        [5, 3],
        DIM,
        [0, 1],
        rule=RowAdagradConfig().build(),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    tables.weight.normal_(generator=torch.Generator().manual_seed(1))
    return tables


def one_hot() -> tuple[Tensor, Tensor]:
    return torch.tensor([4, 0, 4, 2, 2, 1]), torch.arange(BATCH * FEATURES + 1)


def test_one_row_a_bag_is_looked_up_as_bags_of_any_size_are(monkeypatch: pytest.MonkeyPatch):
    indices, offsets = one_hot()
    fast, general = new_tables(), new_tables()
    found = fast(indices, offsets)
    monkeypatch.setattr(local_tables, "_is_one_hot", lambda *_: False)
    assert torch.equal(general(indices, offsets), found)
    first, second = fast.split_embedding_weights()
    assert torch.equal(found[0], torch.cat([first[4], second[2]]))
    for tables in (fast, general):
        tables.apply_(torch.ones(BATCH * FEATURES, DIM), None, sampled=None, lr_scale=1.0, samples=BATCH)
    assert torch.equal(fast.weight, general.weight)
    untouched = [1, 2, 3, 5]
    assert torch.equal(fast.weight[untouched], new_tables().weight[untouched])
    assert not torch.equal(fast.weight, new_tables().weight)


def test_an_update_without_a_lookup_is_refused():
    tables = new_tables()
    with torch.no_grad():
        tables(*one_hot())
    with pytest.raises(RuntimeError, match="No lookup to update"):
        tables.apply_(torch.ones(BATCH * FEATURES, DIM), None, sampled=None, lr_scale=1.0, samples=BATCH)


class Recording(RowRule):
    """Record the hits that reach a rule, without updating."""

    cfg = RowSGDConfig()

    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return buffers for the derivatives of each row, and for its lookups."""
        return {
            "grad": torch.zeros_like(weight),
            "curvature": torch.zeros_like(weight),
            "count": weight.new_zeros(len(weight), dtype=torch.int32),
        }

    @property
    def direction_triton(self) -> Any:
        """Return the rule as a function that the GPU kernels inline."""
        return _recorded.compiled

    def update_torch_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: int
    ) -> None:
        """Record the hits."""
        assert hits.curvature is not None
        state["grad"][hits.rows] = hits.grad
        state["curvature"][hits.rows] = hits.curvature
        state["count"][hits.rows] = hits.count.int()

    update_numba_ = update_torch_


@triton_kernel
def _recorded(
    states, weight, row, entry, touched, here, grad, curvature, has_curvature, count, samples, cfg, width
):
    tl.store(states[0] + entry, grad, mask=here)
    tl.store(states[1] + entry, curvature, mask=here)
    tl.store(states[2] + row, count, mask=touched)
    return weight * 0


def long_bags(samples: int) -> list[list[list[int]]]:
    """Return 0 to 20 rows for each feature and sample, with repeats within and across bags."""
    rng = np.random.default_rng(6)
    lengths = rng.integers(21, size=(oracles.FEATURES, samples))
    lengths[:, 0], lengths[:, 1] = (0, 20, 1), 20
    return [
        [rng.integers(oracles.ROWS, size=length).tolist() for length in of_feature] for of_feature in lengths
    ]


@pytest.mark.oracle
@pytest.mark.parametrize("l2", [0.0, 0.25])
@pytest.mark.parametrize("kernel", ["numba", "torch", pytest.param("triton", marks=needs_triton)])
def test_what_reaches_a_rule_of_long_bags_are_the_derivatives_at_the_rows(
    kernel: str, l2: float, monkeypatch: pytest.MonkeyPatch
):
    """Compare with autograd and a brute-force Hessian with respect to the tables, penalty included."""
    head, (dense, weights, _, labels) = small_head(), small_batch()
    bags = long_bags(len(labels))
    hits = torch.tensor(
        [[[bag.count(row) for row in range(oracles.ROWS)] for bag in feature] for feature in bags]
    ).double()
    tables = RowTables(
        [oracles.ROWS] * oracles.FEATURES,
        oracles.WIDTH,
        list(range(oracles.FEATURES)),
        rule=Recording(),
        device=torch.device("cpu"),
        dtype=torch.float64,
    )
    tables.weight.copy_(weights.flatten(0, 1))
    tables._fused = kernel == "triton"
    if kernel == "torch":
        monkeypatch.setattr(
            local_tables,
            "sum_hits",
            lambda *args, sampled, **_: sum_hits_torch(*args, sampled=sampled),
        )
    lengths = torch.tensor([len(bag) for feature in bags for bag in feature])
    pooled = tables(
        torch.tensor([row for feature in bags for bag in feature for row in bag]),
        torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
    ).view(len(labels), oracles.FEATURES, oracles.WIDTH)
    torch.testing.assert_close(pooled, pooled_of(weights, hits), rtol=1e-13, atol=1e-13)
    found = ExactDiagonal()(head, dense, pooled, labels, curvature_samples=0)
    assert found.pooled_curvature is not None
    tables.apply_(
        found.pooled_grad.flatten(0, 1),
        found.pooled_curvature.flatten(0, 1),
        sampled=None,
        lr_scale=1.0,
        samples=len(labels),
        l2=l2,
    )
    looked_up = hits.sum(1).clamp(max=1).unsqueeze(2)

    def loss(at: Tensor) -> Tensor:
        values = dict(head.named_parameters())
        logits = plain_logits(values, small_config(), dense, pooled_of(at, hits))
        penalty = l2 / 2 * (looked_up * at).square().sum()
        return F.binary_cross_entropy_with_logits(logits, labels) + penalty

    hessian = torch.func.hessian(lambda flat: loss(flat.view_as(weights)))(weights.flatten())
    diagonal, gradient = hessian.diagonal().view_as(weights), torch.func.grad(loss)(weights)
    assert hits.max() >= 6, "ids repeat within a bag"
    assert diagonal.max() > 1e-3, "there is something to compare"
    torch.testing.assert_close(tables.state["grad"], gradient.flatten(0, 1), rtol=1e-10, atol=1e-15)
    torch.testing.assert_close(tables.state["curvature"], diagonal.flatten(0, 1), rtol=1e-10, atol=1e-17)
    assert tables.state["count"].tolist() == hits.sum(1).flatten().tolist()


@pytest.mark.parametrize("kernel", ["numba", pytest.param("triton", marks=needs_triton)])
def test_a_penalty_is_of_each_row_once_whatever_the_weights_and_the_samples_with_curvature(kernel: str):
    """Rows of samples with weight 0 do not change, and the curvature's sample fraction does not scale the penalty."""
    indices = torch.tensor([4, 0, 4, 2, 2, 1])  # only the last sample has row 1 of the second table
    found = []
    for l2 in (0.0, 0.25):
        tables = RowTables(
            [5, 3], DIM, [0, 1], rule=Recording(), device=torch.device("cpu"), dtype=torch.float64
        )
        tables.weight.copy_(torch.arange(8 * DIM).view(8, DIM))
        tables._fused = kernel == "triton"
        tables(indices, torch.arange(BATCH * FEATURES + 1))
        derivatives = torch.ones(BATCH * FEATURES, DIM, dtype=torch.float64)
        tables.apply_(
            derivatives,
            derivatives,
            sampled=torch.tensor([True, False, True]),
            lr_scale=1.0,
            samples=4,
            weights=torch.tensor([1.0, 3.0, 0.0]).double(),
            l2=l2,
        )
        found.append(
            {name: tensor.clone() for name, tensor in tables.state.items()} | {"weight": tables.weight}
        )
    plain, penalized = found
    touched = [0, 4, 7]  # two samples have row 4 of the first table: the first one, and one of weight 0
    expected = torch.zeros(8, DIM, dtype=torch.float64)
    expected[touched] = 0.25 * plain["weight"][touched]
    assert torch.equal(penalized["grad"] - plain["grad"], expected)
    expected[touched] = 0.25
    assert torch.equal(penalized["curvature"] - plain["curvature"], expected)
    assert torch.equal(penalized["count"], plain["count"])
