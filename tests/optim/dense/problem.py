"""Steps of our dense optimizers and of torch's optimizers on the same random derivatives."""

import math

import numpy as np
import torch

SHAPES, SAMPLES, STEPS = [(2, 3), (5,)], 8, 20
SIZE = 11
DEEP = [(4, 3), (4,), (5, 4), (5,), (2, 5), (2,), (6, 2), (1, 6), (1,)]


def run(cfg, *, every=1, grads=None, curvatures=None, shapes=SHAPES):
    rng = np.random.default_rng(0)
    w = torch.from_numpy(rng.normal(size=sum(map(math.prod, shapes))))
    optimizer = cfg.build(w, shapes)
    grads = grads if grads is not None else rng.normal(size=(STEPS, len(w)))
    curvatures = curvatures if curvatures is not None else rng.normal(size=(STEPS, len(w)))
    start = w.numpy().copy()
    for step in range(STEPS):
        curvature = torch.from_numpy(curvatures[step].copy()) if step % every == 0 else None
        optimizer.step(w, torch.from_numpy(grads[step]), curvature, lr_scale=0.5, samples=SAMPLES)
    return start, grads, curvatures, w.numpy()


def parameters_of(w, shapes):
    parts = torch.from_numpy(w.copy()).split([math.prod(shape) for shape in shapes])
    return [torch.nn.Parameter(part.view(shape).clone()) for part, shape in zip(parts, shapes, strict=True)]


def steps_of(optimizers, parameters, grads):
    """Return the parameters (P,) after one step per gradient."""
    for grad in grads:
        parts = torch.from_numpy(grad).split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        for optimizer in optimizers:
            optimizer.step()
    return torch.cat([p.detach().reshape(-1) for p in parameters]).numpy()


def assert_equals_torchs(cfg, reference):
    """Compare twenty steps of our optimizer with those of the `torch.optim` optimizer that `reference` creates."""
    w, grads, _, found = run(cfg)
    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimizer = reference([parameter])
    for grad in grads:
        parameter.grad = torch.from_numpy(grad)
        optimizer.step()
    np.testing.assert_allclose(found, parameter.detach().numpy(), rtol=1e-12)
