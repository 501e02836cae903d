"""Test the GPU kernels against the torch reference and the CPU lookup, on CUDA and interpreted on the CPU."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from dlrm_adahessian.embeddings.local_tables import RowTables
from dlrm_adahessian.kernels.row_sums import Hits, sum_hits_torch
from dlrm_adahessian.optim.rows import (
    HessianAdagradConfig,
    RowAdagradConfig,
    RowAdaHessianConfig,
    RowAdamConfig,
    RowConfig,
)
from tests.devices import DEVICES, needs_triton
from tests.kernels.repetition import repeated

pytestmark = [
    pytest.mark.oracle,
    needs_triton,
    pytest.mark.filterwarnings(
        "ignore::RuntimeWarning"
    ),  # the interpreter uses numpy, in which 0 / 0 and log(0) warn
]
WIDTH, TILE, LR_SCALE = 3, 4, 0.5  # a width that is not a power of two; few lookups per tile
STEPS = 3  # the third reads the state that the second computed from curvature
WITHOUT_AND_WITH_CURVATURE = 2  # steps; enough for sums, which have no state
# Powers of two and similar: scalars reach the kernels in float32, which represents these exactly.
RULES = {kind().name: kind(lr=0.125) for kind in get_args(RowConfig)} | {
    "hessian_adagrad_clipped": HessianAdagradConfig(lr=0.125, curvature_floor=0.0, clip=0.5),
    "hessian_adagrad_rowwise": HessianAdagradConfig(lr=0.125, curvature_floor=0.25, rowwise=True),
    "adahessian_rowwise_momentum": RowAdaHessianConfig(lr=0.125, rowwise=True, beta1=0.9, power=0.5),
    "adahessian_clipped_momentum": RowAdaHessianConfig(lr=0.125, beta1=0.9, clip=0.25, curvature_floor=0.0),
    "adahessian_power_0": RowAdaHessianConfig(lr=0.125, beta2=0.0, power=0.0),
    "adam_decayed": RowAdamConfig(lr=0.125, weight_decay=0.5),
}


@dataclass
class Lookups:
    """Hits of several tables with `batch` bags each, with random derivatives."""

    rows: Tensor
    bags: Tensor
    grad: Tensor
    curvature: Tensor
    batch: int
    num_rows: int

    def to(self, device: str, dtype: torch.dtype) -> "Lookups":
        return Lookups(
            self.rows.to(device),
            self.bags.to(device),
            self.grad.to(device, dtype),
            self.curvature.to(device, dtype),
            self.batch,
            self.num_rows,
        )


def lookups(sizes: list[int], lengths: list[list[int]], *, seed: int = 0) -> Lookups:
    """Generate random rows: table t has `sizes[t]` rows, and its bag b contains `lengths[t][b]` of them, with repeats."""
    rng = np.random.default_rng(seed)
    tables, batch, first = len(sizes), len(lengths[0]), 0
    rows, bags = [], []
    for t, (size, table_lengths) in enumerate(zip(sizes, lengths, strict=True)):
        for b, length in enumerate(table_lengths):
            rows += (first + rng.integers(size, size=length)).tolist()
            bags += [b * tables + t] * length
        first += size
    grad, curvature = (torch.from_numpy(rng.normal(size=(batch * tables, WIDTH))) / batch for _ in range(2))
    row, bag = (torch.tensor(numbers, dtype=torch.int64) for numbers in (rows, bags))
    return Lookups(row, bag, grad, curvature, batch, first)


def one_hot(sizes: list[int], batch: int) -> Lookups:
    return lookups(sizes, [[1] * batch] * len(sizes))


def ragged(sizes: list[int], batch: int) -> Lookups:
    rng = np.random.default_rng(5)
    return lookups(sizes, [rng.integers(0, 5, batch).tolist() for _ in sizes])


CASES = {
    "duplicates": one_hot([3, 20], 9),
    "one_row_hit_by_the_whole_batch": one_hot([1, 2], 3 * TILE),
    "runs_that_end_with_their_tile": one_hot([1, 1, 1], TILE),
    "one_lookup": one_hot([4], 1),
    "bags_with_repeated_rows": ragged([2, 1, 12], 4),
    "long_bags_with_repeated_rows": lookups([1, 2], [[9, 0, 6], [3, 2, 10]]),
    "no_lookup_at_all": lookups([3], [[0, 0]]),
}


def sums(case: Lookups, where, sampled: Tensor | None, weights: Tensor | None) -> Hits:
    """Return the sums over hits. Half-integer weights are replaced with copies: two of a sample of weight 1."""
    if weights is None:
        return sum_hits_torch(*where, sampled=sampled)
    rows, bags, *derivatives = where
    tables = len(derivatives[0]) // case.batch
    times = (2 * weights).long().repeat_interleave(tables)
    hits = sum_hits_torch(
        *repeated(rows, bags, times),
        *(d if d is None else (d / times.unsqueeze(1)).repeat_interleave(times, 0) for d in derivatives),
        sampled=None if sampled is None else sampled.repeat_interleave(tables).repeat_interleave(times),
    )
    if hits.curvature is None:
        return replace(hits, count=hits.count / 2)
    return replace(
        hits, count=hits.count / 2, squares=hits.squares / 2, curvature_squares=hits.curvature_squares / 2
    )


def run(
    cfg,
    case: Lookups,
    device: str,
    dtype: torch.dtype,
    *,
    fused: bool,
    sampled: Tensor | None = None,
    weights: Tensor | None = None,
    l2: Sequence[float] = (0.0,) * STEPS,
    steps: int = STEPS,
    tile: int = TILE,
):
    """Take steps, the first without curvature, each with its penalty, and return weight and state."""
    on_device = case.to(device, dtype)
    rule = cfg.build()
    weight = (
        torch.linspace(-1, 1, case.num_rows * WIDTH, dtype=torch.float64).view(-1, WIDTH).to(device, dtype)
    )
    state = rule.new_state(weight)
    mask = None if sampled is None else sampled.to(device)
    weights = None if weights is None else weights.to(device, dtype)
    for step in range(steps):
        grad = on_device.grad.roll(step, 0)
        curvature = on_device.curvature.roll(step, 0) if step else None
        if curvature is not None and cfg.pooled_curvature == "mean":
            curvature = curvature.mean(1, keepdim=True)
        where = (on_device.rows, on_device.bags, grad, curvature)
        if fused:
            from dlrm_adahessian.kernels.triton_rows import update_rows_triton_

            update_rows_triton_(
                weight, state, *where, sampled=mask, rule=rule.direction_triton, cfg=cfg, lr=cfg.lr * LR_SCALE,
                samples=case.batch, weights=weights, l2=l2[step], tile=tile,
            )  # fmt: skip
        elif len(case.rows):
            hits = sums(case, where, mask, weights)
            if mask is not None:
                hits = hits.with_curvature_of_all()
            if l2[step]:
                hits = hits.penalized(weight, l2[step])
            rule.update_torch_(weight, state, hits, lr_scale=LR_SCALE, samples=case.batch)
    return {"weight": weight, **state}


def assert_same(cfg, case: Lookups, device: str, dtype=torch.float64, **how: Any):
    # Sums of at most 25 terms, roots and quotients. AdaHessian divides rounded terms by 1 - beta2 = 0.01.
    tolerance = 5e3 * torch.finfo(dtype).eps
    found = run(cfg, case, device, dtype, fused=True, **how)
    expected = run(cfg, case, device, dtype, fused=False, **how)
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", RULES)
def test_rules_equal_the_torch_reference_with_and_without_a_penalty(name: str, device: str):
    case = CASES["bags_with_repeated_rows"]
    sampled = torch.arange(case.batch) % 3 == 0
    assert_same(RULES[name], case, device, sampled=sampled, l2=(0.25, 0.0, 0.25), tile=2 * TILE)


@pytest.mark.parametrize("device", DEVICES)
def test_a_row_of_many_tiles_is_penalized_once(device: str):
    assert_same(
        RULES["hessian_adagrad"],
        CASES["one_row_hit_by_the_whole_batch"],
        device,
        l2=(0.25, 0.25),
        steps=WITHOUT_AND_WITH_CURVATURE,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("rule", "name", "some"),
    [
        ("cowclip", "bags_with_repeated_rows", False),  # it reads the counts
        ("hessian_adagrad", "bags_with_repeated_rows", True),  # scaled by squares
        ("hessian_adagrad", "long_bags_with_repeated_rows", True),
        ("hessian_adagrad", "one_row_hit_by_the_whole_batch", True),
        ("hessian_adagrad", "runs_that_end_with_their_tile", False),
        ("adam", "one_lookup", False),  # of weight 0
    ],
)
def test_a_sample_of_weight_w_is_learned_as_w_samples(rule: str, name: str, some: bool, device: str):
    case = CASES[name]
    sample = torch.arange(case.batch)
    sampled = sample % 2 == 0 if some else None
    assert_same(
        RULES[rule], case, device, sampled=sampled, weights=sample % 3 / 2, steps=WITHOUT_AND_WITH_CURVATURE
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CASES)
def test_sums_equal_the_torch_reference(name: str, device: str):
    assert_same(RULES["hessian_adagrad"], CASES[name], device, steps=WITHOUT_AND_WITH_CURVATURE)


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_may_have_more_tiles_than_are_added_at_a_time(device: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dlrm_adahessian.kernels.triton_rows._SPAN", 2)
    case = one_hot([1], 6 * TILE + 1)
    assert_same(RULES["hessian_adagrad"], case, device, steps=WITHOUT_AND_WITH_CURVATURE)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_sampled", [0, 1])
@pytest.mark.parametrize("name", ["one_row_hit_by_the_whole_batch", "long_bags_with_repeated_rows"])
def test_a_run_over_tiles_has_curvature_where_one_of_its_samples_took_part(
    name: str, num_sampled: int, device: str
):
    case = CASES[name]
    sampled = torch.arange(case.batch) < num_sampled
    assert_same(RULES["hessian_adagrad"], case, device, sampled=sampled, steps=WITHOUT_AND_WITH_CURVATURE)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "name", ["hessian_adagrad", "hessian_adagrad_rowwise", "adahessian_rowwise_momentum"]
)
def test_float32_equals_the_torch_reference(name: str, device: str):
    assert_same(RULES[name], CASES["duplicates"], device, torch.float32)


@pytest.mark.parametrize("device", DEVICES)
def test_same_input_gives_same_bits(device: str):
    case = CASES["one_row_hit_by_the_whole_batch"]
    first, second = (run(RULES["adahessian"], case, device, torch.float32, fused=True) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("device", DEVICES[1:])
@pytest.mark.parametrize("name", RULES)
def test_rules_equal_the_torch_reference_on_many_rows(name: str, device: str):
    """As many lookups and as uneven runs as in a batch of Criteo, with the production width and tile size."""
    generator = torch.Generator().manual_seed(1)
    batch, sizes, width = 4096, [3, 20, 300, 100_000, 1_000_000], 16
    picked = [(torch.rand(batch, generator=generator).pow_(4) * size).long() for size in sizes]
    starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    rows = torch.cat([first + part for first, part in zip(starts, picked, strict=True)]).to(device)
    bags = (torch.arange(batch) * len(sizes) + torch.arange(len(sizes)).unsqueeze(1)).reshape(-1).to(device)
    rule, found = RULES[name].build(), []
    for fused in (True, False):
        weight = torch.ones(sum(sizes), width, dtype=torch.float64, device=device)
        state = rule.new_state(weight)
        for step in range(STEPS):
            generator.manual_seed(step)
            grad = (torch.randn(batch * len(sizes), width, generator=generator).double() / batch).to(device)
            curvature = grad.square() * batch * 1.5 if step else None
            if curvature is not None and rule.cfg.pooled_curvature == "mean":
                curvature = curvature.mean(1, keepdim=True)
            if fused:
                rule.update_triton_(
                    weight, state, rows, bags, grad, curvature, sampled=None, lr_scale=0.5, samples=batch
                )
            else:
                hits = sum_hits_torch(rows, bags, grad, curvature)
                rule.update_torch_(weight, state, hits, lr_scale=0.5, samples=batch)
        found.append({"weight": weight, **state})
    for key, tensor in found[1].items():
        torch.testing.assert_close(found[0][key], tensor, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_repeats_are_counted_within_the_lookups_alone(device: str):
    """Bag 0 contains row 2 three times at the end. The memory after it continues as if there were more lookups."""
    from tests.kernels.counting import count_repeats

    keys = torch.tensor([1, 2, 2, 2, *[-1] * 4], device=device)
    order = torch.tensor([3, 0, 1, 2, *[0] * 4], device=device)
    bags = torch.tensor([0, 0, 0, 1], device=device)
    found = torch.zeros(8, dtype=torch.int32, device=device)
    count_repeats[(1,)](keys, order, bags, found, 4, TILE=8)
    assert found.tolist() == [1, 1, 2, 3, 1, 1, 1, 1]


TABLE_ROWS = [4, 1, 9]
LENGTHS = {
    "one_hot": [1] * 15,
    "long_bags": [20, 0, 7, 13, 1, 20],
    "bags_of_several_and_empty_ones": [0, 3, 1, 0, 2, 5, 0, 0, 1, 1, 0, 0, 0, 2, 4],
    "no_lookup_at_all": [0] * 6,
    "more_bags_than_a_program_takes": [1] * 75,
    "no_bag": [],
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", LENGTHS)
def test_lookup_equals_the_one_on_the_cpu(name: str, device: str):
    from dlrm_adahessian.kernels.triton_rows import look_up_triton

    lengths = torch.tensor(LENGTHS[name], dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    tables = RowTables(
        TABLE_ROWS, WIDTH, [0, 1, 2], rule=RowAdagradConfig().build(), device=torch.device("cpu"), dtype=torch.float64
    )  # fmt: skip
    tables.weight.normal_(generator=generator)
    heights = torch.tensor(TABLE_ROWS).repeat_interleave(len(lengths) // 3).repeat_interleave(lengths)
    indices = (torch.rand(len(heights), generator=generator) * heights).long()
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    expected = tables(indices, offsets).detach().view(-1, WIDTH)
    first_rows = torch.tensor([0, 4, 5])
    on_device = (tensor.to(device) for tensor in (tables.weight, indices, offsets, first_rows))
    rows, bags, pooled = look_up_triton(*on_device)
    torch.testing.assert_close(pooled.cpu(), expected, rtol=1e-14, atol=1e-14)
    again = torch.zeros_like(expected).index_add(0, bags.cpu(), tables.weight[rows.cpu()])
    torch.testing.assert_close(again, expected, rtol=1e-14, atol=1e-14)
