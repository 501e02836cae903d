"""Curvature and second-order optimizers for any PyTorch model. `p.curvature` follows the conventions of `p.grad`."""
