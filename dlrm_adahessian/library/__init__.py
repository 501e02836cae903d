"""Curvature and its optimizers for any PyTorch model, in torch's conventions: `p.curvature` beside `p.grad`."""
