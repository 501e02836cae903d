"""Compare the factorization machine with hand-computed values and a double loop."""

import pytest
import torch

from dlrm_adahessian.model.deepfm import factorization_machine

pytestmark = pytest.mark.oracle


def test_two_features_by_hand():
    pooled = torch.tensor([[[1.0, 2.0, 0.5], [3.0, -1.0, 0.25]]])
    # 1 * 3 + 2 * -1, plus the two linear weights.
    assert factorization_machine(pooled).tolist() == [1 + 0.75]


@pytest.mark.parametrize("features", [0, 1, 5])
def test_pairs_and_linear_weights_are_those_of_the_double_loop(features):
    pooled = torch.randn(4, features, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = []
    for sample in pooled.tolist():
        z = sum(vector[-1] for vector in sample)
        for f in range(features):
            for g in range(f):
                z += sum(sample[f][d] * sample[g][d] for d in range(2))
        expected.append(z)
    torch.testing.assert_close(
        factorization_machine(pooled), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )
