import numpy as np
import pytest
import torch

from dlrm_adahessian.optim.dense import ScheduleFreeConfig
from tests.optim.dense.problem import SAMPLES, STEPS

pytestmark = pytest.mark.oracle
SIZE = 11


def test_schedule_free_equals_the_package_at_both_points_with_a_warm_up():
    package = pytest.importorskip("pytorch_optimizer", reason="needs the extra rivals")
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=SIZE), rng.normal(size=(STEPS, SIZE))
    ours = torch.from_numpy(start.copy())
    optimizer = ScheduleFreeConfig(lr=0.1, beta1=0.95, weight_decay=0.02).build(ours, [(SIZE,)])
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    reference = package.ScheduleFreeAdamW(
        [theirs], lr=0.1, betas=(0.95, 0.999), weight_decay=0.02, warmup_steps=5
    )
    for number, grad in enumerate(grads, 1):
        theirs.grad = torch.from_numpy(grad.copy())
        reference.step()
        optimizer.step(ours, torch.from_numpy(grad), None, lr_scale=min(1.0, number / 5), samples=SAMPLES)
        np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=1e-12)
    reference.eval()
    np.testing.assert_allclose(optimizer.served(ours).numpy(), theirs.detach().numpy(), rtol=1e-10)


def test_schedule_free_serves_the_mean_of_its_steps_at_a_constant_rate():
    """Its steps are AdamW's without momentum. After T steps it serves the plain mean of all T points."""
    rng = np.random.default_rng(1)
    w = torch.from_numpy(rng.normal(size=SIZE))
    optimizer = ScheduleFreeConfig(lr=0.1).build(w, [(SIZE,)])
    steps = []
    for _ in range(STEPS):
        optimizer.step(w, torch.from_numpy(rng.normal(size=SIZE)), None, lr_scale=1.0, samples=SAMPLES)
        steps.append(optimizer.state["newest"].numpy().copy())
    np.testing.assert_allclose(optimizer.served(w).numpy(), np.mean(steps, axis=0), rtol=1e-12)
