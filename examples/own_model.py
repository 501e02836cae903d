"""Use the exact Hessian diagonal in your own model and optimizer: damped diagonal Newton against gradient descent.

python examples/own_model.py

The estimator accepts any module with `forward(dense, pooled)` whose parameters belong to linear layers. At the first call it
checks that its result is the Hessian diagonal, and refuses the module if not. `pooled` are further inputs that need
derivatives. This example has none.
"""

import torch
from torch import Tensor, nn

from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.model.dlrm import flatten_parameters_

SAMPLES, INPUTS, STEPS = 2_000, 10, 60


class Perceptron(nn.Module):
    """Two layers. Input scales differ by a factor of 1,000, as in raw features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(INPUTS, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        """Return logits (B,); `pooled` (B, 0, 1) is empty."""
        return self.layers(torch.cat([dense, pooled.flatten(1)], 1)).squeeze(1)


def train(lr: float, *, newton: bool) -> float:
    """Return the mean loss after the last step."""
    torch.manual_seed(0)
    dense = torch.randn(SAMPLES, INPUTS) * torch.logspace(-1.5, 1.5, INPUTS)
    labels = (torch.rand(SAMPLES) < torch.sigmoid((dense / dense.std(0)).sum(1))).float()
    model, pooled = Perceptron(), torch.zeros(SAMPLES, 0, 1)
    parameters, derivatives = flatten_parameters_(model), ExactDiagonal(pooled="none")
    for _ in range(STEPS):
        found = derivatives(model, dense, pooled, labels, curvature_samples=SAMPLES if newton else 0)
        step = found.grad / (found.curvature + 1e-3) if newton else found.grad
        parameters.sub_(lr * step)
    return float(derivatives(model, dense, pooled, labels, curvature_samples=0).loss)


def main() -> None:
    """Try the same learning rates for both, and print the best of each."""
    for name, newton in (("gradient descent", False), ("diagonal Newton", True)):
        losses = {lr: train(lr, newton=newton) for lr in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)}
        lr = min(losses, key=losses.__getitem__)
        print(f"{name:<18} log loss {losses[lr]:.4f} with learning rate {lr}")


if __name__ == "__main__":
    main()
