"""Compare the sharded lookup with dense tables: exact gradient and Hessian diagonal by autograd in float64."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist  # noqa: TID251 - mirrors distributed/
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchrec import KeyedJaggedTensor

from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.embeddings.config import TableSpec
from dlrm_adahessian.embeddings.sharded_lookup import ShardedLookup
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.kernels.row_sums import Hits
from dlrm_adahessian.optim.rows import RowAdagradConfig
from tests.processes import worlds

DIM = 2
LR = 0.25
CPU = torch.device("cpu")


class RecordingSgd:
    """Plain SGD that records the summed curvature of each row, and the number of steps with curvature."""

    mixes_columns = False

    def new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return zeros."""
        return {"curvature": torch.zeros_like(weight), "steps": torch.zeros(len(weight), dtype=torch.int64)}

    def update_(
        self, weight: Tensor, state: dict[str, Tensor], hits: Hits, *, lr_scale: float, samples: int
    ) -> None:
        """Take a step, and sum the curvature in per-sample units."""
        weight[hits.rows] -= LR * lr_scale * hits.grad
        if hits.curvature is not None and hits.has_curvature is not None:
            state["curvature"][hits.rows] += hits.curvature * samples
            state["steps"][hits.rows] += hits.has_curvature.long()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A batch over all ranks: the rows of the bag for each sample and feature."""

    specs: list[TableSpec]
    batch: list[list[list[int]]]
    curvature_samples: int | None = None
    bound: float = 1e-12  # sums of about ten terms of size 10: 1e-13 and a margin
    weights: list[int] | None = None

    @property
    def repeated(self) -> "Case":
        """Return the case with each sample repeated as many times as its weight."""
        if self.weights is None:
            return self
        batch = [sample for sample, times in zip(self.batch, self.weights, strict=True) for _ in range(times)]
        return replace(
            self, batch=batch, weights=None, curvature_samples=sum(self.weights[: self.curvature_samples])
        )

    @property
    def names(self) -> list[str]:
        """Return the tables, in order."""
        return [spec.name for spec in self.specs]

    @property
    def dim(self) -> int:
        """Return the width of the tables."""
        return self.specs[0].dim

    def kjt(self, samples: slice) -> KeyedJaggedTensor:
        """Return the lookups of some samples."""
        bags = [sample[f] for f in range(len(self.specs)) for sample in self.batch[samples]]
        return KeyedJaggedTensor(
            keys=self.names,
            values=torch.tensor([row for bag in bags for row in bag], dtype=torch.int64),
            lengths=torch.tensor([len(bag) for bag in bags], dtype=torch.int32),
        )


def specs(*rows: int, sharding: str = "auto", dim: int = DIM) -> list[TableSpec]:
    # Neither sorting by name nor by size gives this order.
    names = ["m", "z", "a"]
    return [
        TableSpec(name=name, num_rows=n, dim=dim, sharding=sharding)  # pyright: ignore
        for name, n in zip(names, rows, strict=False)
    ]


ONE_HOT = [[[2], [0], [4]], [[1], [1], [4]], [[2], [1], [0]], [[0], [1], [4]]]
BAGS = [[[2, 0, 2], [0], []], [[1], [1, 1], [4, 4, 4]], [[], [0, 1], [0, 4]], [[0, 2], [], [3]]]
_RNG = np.random.default_rng(1)
LONG_BOUND = 1e-10  # a bag that contains a row ten times has terms a hundred times as large
LONG = [
    [_RNG.integers(rows, size=length).tolist() for rows, length in zip((3, 2, 5), lengths, strict=True)]
    for lengths in [(20, 1, 13), (0, 17, 20), (7, 0, 9), (11, 20, 0)]
]


def sample_losses(pooled: Tensor) -> Tensor:
    """Return losses (B,) of pooled (B, F, D) that couple the features of a sample, with curvature of both signs."""
    slope = torch.linspace(0.5, 1.5, pooled[0].numel(), dtype=pooled.dtype)
    flat = pooled.flatten(1)
    return (flat @ slope).sin() + 0.1 * flat.square().sum(1) * flat[:, 0]


def loss_derivatives(pooled: Tensor, curvature_samples: int | None) -> tuple[Tensor, Tensor]:
    """Return gradient and Hessian diagonal of the mean loss; the diagonal is 0 for excluded samples."""
    flat = pooled.detach().flatten()
    grad = torch.func.grad(lambda x: sample_losses(x.view_as(pooled)).mean())(flat)
    diag = torch.func.hessian(lambda x: sample_losses(x.view_as(pooled)).mean())(flat).diagonal().clone()
    diag = diag.view_as(pooled)
    if curvature_samples is not None:
        diag[curvature_samples:] = 0
    return grad.view_as(pooled), diag


def two_steps(case: Case, samples: slice) -> ShardedLookup:
    """Run two steps on this rank's samples, the second with curvature."""
    local = None if case.curvature_samples is None else max(case.curvature_samples - (samples.start or 0), 0)
    lookup = ShardedLookup(case.specs, rule=RecordingSgd(), device=CPU, dtype=torch.float64, seed=3)
    weights = None if case.weights is None else torch.tensor(case.weights, dtype=torch.float64)
    for with_curvature in (False, True):
        pooled = lookup(case.kjt(samples))
        grad, curvature = loss_derivatives(pooled, local)
        if weights is not None:
            of_samples = (weights / weights.mean())[samples].view(-1, 1, 1)
            grad, curvature = grad * of_samples, curvature * of_samples
        lookup.push(
            pooled,
            grad,
            curvature if with_curvature else None,
            lr_scale=0.5,
            samples=len(case.repeated.batch),
            curvature_samples=case.curvature_samples,
            weights=weights,
        )
    return lookup


