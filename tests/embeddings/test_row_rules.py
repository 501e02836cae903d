"""Compare row rules on a TorchRec model with dense tables: exact gradient and Hessian diagonal in float64."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist  # noqa: TID251 - mirrors embeddings/
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.comm_ops import set_gradient_division
from torchrec.modules.embedding_configs import DataType

from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.embeddings.row_rules import RowRuleSharder
from dlrm_adahessian.kernels.row_sums import Hits
from dlrm_adahessian.optim.rows import (
    CowClipConfig,
    HessianAdagradConfig,
    RowAdagradConfig,
    RowAdamConfig,
    RowConfig,
    RowSGDConfig,
    RowwiseAdagradConfig,
)
from tests.embeddings.torchrec_models import (
    ADAHESSIAN,
    BAGS,
    CPU,
    LABELS,
    ROWS,
    Case,
    DoubleSharder,
    Model,
    bags_of,
    first_rows,
    lookups,
    of_float32,
    sharded,
    step,
    tables,
    weights_of,
)
from tests.processes import worlds

BOUND = 1e-12  # sums of about ten terms of size 1, with a margin for the root of an accumulator
ONE_RANK = {
    "sgd": Case(RowSGDConfig(lr=0.3)),
    "adagrad": Case(RowAdagradConfig(lr=0.1)),
    "rowwise_adagrad": Case(RowwiseAdagradConfig(lr=0.1)),
    "adam": Case(RowAdamConfig(lr=0.1)),
    "cowclip": Case(CowClipConfig(lr=0.1)),
    "hessian_adagrad": Case(HessianAdagradConfig(lr=0.1, curvature_floor=0.1)),
    "rowwise_hessian_adagrad": Case(HessianAdagradConfig(lr=0.1, curvature_floor=0.1, rowwise=True)),
    "adahessian": Case(ADAHESSIAN),
    "means_of_spread_rows": Case(ADAHESSIAN, means=("m",)),
    "means_of_a_whole_table": Case(ADAHESSIAN, means=("z",)),
    "weighted_samples": Case(ADAHESSIAN, weights=(2.0, 0.0, 0.5, 3.0)),
    "penalized": Case(ADAHESSIAN, l2=0.3),
}
TWO_RANKS = {
    "gradient_alone": Case(RowwiseAdagradConfig(lr=0.1)),
    "all_on_one_rank": Case(ADAHESSIAN, ("table", "table", "table")),
    "rows": Case(HessianAdagradConfig(lr=0.1, curvature_floor=0.1, rowwise=True), ("row", "row", "row")),
    "columns": Case(ADAHESSIAN, ("column", "table", "column")),
    "replicated": Case(ADAHESSIAN, ("replicate", "row", "replicate")),
    "means": Case(ADAHESSIAN, ("row", "table", "replicate"), means=("m", "z", "a")),
    "weighted_samples": Case(ADAHESSIAN, ("row", "table", "replicate"), weights=(2.0, 0.0, 0.5, 3.0)),
    "penalized": Case(ADAHESSIAN, ("row", "column", "replicate"), l2=0.3),
}


def trained(case: Case, samples: slice) -> dict[str, Tensor]:
    """Return this rank's shards after two steps on its samples, the second at half the learning rate."""
    sharder = DoubleSharder(case.rule, l2=case.l2)
    model = sharded(Model(tables(case.means)).double(), sharder, case.shardings)
    shards = [shard for kernel in bags_of(model).kernels() for shard in kernel.shards(ROWS)]
    for shard in shards:
        shard.tensors["weight"].copy_(first_rows(shard.table)[part(shard.tensors["weight"], shard)])
    labels = torch.tensor(LABELS[samples], dtype=torch.float64)
    weight = None if case.weights is None else torch.tensor(case.weights[samples]).double()
    for scale in (1.0, 0.5):
        (group,) = model.fused_optimizer.param_groups
        group["lr"] = case.rule.lr * scale
        sharder.log_loss(model(lookups(samples)), labels, weight).backward()
    return {
        f"{shard.table} {key} {shard.first_row} {shard.first_column}": tensor
        for shard in shards
        for key, tensor in shard.tensors.items()
    }


