"""The library: curvature and optimizers for any PyTorch model."""
