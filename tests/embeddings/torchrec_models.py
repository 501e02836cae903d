"""A TorchRec model with a row rule: three tables, sharded as a test requests, and two layers on top."""

from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist  # noqa: TID251 - mirrors embeddings/
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    data_parallel,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingPlan

from dlrm_adahessian.embeddings.row_rules import RowRuleSharder, RowsInBackward
from dlrm_adahessian.embeddings.torchrec_kernel import ShardedRows
from dlrm_adahessian.optim.rows import RowAdaHessianConfig, RowConfig

CPU = torch.device("cpu")
ROWS, WIDTHS = {"m": 3, "z": 4, "a": 5}, {"m": 8, "z": 4, "a": 8}
LABELS = [1, 0, 1, 1]
BAGS = [[[2, 0, 2], [0], []], [[1], [3, 3], [4, 4, 4]], [[], [0, 1], [0, 4]], [[0, 2], [], [3]]]
SHARDINGS = {
    "table": lambda: table_wise(rank=dist.get_world_size() - 1),
    "row": row_wise,
    "column": lambda: column_wise(ranks=[0, 1]),
    "replicate": data_parallel,
}


@dataclass(frozen=True)
class Case:
    """A row rule, sharding and pooling of the tables m, z and a, sample weights, and the penalty."""

    rule: RowConfig
    shardings: tuple[str, str, str] = ("row", "table", "row")
    means: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None
    l2: float = 0.0


ADAHESSIAN = RowAdaHessianConfig(lr=0.1, beta1=0.5, curvature_floor=0.05)


class Model(nn.Module):
    """Embedding bags and two layers on top."""

    def __init__(self, tables: list[EmbeddingBagConfig]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bags = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
        self.over = nn.Sequential(nn.Linear(sum(WIDTHS.values()), 6), nn.ReLU(), nn.Linear(6, 1))

    def forward(self, kjt: KeyedJaggedTensor) -> Tensor:
        """Return logits (B,)."""
        pooled = self.bags(kjt)  # the order of features depends on the plan
        return self.over(torch.cat([pooled[f"of_{name}"] for name in ROWS], 1)).squeeze(1)


class DoubleRows(RowsInBackward):
    """Rows in float64, which TorchRec's state dicts do not support."""

    _initialize_torch_state = ShardedRows._initialize_torch_state


class DoubleSharder(RowRuleSharder):
    def __init__(self, rule: RowConfig, *, l2: float = 0.0) -> None:
        super().__init__(rule, l2=l2)
        self._dtype = torch.float64
        self._kind = partial(DoubleRows, curvature=self._curvature, l2=l2)


def tables(means: tuple[str, ...] = (), **changes: object) -> list[EmbeddingBagConfig]:
    return [
        EmbeddingBagConfig(
            name=name,
            num_embeddings=ROWS[name],
            embedding_dim=WIDTHS[name],
            pooling=PoolingType.MEAN if name in means else PoolingType.SUM,
            **{"feature_names": [f"of_{name}"], **changes},
        )
        for name in ROWS
    ]


def sharded(model: Model, sharder: RowRuleSharder, shardings: tuple[str, ...]) -> DistributedModelParallel:
    chosen = {name: SHARDINGS[how]() for name, how in zip(ROWS, shardings, strict=True)}
    world = dist.get_world_size()
    plan = construct_module_sharding_plan(model.bags, chosen, sharder, world, world, device_type="cpu")
    return DistributedModelParallel(model, device=CPU, plan=ShardingPlan({"bags": plan}), sharders=[sharder])


def bags_of(model: DistributedModelParallel) -> RowsInBackward:
    (bags,) = (module for module in model.modules() if isinstance(module, RowsInBackward))
    return bags


def lookups(samples: slice | list[int], **more: Tensor) -> KeyedJaggedTensor:
    chosen = BAGS[samples] if isinstance(samples, slice) else [BAGS[i] for i in samples]
    bags = [sample[f] for f in range(3) for sample in chosen]
    return KeyedJaggedTensor(
        keys=[f"of_{name}" for name in ROWS],
        values=torch.tensor([row for bag in bags for row in bag]),
        lengths=torch.tensor([len(bag) for bag in bags]),
        **more,
    )


def first_rows(name: str) -> Tensor:
    entries = torch.arange(ROWS[name] * WIDTHS[name], dtype=torch.float64)
    return (entries + ord(name)).sin().view(ROWS[name], WIDTHS[name])


def of_float32(case: Case, **changes: object) -> tuple[DistributedModelParallel, RowRuleSharder]:
    sharder = RowRuleSharder(case.rule)
    return sharded(Model(tables(case.means, **changes)), sharder, case.shardings), sharder


def step(model: DistributedModelParallel, sharder: RowRuleSharder, samples: slice) -> None:
    sharder.log_loss(model(lookups(samples)), torch.tensor(LABELS[samples]).float()).backward()


def weights_of(model: DistributedModelParallel) -> dict[str, Tensor]:
    return {name: bag.weight.detach().clone() for name, bag in bags_of(model).embedding_bags.items()}