def part(tensor: Tensor, at: object) -> tuple[slice, ...]:
    firsts = (at.first_row, at.first_column)
    return tuple(slice(a, a + n) for a, n in zip(firsts, tensor.shape, strict=False))


def reference(case: Case) -> dict[str, Tensor]:
    """Return weights and states of whole tables, with derivatives from autograd on dense tables."""
    rule, over = case.rule.build(), Model(tables()).double().over.requires_grad_(False)
    counts = {
        name: torch.tensor([[sample[f].count(r) for r in range(ROWS[name])] for sample in BAGS]).double()
        for f, name in enumerate(ROWS)
    }
    pools = {
        name: c / c.sum(1, keepdim=True).clamp(min=1) if name in case.means else c
        for name, c in counts.items()
    }
    labels = torch.tensor(LABELS, dtype=torch.float64)
    of_samples = None if case.weights is None else torch.tensor(case.weights).double()
    weights = {name: first_rows(name) for name in ROWS}
    states = {name: rule.new_state(weight) for name, weight in weights.items()}

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([weight.numel() for weight in weights.values()])
        tables = {n: p.view(weights[n].shape) for n, p in zip(weights, parts, strict=True)}
        pooled = [pools[name] @ table for name, table in tables.items()]
        penalty = sum(t[counts[n].sum(0) > 0].square().sum() for n, t in tables.items()) * case.l2 / 2
        logits = over(torch.cat(pooled, 1)).squeeze(1)
        return F.binary_cross_entropy_with_logits(logits, labels, of_samples) + penalty

    for scale in (1.0, 0.5):
        flat = torch.cat([weight.flatten() for weight in weights.values()])
        sizes = [weight.numel() for weight in weights.values()]
        grads = torch.func.grad(loss)(flat).split(sizes)
        diagonals = torch.func.hessian(loss)(flat).diagonal().split(sizes)
        for name, grad, diagonal in zip(weights, grads, diagonals, strict=True):
            hits = hits_of(
                case.rule, counts[name], grad.view_as(weights[name]), diagonal.view_as(weights[name])
            )
            rule.update_torch_(weights[name], states[name], hits, lr_scale=scale, samples=len(BAGS))
    return {
        f"{name} {key}": tensor
        for name in ROWS
        for key, tensor in {"weight": weights[name], **states[name]}.items()
    }


def hits_of(rule: RowConfig, counts: Tensor, grad: Tensor, diagonal: Tensor) -> Hits:
    rows = counts.sum(0).nonzero().squeeze(1)
    hits = Hits(rows=rows, grad=grad[rows], count=counts.sum(0)[rows].long())
    if rule.pooled_curvature == "none":
        return hits
    squares = counts.square().sum(0)[rows].long()
    curvature = diagonal[rows]
    if rule.pooled_curvature == "mean":
        curvature = curvature.mean(1, keepdim=True)
    return replace(hits, curvature=curvature, squares=squares, curvature_squares=squares)


def assert_parts(found: dict[str, Tensor], whole: dict[str, Tensor]) -> dict[str, Tensor]:
    """Compare shards with whole tables, and return how many shards contain each entry."""
    seen = {key: torch.zeros(tensor.shape) for key, tensor in whole.items()}
    for place, tensor in found.items():
        table, key, row, column = place.split()
        at = tuple(slice(int(a), int(a) + n) for a, n in zip((row, column), tensor.shape, strict=False))
        expected = whole[f"{table} {key}"][at]
        torch.testing.assert_close(tensor, expected, rtol=0, atol=BOUND, msg=lambda m, p=place: f"{p}: {m}")
        seen[f"{table} {key}"][at] += 1
    return seen


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    with init_process_group():
        yield


@pytest.mark.oracle
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", ONE_RANK)
def test_two_steps_equal_dense_tables(name: str):
    case = ONE_RANK[name]
    seen = assert_parts(trained(case, slice(None)), reference(case))
    assert all((count == 1).all() for count in seen.values())


