"""Initial values are uniform and depend on the seed, the index of the table, and the row."""

import pytest
import torch
from torch import Tensor

from dlrm_adahessian.embeddings import table_shard
from dlrm_adahessian.embeddings.table_shard import fill_uniform_


def table(num_rows: int, *, seed: int = 1, index: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    whole = torch.empty(num_rows, 4, dtype=dtype)
    fill_uniform_(whole, first_row=0, num_rows=num_rows, seed=seed, table=index)
    return whole


@pytest.mark.parametrize(("first", "last"), [(0, 10), (3, 20), (8, 16), (15, 17), (19, 20)])
def test_shard_equals_the_same_rows_of_the_whole_table(
    first: int, last: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(table_shard, "_BLOCK_ROWS", 8)
    shard = torch.empty(last - first, 4)
    fill_uniform_(shard, first_row=first, num_rows=20, seed=1, table=0)
    assert torch.equal(shard, table(20)[first:last])


@pytest.mark.parametrize(("first", "last"), [(0, 4), (0, 1), (1, 3), (3, 4)])
def test_columns_equal_those_of_the_whole_table(first: int, last: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table_shard, "_BLOCK_ROWS", 8)
    shard = torch.empty(14, last - first)
    fill_uniform_(shard, first_row=5, num_rows=20, seed=1, table=0, first_column=first, dim=4)
    assert torch.equal(shard, table(20)[5:19, first:last])


def test_values_do_not_depend_on_threads_or_dtype():
    whole = table(70_000)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(table(70_000), whole)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(table(70_000, dtype=torch.float64).float(), whole)


def test_seeds_tables_and_blocks_differ(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table_shard, "_BLOCK_ROWS", 8)
    whole = table(16)
    assert not torch.equal(whole[:8], whole[8:])
    assert not torch.equal(whole, table(16, seed=2))
    assert not torch.equal(whole, table(16, index=1))


def test_values_are_uniform_within_one_over_root_of_rows():
    num_rows = 100_000
    scaled = table(num_rows).flatten().double() * num_rows**0.5
    assert scaled.min() >= -1
    assert scaled.max() <= 1
    # 5 standard errors of the mean of 400,000 values from U(-1, 1), variance 1/3, and of their squares, variance 4/45.
    assert abs(scaled.mean()) < 5 * (1 / 3) ** 0.5 / 400_000**0.5
    assert abs(scaled.square().mean() - 1 / 3) < 5 * (4 / 45) ** 0.5 / 400_000**0.5


def test_a_bound_of_ones_own_scales_the_values():
    whole = torch.empty(100, 4, dtype=torch.float64)
    fill_uniform_(whole, first_row=0, num_rows=100, seed=1, table=0, bound=0.02)
    # 1 / sqrt(100) is 0.1; values are scaled and shifted in float32.
    torch.testing.assert_close(whole, table(100, dtype=torch.float64) / 5, rtol=0, atol=1e-8)
