"""Compare cross layers with the formula, elementwise in NumPy."""

import numpy as np
import pytest

from tests.oracles import DENSE, FEATURES, WIDTH, pooled_of, small_batch, small_head

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("rank", [None, 2])
def test_two_crosses_by_the_formula(rank):
    head = small_head(name="dcnv2", crosses=2, rank=rank, deep=())  # the logit is linear in the last x
    dense, tables, hits, _ = small_batch()
    pooled = pooled_of(tables, hits)
    values = {name: p.detach().numpy() for name, p in head.named_parameters()}
    width = DENSE + FEATURES * WIDTH
    found = head(dense, pooled).detach().numpy()
    for n in range(len(dense)):
        x0 = np.concatenate([dense[n].numpy(), *pooled[n].numpy()])
        x = x0
        for cross in range(2):
            weight = values[f"crosses.{cross}.0.weight"]
            bias = values[f"crosses.{cross}.{0 if rank is None else 1}.bias"]
            if rank is not None:
                weight = values[f"crosses.{cross}.1.weight"] @ weight  # U V^T
            assert weight.shape == (width, width)
            x = np.array([x0[i] * (weight[i] @ x + bias[i]) + x[i] for i in range(width)])
        expected = values["last.weight"][0] @ x + values["last.bias"][0]
        assert found[n] == pytest.approx(expected, rel=1e-12)
