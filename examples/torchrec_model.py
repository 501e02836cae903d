"""Train your own TorchRec model: Hessian Adagrad on embedding rows, Adam on the rest.

python examples/torchrec_model.py, or torchrun --nproc-per-node 2 examples/torchrec_model.py
"""

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.optimizers import in_backward_optimizer_filter

from dlrm_adahessian import RowRuleSharder
from dlrm_adahessian.distributed import process_group, ranks
from dlrm_adahessian.optim.rows import HessianAdagradConfig

FEATURES, ROWS, WIDTH, SAMPLES, STEPS = ["user", "item"], 200, 8, 256, 100


class Clicks(nn.Module):
    """Predict a logit from two bags."""

    def __init__(self) -> None:
        super().__init__()
        tables = [EmbeddingBagConfig(ROWS, WIDTH, name=name, feature_names=[name]) for name in FEATURES]
        self.bags = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
        self.over = nn.Sequential(nn.Linear(2 * WIDTH, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, lookups: KeyedJaggedTensor) -> Tensor:
        """Return logits (B,)."""
        pooled = self.bags(lookups)
        return self.over(torch.cat([pooled[name] for name in FEATURES], 1)).squeeze(1)


def batch(step: int) -> tuple[KeyedJaggedTensor, Tensor]:
    """Return lookups (1 to 3 per bag) and labels: 1 if a hidden score of the lookups is positive."""
    generator = torch.Generator().manual_seed(1000 * step + ranks.rank())
    lengths = torch.randint(1, 4, (2 * SAMPLES,), generator=generator)
    rows = torch.randint(ROWS, (int(lengths.sum()),), generator=generator)
    tastes = torch.segment_reduce((7.0 * rows).sin(), "sum", lengths=lengths).view(2, SAMPLES).sum(0)
    return KeyedJaggedTensor(keys=FEATURES, values=rows, lengths=lengths), (tastes > 0).float()


def main() -> None:
    """Train, and print the loss of this rank at the first and the last step."""
    sharder = RowRuleSharder(HessianAdagradConfig(lr=0.05))
    model = DistributedModelParallel(Clicks(), device=torch.device("cpu"), sharders=[sharder])
    dense = torch.optim.Adam([p for _, p in in_backward_optimizer_filter(model.named_parameters())], lr=0.01)
    for step in range(STEPS):
        lookups, labels = batch(step)
        loss = sharder.log_loss(model(lookups), labels)
        dense.zero_grad()
        loss.backward()  # updates the embedding rows
        dense.step()
        if step in (0, STEPS - 1):
            print(f"step {step + 1}: log loss {loss.item():.4f}")


if __name__ == "__main__":
    with process_group.init_process_group():
        main()