def two_ranks(folder: Path) -> None:
    """Save this rank's shards after each case, its state dicts, and its refusals."""
    with init_process_group():
        rank = dist.get_rank()
        samples = slice(2 * rank, 2 * rank + 2)
        for name, case in TWO_RANKS.items():
            torch.save(trained(case, samples), folder / f"{name}.{rank}")
        reload(folder, rank, samples)
        model, sharder = of_float32(Case(ADAHESSIAN))
        try:
            step(model, sharder, slice(rank, 2))  # two samples on one rank, one on the other
        except ValueError as error:
            (folder / f"refusal.{rank}").write_text(str(error))


def reload(folder: Path, rank: int, samples: slice) -> None:
    """Train, load the state dicts into a second model, train both, and save the differences and the parts of the dicts."""
    case = Case(ADAHESSIAN, ("row", "table", "column"))
    (model, sharder), (other, its) = of_float32(case), of_float32(case)
    step(model, sharder, samples)
    other.load_state_dict(model.state_dict())
    other.fused_optimizer.load_state_dict(model.fused_optimizer.state_dict())
    differing = []
    for _ in range(2):
        found, expected = sharded_parts(other), sharded_parts(model)
        differing += [key for key in expected if not torch.equal(found[key], expected[key])]
        step(model, sharder, samples)
        step(other, its, samples)
    (folder / f"differing.{rank}").write_text(",".join(differing))
    torch.save(sharded_parts(model), folder / f"parts.{rank}")


def sharded_parts(model: DistributedModelParallel) -> dict[str, Tensor]:
    """Return this rank's shards in the state dicts of a model and its row optimizer, by table, key, and place."""
    tensors = {
        k.split(".")[-2] + " weight": t for k, t in model.state_dict().items() if "embedding_bags" in k
    }
    for state in model.fused_optimizer.state_dict()["state"].values():
        tensors |= {key.replace(".", " "): tensor for key, tensor in state.items()}
    found = {}
    for name, tensor in tensors.items():
        for shard in tensor.local_shards():
            row, column = (*shard.metadata.shard_offsets, 0)[:2]
            found[f"{name} {row} {column}"] = shard.tensor.clone()
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    worlds.run(2, two_ranks, folder, log=folder / "log")
    return folder


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_RANKS)
def test_two_ranks_equal_dense_tables(name: str, two: Path):
    case, whole = TWO_RANKS[name], reference(TWO_RANKS[name])
    ranks = [assert_parts(torch.load(two / f"{name}.{rank}"), whole) for rank in range(2)]
    for table, how in zip(ROWS, case.shardings, strict=True):
        copies = ranks[0][f"{table} weight"] + ranks[1][f"{table} weight"]
        assert (copies == (2 if how == "replicate" else 1)).all()


@pytest.mark.dist
@pytest.mark.slow
def test_a_model_goes_on_from_state_dicts_over_ranks(two: Path):
    assert [(two / f"differing.{rank}").read_text() for rank in range(2)] == ["", ""]
    parts = [torch.load(two / f"parts.{rank}") for rank in range(2)]
    # Each half of a table sharded by columns has its own counters. TorchRec concatenates them.
    assert [[key for key in part if key.startswith(("a weight", "a touches"))] for part in parts] == [
        ["a weight 0 0", "a touches 0 0"],
        ["a weight 0 4", "a touches 5 0"],
    ]


@pytest.mark.dist
@pytest.mark.slow
def test_ranks_with_fewer_samples_are_refused_together(two: Path):
    told = [(two / f"refusal.{rank}").read_text() for rank in range(2)]
    assert told[0] == told[1]
    assert "equal batch sizes on all ranks, got [2, 1]. Drop the smaller last batch" in told[0]


def test_a_negative_penalty_is_refused():
    with pytest.raises(ValueError, match="l2 must be at least 0, got -1. Use 0"):
        RowRuleSharder(RowSGDConfig(), l2=-1)


@pytest.mark.usefixtures("alone")
def test_rows_start_as_torchrec_starts_them():
    model, _ = of_float32(Case(ADAHESSIAN), init_fn=partial(nn.init.constant_, val=0.5))
    assert all((weight == 0.5).all() for weight in weights_of(model).values())


