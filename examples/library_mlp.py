"""Train your own MLP with Adam, and with AdaHessian and exact curvature.

python examples/library_mlp.py

Input scales differ by a factor of 1,000, as in raw features. With power 1, AdaHessian divides by the curvature like
Newton's method, so input scales do not matter.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dlrm_adahessian import AdaHessian, exact_curvature

SAMPLES, INPUTS, BATCH, EPOCHS = 4_000, 10, 200, 3


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 inputs (SAMPLES, INPUTS) and labels (SAMPLES,)."""
    torch.manual_seed(0)
    x = torch.randn(SAMPLES, INPUTS)
    labels = torch.bernoulli((x.sum(1) + x[:, 0] * x[:, 1]).sigmoid())
    return x * torch.logspace(-1.5, 1.5, INPUTS), labels


def train(lr: float, *, second_order: bool) -> float:
    """Return the mean loss over all samples after the last step."""
    x, y = data()
    model = nn.Sequential(nn.Linear(INPUTS, 32), nn.ReLU(), nn.Linear(32, 1))
    if second_order:
        optimizer: torch.optim.Optimizer = AdaHessian(model.parameters(), lr=lr, eps=1e-3, power=1)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    curvature = exact_curvature(model)
    for _ in range(EPOCHS):
        for inputs, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
            optimizer.zero_grad()
            with curvature:
                F.binary_cross_entropy_with_logits(model(inputs).squeeze(1), labels).backward()
            optimizer.step()
    with torch.no_grad():
        return float(F.binary_cross_entropy_with_logits(model(x).squeeze(1), y))


def main() -> None:
    """Try the same learning rates for both, and print the best of each."""
    for name, second_order in (("Adam", False), ("AdaHessian", True)):
        losses = {lr: train(lr, second_order=second_order) for lr in (0.01, 0.03, 0.1, 0.3, 1.0)}
        lr = min(losses, key=losses.__getitem__)
        print(f"{name:<10} log loss {losses[lr]:.4f} with learning rate {lr}")


if __name__ == "__main__":
    main()