def reference(case: Case, initial: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the same two steps on dense tables, with derivatives taken with respect to the tables."""
    sizes = [spec.num_rows for spec in case.specs]
    flat = torch.cat([initial[name] for name in case.names]).flatten()
    took_part = [case.curvature_samples is None or b < case.curvature_samples for b in range(len(case.batch))]

    def losses(flat: Tensor) -> Tensor:
        tables = flat.view(-1, case.dim).split(sizes)
        pooled = torch.stack(
            [
                torch.stack([table[bag].sum(0) for table, bag in zip(tables, sample, strict=True)])
                for sample in case.batch
            ]
        )
        return sample_losses(pooled) / len(case.batch)

    def step(flat: Tensor) -> Tensor:
        return flat - LR * 0.5 * torch.func.grad(lambda x: losses(x).sum())(flat)

    flat = step(flat)
    mask = torch.tensor(took_part, dtype=flat.dtype)
    hessian = torch.func.hessian(lambda x: (losses(x) * mask).sum())(flat)
    curvature = (hessian.diagonal() * len(case.batch)).view(-1, case.dim).split(sizes)
    weights = step(flat).view(-1, case.dim).split(sizes)
    expected = {}
    for f, (name, weight, diag) in enumerate(zip(case.names, weights, curvature, strict=True)):
        bags = [(sample[f], took_part[b]) for b, sample in enumerate(case.batch)]
        squares, those = (
            torch.tensor(
                [
                    sum(bag.count(row) ** 2 for bag, part in bags if part or every)
                    for row in range(len(weight))
                ]
            )
            for every in (True, False)
        )
        expected[f"{name}.weight"] = weight
        # Curvature is extrapolated to excluded samples. The share of a bag grows with the square of its repeats.
        expected[f"{name}.curvature"] = diag * (squares.double() / those.clamp(min=1)).unsqueeze(1)
        expected[f"{name}.steps"] = (those > 0).long()
    return expected


def held(lookup: ShardedLookup) -> dict[str, Tensor]:
    states = lookup.row_states()
    return {
        f"{name}.{key}": tensor
        for name, weight in lookup.tables().items()
        for key, tensor in {"weight": weight, **states[name]}.items()
    }


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], bound: float) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in got.items():
        torch.testing.assert_close(
            tensor, expected[name], rtol=0, atol=bound, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    with init_process_group():
        yield


def initial_rows(case: Case) -> dict[str, Tensor]:
    lookup = ShardedLookup(case.specs, rule=RecordingSgd(), device=CPU, dtype=torch.float64, seed=3)
    return {name: table.clone() for name, table in lookup.tables().items()}


WORLD_ONE_CASES = {
    "one_hot": Case(specs=specs(3, 2, 5), batch=ONE_HOT),
    "bags": Case(specs=specs(3, 2, 5), batch=BAGS),
    "curvature_from_half_of_the_batch": Case(specs=specs(3, 2, 5), batch=BAGS, curvature_samples=2),
    "long_bags": Case(specs=specs(3, 2, 5), batch=LONG, bound=LONG_BOUND),
    "long_bags_and_curvature_from_half": Case(
        specs=specs(3, 2, 5), batch=LONG, curvature_samples=2, bound=LONG_BOUND
    ),
    "weighted_long_bags": Case(specs=specs(3, 2, 5), batch=LONG, bound=LONG_BOUND, weights=[1, 0, 3, 2]),
    "weighted_long_bags_and_curvature_from_some": Case(
        specs=specs(3, 2, 5), batch=LONG, curvature_samples=3, bound=LONG_BOUND, weights=[1, 0, 3, 2]
    ),
}


@pytest.mark.oracle
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", WORLD_ONE_CASES)
def test_two_steps_equal_dense_tables(name: str):
    case = WORLD_ONE_CASES[name]
    initial = initial_rows(case)
    assert_same(held(two_steps(case, slice(None))), reference(case.repeated, initial), case.bound)


TWO_RANK_CASES = {
    # Uneven shards, and shards of one row.
    "rows_spread": Case(specs=specs(3, 2, 5, sharding="row"), batch=BAGS),
    # Interleaved: TorchRec groups by kind of sharding, so its output order differs from that of the tables.
    "tables_and_rows": Case(
        specs=[
            specs(3, sharding="row")[0],
            specs(3, 2, sharding="table")[1],
            specs(3, 2, 5, sharding="row")[2],
        ],
        batch=BAGS,
        curvature_samples=3,  # both samples of one rank and one of the other
    ),
    "one_row_in_all": Case(specs=specs(1, 2, 5, sharding="row"), batch=[[[0], *row[1:]] for row in BAGS]),
    "columns_cut": Case(specs=specs(3, 2, 5, sharding="column", dim=8), batch=BAGS, curvature_samples=1),
    "replicated": Case(specs=specs(3, 2, 5, sharding="replicate"), batch=BAGS, curvature_samples=1),
    "replicated_one_hot": Case(specs=specs(3, 2, 5, sharding="replicate"), batch=ONE_HOT),
    # All kinds of sharding together, in an order that differs from TorchRec's.
    "all_kinds": Case(
        specs=[
            TableSpec(name=name, num_rows=rows, dim=8, sharding=sharding)  # pyright: ignore
            for name, rows, sharding in [
                ("m", 3, "column"),
                ("z", 2, "replicate"),
                ("a", 5, "row"),
                ("b", 4, "table"),
            ]
        ],
        batch=[[*row, [b, b % 2]] for b, row in enumerate(BAGS)],
        curvature_samples=1,
    ),
    "all_kinds_and_long_bags": Case(
        specs=[
            specs(3, sharding="column", dim=8)[0],
            specs(3, 2, sharding="row", dim=8)[1],
            specs(3, 2, 5, sharding="replicate", dim=8)[2],
        ],
        batch=LONG,
        curvature_samples=3,
        bound=LONG_BOUND,
    ),
    "all_kinds_and_weighted_long_bags": Case(
        specs=[
            specs(3, sharding="column", dim=8)[0],
            specs(3, 2, sharding="row", dim=8)[1],
            specs(3, 2, 5, sharding="replicate", dim=8)[2],
        ],
        batch=LONG,
        curvature_samples=3,
        bound=LONG_BOUND,
        weights=[1, 0, 3, 2],
    ),
    # One rank holds no table, but must take part in every collective.
    "a_rank_without_tables": Case(specs=specs(3, sharding="table"), batch=[row[:1] for row in ONE_HOT]),
}


def two_ranks(folder: Path) -> None:
    """Take two steps of each case on this rank, save its shards, and plan."""
    os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"  # a store that still has the keys of dead ranks
    with init_process_group():
        assert dist.get_world_size() == 2
        rank = dist.get_rank()
        for name, case in TWO_RANK_CASES.items():
            lookup = two_steps(case, slice(2 * rank, 2 * rank + 2))
            tensors = {name: tensor.clone() for name, tensor in held(lookup).items()}
            for shard_name, shard in lookup.shards().items():
                tensors[f"{shard_name}.corner"] = torch.tensor([shard.first_row, shard.first_column])
            save_file(tensors, folder / f"{name}.{rank}")
        plan(folder, rank)


def plan(folder: Path, rank: int) -> None:
    """Save a refused plan, a plan that fits, and the shards that a checkpoint would contain."""
    tables = [*specs(3, 2, sharding="row"), TableSpec(name="a", num_rows=4, dim=DIM, sharding="replicate")]
    rule = RowAdagradConfig().build()
    try:
        ShardedLookup(tables, rule=rule, device=CPU, memory_bytes=100)
    except UsageError as error:
        (folder / f"refusal.{rank}").write_text(str(error))
    lookup = ShardedLookup(tables, rule=rule, device=CPU)
    (folder / f"plan.{rank}").write_text(lookup.describe_plan())
    (folder / f"saved.{rank}").write_text(",".join(shard.table for shard in lookup.shards_to_save()))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    worlds.run(2, two_ranks, folder, log=folder / "log")
    return folder


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", TWO_RANK_CASES)
def test_two_ranks_equal_dense_tables(name: str, two: Path):
    case = TWO_RANK_CASES[name]
    initial = initial_rows(
        case
    )  # on one rank, which also checks that initial values do not depend on the sharding
    ranks = [load_file(two / f"{name}.{rank}") for rank in range(2)]
    expected = reference(case.repeated, initial)
    copies = {spec.name: torch.zeros(spec.num_rows, case.dim) for spec in case.specs}
    for shard in ranks:
        for name in [key.removesuffix(".corner") for key in shard if key.endswith(".corner")]:
            table = name.partition("[")[0]
            first, column = shard[f"{name}.corner"].tolist()
            rows, columns = shard[f"{name}.weight"].shape
            at = slice(first, first + rows), slice(column, column + columns)
            copies[table][at] += 1
            for key in ("weight", "curvature"):
                assert_same(
                    {name: shard[f"{name}.{key}"]}, {name: expected[f"{table}.{key}"][at]}, case.bound
                )
            assert torch.equal(shard[f"{name}.steps"], expected[f"{table}.steps"][at[0]])
    for spec in case.specs:
        replicated = spec.sharding == "replicate"
        assert (copies[spec.name] == 1 + replicated).all(), spec.name
        if replicated:
            for key in ("weight", "curvature"):
                assert torch.equal(*(shard[f"{spec.name}.{key}"] for shard in ranks))
        elif spec.sharding != "table":
            spread = [any(key.partition("[")[0].partition(".")[0] == spec.name for key in s) for s in ranks]
            assert all(spread), spec.name


def _plans(rank: int, port: int, folder: Path) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    tables = [*specs(3, 2, sharding="row"), TableSpec(name="a", num_rows=4, dim=DIM, sharding="replicate")]
    rule = RowAdagradConfig().build()
    with init_process_group():
        try:
            ShardedLookup(tables, rule=rule, device=CPU, memory_bytes=100)
        except UsageError as error:
            (folder / f"{rank}.refusal").write_text(str(error))
        lookup = ShardedLookup(tables, rule=rule, device=CPU)
        (folder / f"{rank}.plan").write_text(lookup.describe_plan())
        saved = ",".join(shard.table for shard in lookup.shards_to_save())
        (folder / f"{rank}.saved").write_text(saved)


@pytest.mark.dist
@pytest.mark.slow
def test_ranks_share_a_plan_a_refusal_and_what_is_saved(two: Path):
    def texts(kind: str) -> list[str]:
        return [(two / f"{kind}.{rank}").read_text() for rank in range(2)]

    told, same = texts("plan")
    assert told == same
    assert told.startswith("3 tables on 2 cpu ranks of ")
    refusal, same = texts("refusal")
    assert refusal == same
    assert "would fit: " in refusal
    assert texts("saved") == ["m,z,a", "m,z"]


@pytest.mark.usefixtures("alone")
def test_pooled_features_come_in_the_order_of_the_tables():
    case = WORLD_ONE_CASES["bags"]
    lookup = ShardedLookup(case.specs, rule=RecordingSgd(), device=CPU, dtype=torch.float64)
    pooled = lookup(case.kjt(slice(None)))
    tables = lookup.tables()
    assert list(tables) == case.names
    for b, sample in enumerate(case.batch):
        for f, bag in enumerate(sample):
            torch.testing.assert_close(pooled[b, f], tables[case.names[f]][bag].sum(0), rtol=0, atol=1e-15)


@pytest.mark.usefixtures("alone")
def test_lookup_without_gradients_leaves_the_pending_one_alone():
    case = WORLD_ONE_CASES["one_hot"]
    lookup = ShardedLookup(case.specs, rule=RecordingSgd(), device=CPU)
    pooled = lookup(case.kjt(slice(None)))
    with torch.no_grad():
        assert not lookup(case.kjt(slice(2))).requires_grad
    lookup.push(pooled, torch.ones_like(pooled), None, lr_scale=1, samples=4)


@pytest.mark.usefixtures("alone")
def test_stale_pooled_embeddings_are_refused():
    case = WORLD_ONE_CASES["one_hot"]
    lookup = ShardedLookup(case.specs, rule=RecordingSgd(), device=CPU)
    stale = lookup(case.kjt(slice(None)))
    lookup(case.kjt(slice(None)))
    before = {name: table.clone() for name, table in lookup.tables().items()}
    with pytest.raises(RuntimeError, match="last lookup with gradients enabled"):
        lookup.push(stale, torch.ones_like(stale), None, lr_scale=1, samples=4)
    assert all(torch.equal(before[name], table) for name, table in lookup.tables().items())


@pytest.mark.usefixtures("alone")
def test_features_in_another_order_are_refused():
    case = WORLD_ONE_CASES["one_hot"]
    lookup = ShardedLookup(case.specs, rule=RecordingSgd(), device=CPU)
    swapped = KeyedJaggedTensor(
        keys=["z", "m", "a"],
        values=torch.zeros(3, dtype=torch.int64),
        lengths=torch.ones(3, dtype=torch.int32),
    )
    with pytest.raises(ValueError, match="Features must match the tables in order"):
        lookup(swapped)


@pytest.mark.usefixtures("alone")
def test_weighted_lookups_are_refused():
    case = WORLD_ONE_CASES["one_hot"]
    lookup = ShardedLookup(case.specs, rule=RecordingSgd(), device=CPU)
    weighted = KeyedJaggedTensor(
        keys=case.names,
        values=torch.zeros(3, dtype=torch.int64),
        lengths=torch.ones(3, dtype=torch.int32),
        weights=torch.ones(3),
    )
    with pytest.raises(ValueError, match="Weighted lookups are not supported"):
        lookup(weighted)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([("a", 2), ("b", 3)], "same width, got widths"),
        ([("a", 2), ("a", 2)], "names must be distinct"),
    ],
)
def test_unfit_tables_are_refused(tables: list[tuple[str, int]], message: str):
    unfit = [TableSpec(name=name, num_rows=4, dim=dim) for name, dim in tables]
    with pytest.raises(ValueError, match=message):
        ShardedLookup(unfit, rule=RecordingSgd(), device=CPU)