@pytest.mark.usefixtures("alone")
def test_a_lookup_without_gradients_updates_nothing():
    model, sharder = of_float32(Case(ADAHESSIAN))
    logits = model(lookups(slice(None)))
    with torch.no_grad():
        assert not sharder.log_loss(model(lookups(slice(2))), torch.ones(2)).requires_grad
    sharder.log_loss(logits, torch.tensor(LABELS).float()).backward()
    after_one = weights_of(model)
    model(lookups(slice(None)))
    assert all(torch.equal(weight, after_one[name]) for name, weight in weights_of(model).items())


@pytest.mark.usefixtures("alone")
def test_two_lookups_of_one_loss_update_as_one_of_both():
    both, sharder = of_float32(Case(RowSGDConfig(lr=0.3)))
    apart, its = of_float32(Case(RowSGDConfig(lr=0.3)))
    apart.load_state_dict(both.state_dict())
    labels = torch.tensor(LABELS).float()
    sharder.log_loss(both(lookups(slice(None))), labels).backward()
    logits = torch.cat([apart(lookups(slice(3))), apart(lookups(slice(3, 4)))])
    its.log_loss(logits, labels).backward()
    for name, weight in weights_of(apart).items():
        torch.testing.assert_close(weight, weights_of(both)[name], rtol=0, atol=1e-6)


@pytest.mark.usefixtures("alone")
def test_weighted_lookups_are_refused():
    model, _ = of_float32(Case(ADAHESSIAN))
    found = lookups(slice(None), weights=torch.ones(19))
    with pytest.raises(ValueError, match="Weighted lookups are not supported"):
        model(found)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("changes", "rule", "message"),
    [
        ({"data_type": DataType.FP16}, ADAHESSIAN, "Tables must be float32, but table m is FP16"),
        (
            {"feature_names": ["of_m", "b"]},
            ADAHESSIAN,
            "adahessian reads curvature, .* one feature per table",
        ),
    ],
)
def test_unfit_tables_are_refused(changes: dict[str, object], rule: RowConfig, message: str):
    (table, *_) = tables()
    bags = EmbeddingBagCollection(tables=[replace(table, **changes)], device=torch.device("meta"))
    with pytest.raises(ValueError, match=message):
        DistributedModelParallel(nn.Sequential(bags), device=CPU, sharders=[RowRuleSharder(rule)])


@pytest.mark.usefixtures("alone")
def test_a_feature_both_summed_and_averaged_is_refused():
    summed, averaged, _ = tables(means=("z",), feature_names=["one"])
    bags = EmbeddingBagCollection(tables=[summed, averaged], device=torch.device("meta"))
    with pytest.raises(ValueError, match="that feature one reads .*Rename the feature of table z"):
        DistributedModelParallel(nn.Sequential(bags), device=CPU, sharders=[RowRuleSharder(ADAHESSIAN)])


@pytest.mark.usefixtures("alone")
def test_columns_of_a_rule_that_needs_whole_rows_are_refused():
    model = Model(tables())
    with pytest.raises(
        ValueError, match="rowwise_adagrad supports .*, but the plan has column_wise for table m"
    ):
        sharded(model, RowRuleSharder(RowwiseAdagradConfig()), ("column", "row", "row"))


@pytest.mark.usefixtures("alone")
def test_gradients_summed_over_ranks_are_refused_for_a_rule_with_curvature():
    set_gradient_division(False)
    try:
        with pytest.raises(ValueError, match="needs gradients averaged over ranks, but TorchRec sums them"):
            of_float32(Case(ADAHESSIAN))
    finally:
        set_gradient_division(True)


@pytest.mark.usefixtures("alone")
def test_features_with_bags_of_their_own_number_are_refused():
    model, _ = of_float32(Case(ADAHESSIAN))
    found = KeyedJaggedTensor(
        keys=[f"of_{name}" for name in ROWS],
        values=torch.zeros(4, dtype=torch.int64),
        lengths=torch.ones(4, dtype=torch.int64),
        stride_per_key_per_rank=[[1], [1], [2]],
        inverse_indices=([f"of_{name}" for name in ROWS], torch.zeros(3, 2, dtype=torch.int64)),
    )
    with pytest.raises(ValueError, match=r"the same number of bags, got \[1, 1, 2\]"):
        model(found)
