"""Suggested remedies fit, and are the smallest that do."""

import dataclasses
import re

import pytest

from dlrm_adahessian.embeddings.planning.remedies import plan_or_refuse
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.model.config import DenseMemory
from dlrm_adahessian.optim.rows import RowAdaHessianConfig
from tests.embeddings.planning.requests import MIB, ROWWISE, other, planned, refusal, request


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, text
    return int(found[1].replace(",", ""))


def test_what_would_fit_fits_and_no_less_does():
    rule = RowAdaHessianConfig().build()
    asked = request(*[20_000_000] * 3, rule=rule, memory=2**31, ranks=2, batch=20_000)
    message = refusal(asked)
    assert "2 ranks" in message
    ranks = number(r"fit: (\d+) ranks", message)
    planned(other(asked, ranks=ranks))
    refusal(other(asked, ranks=ranks - 2))
    dim = number(r"embedding width (\d+)", message)
    planned(other(asked, dim=dim))
    refusal(other(asked, dim=2 * dim))
    gib = number(r"([\d,]+) GiB per rank", message)
    planned(other(asked, memory_bytes=gib * 2**30))
    refusal(other(asked, memory_bytes=(gib - 1) * 2**30))
    assert "batch size" not in message.partition("would fit")[2]


def test_a_state_per_row_is_offered_where_it_helps():
    cfg = RowAdaHessianConfig(lr=0.5)
    asked = request(*[4_000_000] * 3, rule=cfg.build(), memory=700 * MIB, ranks=2, sharding="column")
    assert "(--optim.rows.rowwise)" in refusal(asked)
    planned(other(asked, rule=RowAdaHessianConfig(lr=0.5, rowwise=True).build(), sharding="auto"))


def test_a_smaller_batch_and_auto_are_offered_where_they_help():
    asked = request(*[1000] * 4, ranks=2, memory=200 * MIB, batch=1_000_000, sharding="row")
    batch = number(r"batch size ([\d,]+)(?!.*a batch)", refusal(asked))
    planned(other(asked, batch_size=batch))
    refusal(other(asked, batch_size=2 * batch))
    assert batch < 1_000_000
    asked = request(600_000, ranks=2, memory=40 * MIB, sharding="table", rule=ROWWISE)
    assert "sharding auto" in refusal(asked)


@pytest.mark.parametrize("memory", [1000, MIB])
def test_a_model_that_fits_nowhere_near_is_refused_without_false_hope(memory: int):
    message = refusal(request(10**12, memory=memory, ranks=1, dense=2 * MIB))
    assert message.endswith("Use a smaller model.")
    assert "would fit" not in message


def test_column_shards_of_a_rule_with_a_state_per_row_are_refused():
    asked = request(5, 6, rule=ROWWISE, sharding="column")
    with pytest.raises(
        UsageError,
        match=r"Column sharding \(of all tables\) .*hessian_adagrad keeps a mean .*\. Use sharding row",
    ):
        plan_or_refuse(asked)
    one = dataclasses.replace(
        asked, tables=[asked.tables[0], dataclasses.replace(asked.tables[1], sharding="row")]
    )
    with pytest.raises(UsageError, match=r"\(of C1\)"):
        plan_or_refuse(one)
    assert {shard.sharding for shard in planned(other(asked, ranks=1)).shards} == {"table"}
    assert "column" not in {shard.sharding for shard in planned(other(asked, sharding="auto")).shards}


def test_a_model_without_tables_fits_where_its_dense_part_does():
    fits = dataclasses.replace(request(ranks=2), dense=DenseMemory(per_sample=MIB))
    need = 32 * MIB  # of a batch of 64
    assert planned(other(fits, memory_bytes=int(need / 0.85) + 1)).rank_bytes(0) == need
    message = refusal(other(fits, memory_bytes=int(need / 0.85) - 1))
    assert "0.0 GiB for 0 tables" in message
    assert message.endswith("Any of these would fit: 4 ranks; 1 GiB per rank; batch size 32.")
