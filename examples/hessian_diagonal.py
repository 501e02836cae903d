"""Compare the exact Hessian diagonal of a small DLRM with torch.func.hessian.

`ExactDiagonal` needs one backward pass. `torch.func.hessian` needs one for each parameter.

python examples/hessian_diagonal.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, hessian

from dlrm_adahessian.curvature.exact import ExactDiagonal

BATCH, DENSE, FEATURES, WIDTH = 16, 4, 3, 2


class SmallDLRM(nn.Module):
    """A bottom MLP, dot products with the pooled embeddings, and a top MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(DENSE, 6), nn.ReLU(), nn.Linear(6, WIDTH), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(WIDTH + FEATURES, 5), nn.ReLU(), nn.Linear(5, 1))

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        """Return logits (B,) of `dense` (B, K) and `pooled` (B, F, D)."""
        bottom = self.bottom(dense)
        products = torch.einsum("bd,bfd->bf", bottom, pooled)
        return self.top(torch.cat([bottom, products], 1)).squeeze(1)


def main() -> None:
    """Print the largest curvature, and the largest difference between the two."""
    torch.manual_seed(0)
    head = SmallDLRM().double()
    dense, pooled = torch.rand(BATCH, DENSE).double(), torch.randn(BATCH, FEATURES, WIDTH).double()
    labels = (torch.rand(BATCH) < 0.3).double()

    found = ExactDiagonal()(head, dense, pooled, labels, curvature_samples=BATCH).curvature

    parameters = dict(head.named_parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in parameters.values()])

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([p.numel() for p in parameters.values()])
        named = {name: part.view_as(parameters[name]) for name, part in zip(parameters, parts, strict=True)}
        return F.binary_cross_entropy_with_logits(functional_call(head, named, (dense, pooled)), labels)

    expected = hessian(loss)(flat).diagonal()
    print(f"{len(flat)} parameters, largest curvature {expected.max():.2e}")
    print(f"largest difference {(found - expected).abs().max():.0e}")


if __name__ == "__main__":
    main()
