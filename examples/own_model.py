"""The exact Hessian diagonal on a model and in an optimizer of one's own: damped diagonal Newton against gradient descent.

python examples/own_model.py

The estimator takes any module with `forward(dense, pooled)` whose parameters are those of linear layers. The first time
it sees one it measures whether its diagonal is the Hessian's, and refuses the module if not. `pooled` are whatever inputs
one wants derivatives at too. Here there are none.
"""

import torch
from torch import Tensor, nn

from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.model.dlrm import flatten_parameters_

ROWS, INPUTS, STEPS = 2_000, 10, 60


class Perceptron(nn.Module):
    """Two layers; the scales of its inputs differ by a thousand, as those of raw features do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(INPUTS, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        """Return logits (B,); `pooled` (B, 0, 1) is empty."""
        return self.layers(torch.cat([dense, pooled.flatten(1)], 1)).squeeze(1)


def train(lr: float, *, newton: bool) -> float:
    """Return the mean loss after the last step."""
    torch.manual_seed(0)
    dense = torch.randn(ROWS, INPUTS) * torch.logspace(-1.5, 1.5, INPUTS)
    labels = (torch.rand(ROWS) < torch.sigmoid((dense / dense.std(0)).sum(1))).float()
    model, pooled = Perceptron(), torch.zeros(ROWS, 0, 1)
    parameters, derivatives = flatten_parameters_(model), ExactDiagonal(pooled="none")
    for _ in range(STEPS):
        found = derivatives(model, dense, pooled, labels, curvature_samples=ROWS if newton else 0)
        step = found.grad / (found.curvature + 1e-3) if newton else found.grad
        parameters.sub_(lr * step)
    return float(derivatives(model, dense, pooled, labels, curvature_samples=0).loss)


def main() -> None:
    """Give both the best of the same learning rates."""
    for name, newton in (("gradient descent", False), ("diagonal Newton", True)):
        losses = {lr: train(lr, newton=newton) for lr in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)}
        lr = min(losses, key=losses.__getitem__)
        print(f"{name:<18} log loss {losses[lr]:.4f} with learning rate {lr}")


if __name__ == "__main__":
    main()
