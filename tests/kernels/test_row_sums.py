"""Test sums over hits against a loop over lookups in float64 and against the exact Hessian."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dlrm_adahessian.kernels import row_sums
from dlrm_adahessian.kernels.row_sums import Hits, sum_hits, sum_hits_torch
from tests.kernels.repetition import repeated

DIM = 3

Case = tuple[list[list[list[int]]], list[int]]
"""The rows of each bag by table and sample, and the number of rows per table."""


def one_hot(rows_per_table: list[list[int]]) -> list[list[list[int]]]:
    return [[[row] for row in table] for table in rows_per_table]


CASES: dict[str, Case] = {
    "one_hot": (one_hot([[0, 1, 2, 1], [3, 3, 0, 5]]), [3, 6]),
    "repeated_ids_in_a_bag": ([[[0, 1, 0], [1, 1, 1], [2, 0], [0]], [[4, 4], [4, 2, 4], [0], [4]]], [3, 5]),
    "one_row_hit_by_the_whole_batch": (one_hot([[2] * 4, [0] * 4]), [4, 1]),
    "empty_bags": ([[[], [1], [], [1, 0]], [[], [], [], []]], [2, 3]),
    "no_lookup_at_all": ([[[], [], [], []]], [2]),
}


def random_case(sizes: list[int], most: int) -> Case:
    """Generate 40 random bags per table with 0 to `most` values."""
    rng = np.random.default_rng(7)
    return [[rng.integers(n, size=rng.integers(most + 1)).tolist() for _ in range(40)] for n in sizes], sizes


CASES["random_bags"] = random_case([2, 50, 1], 4)
CASES["long_bags"] = random_case([6, 50, 1], 20)


class Problem:
    """Tensors of one case, with random signed derivatives."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        tables, sizes = case
        self.num_samples, self.num_rows = len(tables[0]), sum(sizes)
        num_tables = len(tables)
        first_rows = np.cumsum([0, *sizes])
        rows, bags, starts = [], [], [0]
        for t, samples in enumerate(tables):
            for b, bag in enumerate(samples):
                rows += [int(first_rows[t]) + row for row in bag]
                bags += [b * num_tables + t] * len(bag)
            starts.append(len(rows))
        self.rows = torch.tensor(rows, dtype=torch.int64)
        self.bags = torch.tensor(bags, dtype=torch.int64)
        self.table_starts = torch.tensor(starts, dtype=torch.int64)
        self.slots = torch.full((self.num_rows,), -1, dtype=torch.int32)
        generator = torch.Generator().manual_seed(3)
        shape = (self.num_samples * num_tables, DIM)
        self.grad = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        self.curvature = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    @property
    def multiplicities(self) -> Counter[tuple[int, int]]:
        """Count how often a bag contains a row, by row and bag."""
        return Counter(zip(self.rows.tolist(), self.bags.tolist(), strict=True))

    def brute_force(self, sampled: list[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor, set[int]]:
        """Return (R, D) gradient and curvature, (R,) squares of all and of sampled bags, and the rows of the batch."""
        grad = torch.zeros(self.num_rows, DIM, dtype=torch.float64)
        curvature = torch.zeros_like(grad)
        squares, curvature_squares = torch.zeros(2, self.num_rows, dtype=torch.int64)
        bags_per_sample = len(self.grad) // self.num_samples
        for (row, bag), m in self.multiplicities.items():
            grad[row] += m * self.grad[bag].double()
            squares[row] += m**2
            if sampled[bag // bags_per_sample]:
                curvature[row] += m**2 * self.curvature[bag].double()
                curvature_squares[row] += m**2
        return grad, curvature, squares, curvature_squares, {row for row, _ in self.multiplicities}

    @property
    def bound(self) -> float:
        """Return an upper bound of the error of a sum."""
        # Sums of at most 40 bags x m**2 values of size below 5, with one rounding error per addition.
        largest = max(self.multiplicities.values(), default=1)
        return 40 * largest**2 * 5 * torch.finfo(self.grad.dtype).eps

    def hits(self, device_kernel: str, *, curvature: bool = True, sampled: Tensor | None = None) -> Hits:
        """Return the kernel's result for the case."""
        curv = self.curvature if curvature else None
        if device_kernel == "torch":
            return sum_hits_torch(self.rows, self.bags, self.grad, curv, sampled=sampled)
        return sum_hits(
            self.rows, self.bags, self.grad, curv,
            table_starts=self.table_starts, slots=self.slots, sampled=sampled,
        )  # fmt: skip


def use_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `sum_hits` use torch, which otherwise happens on a GPU only."""

    def of_torch(*where: Tensor, sampled: Tensor | None, **_: Tensor) -> Hits:
        return sum_hits_torch(*where, sampled=sampled)

    monkeypatch.setattr(row_sums, "sum_hits_numba", of_torch)


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kernel", ["torch", "numba"])
@pytest.mark.parametrize("num_sampled", [None, 0, 1, 3])
@pytest.mark.parametrize("name", CASES)
def test_sums_equal_a_loop_over_bags(name: str, num_sampled: int | None, kernel: str, dtype: torch.dtype):
    problem = Problem(CASES[name], dtype)
    sampled = None if num_sampled is None else torch.arange(problem.num_samples) < num_sampled
    hits = problem.hits(kernel, sampled=sampled)
    grad, curvature, squares, curvature_squares, touched = problem.brute_force(
        [True] * problem.num_samples if sampled is None else sampled.tolist()
    )
    assert sorted(hits.rows.tolist()) == sorted(touched)
    assert hits.grad.dtype == dtype
    assert hits.curvature is not None
    assert hits.has_curvature is not None
    torch.testing.assert_close(hits.grad.double(), grad[hits.rows], rtol=0, atol=problem.bound)
    torch.testing.assert_close(hits.curvature.double(), curvature[hits.rows], rtol=0, atol=problem.bound)
    assert torch.equal(hits.squares, squares[hits.rows])
    assert torch.equal(hits.curvature_squares, curvature_squares[hits.rows])
    assert torch.equal(hits.has_curvature, curvature_squares[hits.rows] > 0)
    assert hits.count.tolist() == [problem.rows.tolist().count(row) for row in hits.rows.tolist()]


@pytest.mark.oracle
@pytest.mark.parametrize("kernel", ["torch", "numba"])
def test_row_curvature_is_the_hessian_diagonal_of_a_mean_loss(kernel: str):
    # The loss is any mean over samples of a smooth function of the sample's pooled embedding. The input is its Hessian
    # diagonal at the pooled embedding. The output must be its Hessian diagonal at the table.
    problem = Problem((CASES["repeated_ids_in_a_bag"][0][:1], [3]), torch.float64)
    table = torch.linspace(-1, 1, 3 * DIM, dtype=torch.float64).view(3, DIM)

    def pool(weights: Tensor) -> Tensor:
        return weights.new_zeros(4, DIM).index_add(0, problem.bags, weights[problem.rows])

    def loss(pooled: Tensor) -> Tensor:
        return (pooled.sum(1).sin() + pooled.square().prod(1)).mean()

    def hess_diag(function, at: Tensor) -> Tensor:
        hessian = torch.func.hessian(lambda flat: function(flat.view_as(at)))(at.flatten())
        return hessian.diagonal().view_as(at).contiguous()  # numba compiles once more for strides

    problem.grad = torch.func.grad(loss)(pool(table))
    problem.curvature = hess_diag(loss, pool(table))
    hits = problem.hits(kernel)
    exact = hess_diag(lambda weights: loss(pool(weights)), table)
    assert hits.curvature is not None
    torch.testing.assert_close(hits.curvature, exact[hits.rows], rtol=0, atol=1e-12)
    exact_grad = torch.func.grad(lambda weights: loss(pool(weights)))(table)
    torch.testing.assert_close(hits.grad, exact_grad[hits.rows], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", ["torch", "numba"])
@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_without_samples_touches_no_row(
    weighted: bool, some: bool, kernel: str, monkeypatch: pytest.MonkeyPatch
):
    problem = Problem(([[], []], [2, 3]), torch.float64)
    if kernel == "torch":
        use_torch(monkeypatch)
    hits = sum_hits(
        problem.rows, problem.bags, problem.grad, problem.curvature,
        table_starts=problem.table_starts, slots=problem.slots,
        sampled=torch.empty(0, dtype=torch.bool) if some else None,
        weights=torch.empty(0, dtype=torch.float64) if weighted else None,
    )  # fmt: skip
    assert hits.grad.shape == hits.curvature.shape == (0, DIM)
    assert not any(map(len, (hits.rows, hits.count, hits.squares, hits.curvature_squares)))


@pytest.mark.parametrize("kernel", ["torch", "numba"])
def test_step_without_curvature_has_none(kernel: str):
    hits = Problem(CASES["random_bags"], torch.float32).hits(kernel, curvature=False)
    assert hits.curvature is None
    assert hits.has_curvature is None


@pytest.mark.parametrize("kernel", ["torch", "numba"])
def test_same_input_gives_same_bits_whatever_the_thread_count(kernel: str):
    problem = Problem(CASES["random_bags"], torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = problem.hits(kernel)
    finally:
        torch.set_num_threads(threads)
    again = problem.hits(kernel)
    for name in ("rows", "grad", "count", "curvature", "squares", "curvature_squares"):
        assert torch.equal(getattr(alone, name), getattr(again, name))


def test_slot_map_is_left_clean():
    problem = Problem(CASES["random_bags"], torch.float32)
    problem.hits("numba")
    assert (problem.slots == -1).all()


def test_cpu_kernel_refuses_without_its_scratch():
    problem = Problem(CASES["one_hot"], torch.float32)
    with pytest.raises(ValueError, match="needs table_starts and slots"):
        sum_hits(problem.rows, problem.bags, problem.grad, None)


@pytest.mark.oracle
def test_the_curvature_of_samples_that_took_no_part_is_taken_to_be_that_of_those_that_did():
    """One row is hit by three samples, two of them used for the curvature. Another is hit by none of those."""
    rows, bags = torch.tensor([0, 0, 0, 1]), torch.arange(4)
    curvature = torch.tensor([[2.0], [4.0], [100.0], [100.0]])
    hits = sum_hits_torch(
        rows, bags, torch.ones(4, 1), curvature, sampled=torch.tensor([True, True, False, False])
    ).with_curvature_of_all()
    assert hits.curvature is not None
    assert hits.has_curvature is not None
    assert hits.curvature[0].item() == pytest.approx(3 * 3.0)
    assert hits.has_curvature.tolist() == [True, False]


@pytest.mark.oracle
@pytest.mark.parametrize("kernel", ["torch", "numba"])
def test_curvature_that_is_the_same_in_all_bags_is_that_of_all_whichever_took_part(kernel: str):
    """A bag that contains a row 3 times has 9 times its curvature. Scaling by its 3 lookups would be wrong."""
    problem = Problem(CASES["long_bags"], torch.float64)
    problem.curvature = torch.ones_like(problem.curvature)
    whole = problem.hits(kernel)
    part = problem.hits(kernel, sampled=torch.arange(problem.num_samples) % 3 == 1).with_curvature_of_all()
    assert whole.curvature is not None
    assert part.curvature is not None
    assert part.has_curvature is not None
    assert part.has_curvature.sum() > len(part.rows) // 2
    found, expected = part.curvature[part.has_curvature], whole.curvature[part.has_curvature]
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.oracle
@pytest.mark.parametrize("num_sampled", [None, 0, 3])
@pytest.mark.parametrize("name", CASES)
def test_lookups_count_by_weights_that_are_no_whole_numbers_and_none_of_weight_0_touches_a_row(
    name: str, num_sampled: int | None
):
    problem = Problem(CASES[name], torch.float64)
    samples = problem.num_samples
    weights = torch.arange(samples, dtype=torch.float64) % 3 / 2  # 0, 0.5 and 1
    sampled = None if num_sampled is None else torch.arange(samples) < num_sampled
    of_weight = weights.repeat_interleave(len(problem.grad) // samples).unsqueeze(1)
    problem.grad *= of_weight  # as in the derivatives of a weighted loss
    problem.curvature *= of_weight
    grad, curvature, *_ = problem.brute_force([True] * samples if sampled is None else sampled.tolist())
    counts, squares, of_part = torch.zeros(3, problem.num_rows, dtype=torch.float64)
    for (row, bag), m in problem.multiplicities.items():
        sample = bag // (len(problem.grad) // samples)
        counts[row] += weights[sample] * m
        squares[row] += weights[sample] * m**2
        of_part[row] += weights[sample] * m**2 if sampled is None or sampled[sample] else 0

    hits = sum_hits(
        problem.rows, problem.bags, problem.grad, problem.curvature,
        table_starts=problem.table_starts, slots=problem.slots, sampled=sampled, weights=weights,
    )  # fmt: skip

    assert sorted(hits.rows.tolist()) == counts.nonzero().flatten().tolist()
    torch.testing.assert_close(hits.count, counts[hits.rows])
    torch.testing.assert_close(hits.squares, squares[hits.rows])
    torch.testing.assert_close(hits.curvature_squares, of_part[hits.rows])
    torch.testing.assert_close(hits.grad, grad[hits.rows], rtol=0, atol=problem.bound)
    torch.testing.assert_close(hits.curvature, curvature[hits.rows], rtol=0, atol=problem.bound)
    assert (problem.slots == -1).all()
    scaled = hits.with_curvature_of_all()
    has = of_part[hits.rows] > 0
    scale = (squares / of_part)[hits.rows][has].unsqueeze(1)
    torch.testing.assert_close(scaled.curvature[has], hits.curvature[has] * scale)
    assert not scaled.curvature[~has].any()


@pytest.mark.oracle
@pytest.mark.parametrize("kernel", ["torch", "numba"])
@pytest.mark.parametrize("num_sampled", [None, 0, 3])
@pytest.mark.parametrize("name", CASES)
def test_a_sample_of_weight_w_counts_as_w_samples_whatever_its_bags_hold(
    name: str, num_sampled: int | None, kernel: str, monkeypatch: pytest.MonkeyPatch
):
    problem = Problem(CASES[name], torch.float64)
    samples, bags_per_sample = problem.num_samples, len(problem.grad) // problem.num_samples
    weights = torch.arange(samples) % 3
    sampled = None if num_sampled is None else torch.arange(samples) < num_sampled
    times = weights.repeat_interleave(bags_per_sample)
    expected = sum_hits_torch(
        *repeated(problem.rows, problem.bags, times),
        problem.grad.repeat_interleave(times, 0),
        problem.curvature.repeat_interleave(times, 0),
        sampled=None
        if sampled is None
        else sampled.repeat_interleave(bags_per_sample).repeat_interleave(times),
    )
    problem.grad *= times.unsqueeze(1)  # as in the derivatives of a weighted loss
    problem.curvature *= times.unsqueeze(1)
    if kernel == "torch":
        use_torch(monkeypatch)

    hits = sum_hits(
        problem.rows, problem.bags, problem.grad, problem.curvature,
        table_starts=problem.table_starts, slots=problem.slots, sampled=sampled, weights=weights.double(),
    )  # fmt: skip

    assert (problem.slots == -1).all()
    order = hits.rows.argsort()
    assert torch.equal(hits.rows[order], expected.rows)
    for counted in ("count", "squares", "curvature_squares"):
        assert torch.equal(getattr(hits, counted)[order], getattr(expected, counted).double())
    assert torch.equal(hits.has_curvature[order], expected.has_curvature)
    for summed in ("grad", "curvature"):
        found = getattr(hits, summed)[order]
        torch.testing.assert_close(found, getattr(expected, summed), rtol=0, atol=2 * problem.bound)


def test_the_mean_over_a_row_of_a_penalized_curvature_is_the_mean_penalized():
    weight = torch.arange(6.0).view(2, DIM)
    one = torch.ones(1, dtype=torch.int64)
    curvature = torch.tensor([[1.0, 2.0, 6.0]])
    entries = Hits(
        rows=one, grad=torch.zeros(1, DIM), count=one, curvature=curvature, squares=one, curvature_squares=one
    )
    mean = replace(entries, curvature=curvature.mean(1, keepdim=True))
    assert entries.penalized(weight, 0.5).curvature.tolist() == [[1.5, 2.5, 6.5]]
    assert mean.penalized(weight, 0.5).curvature.tolist() == [[3.5]]
    assert mean.penalized(weight, 0.5).grad.tolist() == [[1.5, 2.0, 2.5]]
    assert replace(entries, curvature=None).penalized(weight, 0.5).curvature is None
