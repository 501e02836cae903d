"""Small float64 models with batches and the diagonals of their Hessians from torch.autograd.functional."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call

SAMPLES, INPUTS = 12, 5


def mlp(activation=nn.ReLU, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(INPUTS, 6), activation(), nn.Linear(6, 4), activation(), nn.Linear(4, 1)
    ).double()


def batch(seed=1):
    """Return inputs (B, K) and hard labels (B,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES, INPUTS, generator=generator, dtype=torch.float64)
    return x, (torch.rand(SAMPLES, generator=generator) < 0.4).double()


def train(model, optimizer, steps, curvature, *, scheduler=None):
    """Train on one batch per step, seeded by the step's number in `steps`."""
    for step in steps:
        x, y = batch(step)
        dtype = next(model.parameters()).dtype
        optimizer.zero_grad()
        with curvature:
            F.binary_cross_entropy_with_logits(model(x.to(dtype)).squeeze(1), y.to(dtype)).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def hessian_diagonals(model, loss_of, *inputs):
    """Return the diagonals of the Hessian of `loss_of(model(*inputs))` by parameter name."""
    named = {name: p.detach() for name, p in model.named_parameters()}

    def diagonal(name):
        def loss(flat):
            values = {**named, name: flat.view_as(named[name])}
            return loss_of(functional_call(model, values, inputs))

        return hessian(loss, named[name].reshape(-1)).diagonal().view_as(named[name])

    return {name: diagonal(name) for name in named}
