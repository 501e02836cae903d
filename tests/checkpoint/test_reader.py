"""Valid checkpoints: bit-exact round trips, any partition of rows, misfits, and runs that continue during reading."""

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dlrm_adahessian.checkpoint import reader
from dlrm_adahessian.checkpoint.reader import Checkpoint, load, load_newest_good
from dlrm_adahessian.checkpoint.tensor_file import DTYPES
from dlrm_adahessian.checkpoint.writer import Contents, save
from dlrm_adahessian.data.schema import from_dict
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.embeddings.table_shard import TableShard
from dlrm_adahessian.errors import CheckpointError, LockedError, ProgramError
from dlrm_adahessian.model.config import DLRMConfig
from dlrm_adahessian.runs.sealed import exclusive_lock, fingerprint, read_sealed
from tests.checkpoints import (
    RUN,
    blank,
    blank_shard,
    dense_of,
    part,
    same_bits,
    save_only,
    save_seed,
    seed_of,
    table_of,
    tables_of,
)
from tests.hostile import reseal
from tests.processes import worlds
from tests.processes.holder import holding


def strip(table: TableShard, rows: tuple[int, int], columns: tuple[int, int]) -> TableShard:
    """Return a rectangle of a table; each rectangle has its own copy of per-row states."""
    cut = part(table, *rows)
    tensors = {n: t[:, slice(*columns)] if t.dim() == 2 else t for n, t in cut.tensors.items()}
    return dataclasses.replace(cut, tensors=tensors, first_column=columns[0], table_columns=table.columns)


# Round trips


def test_every_bit_of_every_dtype_comes_back(tmp_path: Path) -> None:
    path = save_seed(tmp_path / "checkpoints", 1)
    assert path.name == "step-00000100"
    checkpoint = load(path, RUN)
    assert checkpoint.step == 100
    assert seed_of(checkpoint) == 1
    assert {tensor.dtype for tensor in dense_of(1).values()} == set(DTYPES)


def test_restoring_writes_into_the_same_memory_and_into_leaves(tmp_path: Path) -> None:
    path = save_only(tmp_path, dense={"w": torch.arange(3.0)})
    parameter = torch.nn.Parameter(torch.zeros(3))
    address = parameter.data_ptr()
    load(path, RUN).restore_({"w": parameter}, [])
    assert parameter.data_ptr() == address
    assert parameter.tolist() == [0, 1, 2]


def test_a_parameter_that_requires_a_gradient_is_saved_without_a_warning(tmp_path: Path) -> None:
    path = save_only(tmp_path, dense={"w": torch.nn.Parameter(torch.arange(3.0))})
    target = torch.zeros(3)
    load(path, RUN).restore_({"w": target}, [])
    assert target.tolist() == [0, 1, 2]


@pytest.mark.parametrize("stored_at", [[0, 11], [0, 5, 11], [0, 1, 2, 11], [0, 0, 4, 4, 11]])
@pytest.mark.parametrize("wanted_at", [[0, 11], [0, 6, 11], [0, 1, 5, 10, 11], [3, 3, 9]])
def test_rows_saved_in_one_partition_load_in_any_other(
    tmp_path: Path, stored_at: list[int], wanted_at: list[int]
) -> None:
    table, other = table_of(1, "C3", 11), table_of(1, "C4", 3)
    stored = [part(table, first, last) for first, last in itertools.pairwise(stored_at)]
    path = save_only(tmp_path, shards=[*reversed(stored), other])
    wanted = [part(table, first, last) for first, last in itertools.pairwise(wanted_at)]
    filled = [blank_shard(shard) for shard in wanted]
    load(path, RUN).restore_({}, filled)
    for shard, truth in zip(filled, wanted, strict=True):
        assert all(same_bits(shard.tensors[name], truth.tensors[name]) for name in truth.tensors)


STRIPS = {
    "whole": [((0, 11), (0, 8))],
    "rows": [((0, 5), (0, 8)), ((5, 11), (0, 8))],
    "halves": [((0, 11), (0, 4)), ((0, 11), (4, 8))],
    "uneven": [((0, 11), (0, 1)), ((0, 11), (1, 6)), ((0, 11), (6, 8))],
}


@pytest.mark.parametrize("stored_as", STRIPS)
@pytest.mark.parametrize("wanted_as", STRIPS)
def test_columns_saved_in_one_partition_load_in_any_other(
    tmp_path: Path, stored_as: str, wanted_as: str
) -> None:
    table, other = table_of(1, "C3", 11, dim=8), table_of(1, "C4", 3)
    stored = [strip(table, *at) for at in STRIPS[stored_as]]
    path = save_only(tmp_path, shards=[*reversed(stored), other])
    wanted = [strip(table, *at) for at in STRIPS[wanted_as]]
    filled = [dataclasses.replace(shard, tensors=blank(shard.tensors)) for shard in wanted]
    load(path, RUN).restore_({}, filled)
    for shard, truth in zip(filled, wanted, strict=True):
        assert all(same_bits(shard.tensors[name], truth.tensors[name]) for name in truth.tensors)


def test_copies_of_a_replicated_table_load_as_one(tmp_path: Path) -> None:
    table = table_of(1, "C3", 11)
    path = save_only(tmp_path, shards=[table, table])
    filled = blank_shard(table)
    load(path, RUN).restore_({}, [filled])
    assert all(same_bits(filled.tensors[name], table.tensors[name]) for name in table.tensors)


def test_columns_that_no_file_holds_or_of_another_width_are_refused(tmp_path: Path) -> None:
    table = table_of(1, "C3", 11, dim=8)
    path = save_only(tmp_path / "half", shards=[strip(table, (0, 11), (0, 4))])
    with pytest.raises(CheckpointError, match="lacks rows 0 to 11"):
        load(path, RUN).restore_({}, [blank_shard(table)])
    path = save_only(tmp_path / "both", shards=[strip(table, *at) for at in STRIPS["halves"]])
    with pytest.raises(CheckpointError, match="lacks rows 0 to 11"):
        load(path, RUN).restore_({}, [blank_shard(table_of(1, "C3", 11, dim=4))])


# What does not fit

MISFITS = {
    "dtype": (lambda d, _: d.update(parameters=d["parameters"].double()), "'parameters' was F32"),
    "shape": (lambda d, _: d.update(parameters=torch.ones(49)), r"'parameters' was F32 \[50\], is torch.float32 \[49\]"),
    "broadcast": (lambda d, _: d.update(scalar=torch.ones(3)), "'scalar' was"),
    "new tensor": (lambda d, _: d.update(extra=torch.ones(1)), "'extra'"),
    "tensor gone": (lambda d, _: d.pop("step"), "'step'"),
    "table grew": (lambda _, t: t.append(blank_shard(table_of(1, "C3", 12))), "lacks rows 0 to 12 .*C3"),
    "new table": (lambda _, t: t.append(blank_shard(table_of(1, "C9", 3))), "C9"),
    "table width": (lambda _, t: t.append(blank_shard(table_of(1, "C3", 11, 5))), r"C3.*'weight' was F32 \[11, 4\]"),
    "row state gone": (lambda _, t: t[0].tensors.pop("state/sum"), "'state/sum'"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), MISFITS.values(), ids=MISFITS.keys())
def test_what_does_not_fit_is_refused_and_nothing_is_copied(
    two: Path, change: Callable[[dict[str, Tensor], list[TableShard]], object], reason: str
) -> None:
    dense, tables = blank(dense_of(1)), [blank_shard(table) for table in tables_of(1)]
    change(dense, tables)
    with pytest.raises(CheckpointError, match=reason):
        load(two / "step-00000100", RUN).restore_(dense, tables)
    assert all((tensor == 1).all() for tensor in dense.values())
    assert all((tensor == 1).all() for table in tables for tensor in table.tensors.values())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("file", "name"), [("dense", "parameters"), ("tables-00000", "weight")])
def test_numbers_that_are_not_finite_are_refused_though_sealed(
    two: Path, file: str, name: str, value: float
) -> None:
    """This program never saves such values, so they must come from elsewhere."""
    path = two / "step-00000100" / f"{file}.safetensors"
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    tensors[name].view(-1)[0] = value
    save_file(tensors, path)
    reseal(path.parent)
    with pytest.raises(CheckpointError, match=f"Non-finite values in '{name}' of {path}"):
        load(path.parent, RUN).restore_(blank(dense_of(1)), [blank_shard(table) for table in tables_of(1)])


SCHEMA = from_dict({"label": {"column": "y"}, "tokens": [{"column": "C3"}]})


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        ({}, None),
        ({"copies": 2}, None),
        ({"parameters": 42}, "dense part has 43 numbers, but .* has 42"),
        ({"rows": 10}, "table C3 has 44 numbers, but .* has 40"),
        ({"dim": 3}, "table C3 has 44 numbers, but .* has 33"),
        ({"copies": 0}, "table C3 has 44 numbers, but .* has 0"),
    ],
)
def test_a_model_larger_than_the_files_is_refused_before_it_is_made(
    tmp_path: Path, stored: dict[str, int], told: str | None
) -> None:
    model = DLRMConfig(
        bottom=(10**9,), top=(7,), embedding_dim=4
    )  # without numeric features there is no bottom MLP
    parameters = (4 + 1) * 7 + (7 + 1) * 1  # the 4 inputs come from the only table
    assert model.parameters(0, 1) == parameters
    dense = {"parameters": torch.ones(stored.get("parameters", parameters))}
    table = table_of(1, "C3", stored.get("rows", 11), stored.get("dim", 4))
    path = save_only(tmp_path, dense=dense, shards=[table] * stored.get("copies", 1))
    checkpoint = load(path, RUN)
    if told is None:
        checkpoint.require_sizes_of(model, SCHEMA, [11])
        return
    with pytest.raises(CheckpointError, match=told):
        checkpoint.require_sizes_of(model, SCHEMA, [11])


def test_rows_that_no_file_holds_are_refused(tmp_path: Path) -> None:
    table = table_of(1, "C3", 11)
    path = save_only(tmp_path, shards=[part(table, 0, 4), part(table, 6, 11)])
    with pytest.raises(CheckpointError, match="lacks rows 4 to 11"):
        load(path, RUN).restore_({}, [blank_shard(table)])


def test_another_configuration_is_refused_with_the_remedy(two: Path) -> None:
    other = fingerprint({"lr": 0.2})
    with pytest.raises(CheckpointError, match=f"configuration '{RUN}', but this run has '{other}'. Resume"):
        load(two / "step-00000200", other)
    with pytest.raises(CheckpointError, match="None of 2 checkpoints"):
        load_newest_good(two, other)
    assert seed_of(load_newest_good(two, other, RUN)) == 2, "of several owners any will do"
    save(two, Contents(dense={}, shards=[], state={}), step=300, fingerprint=other)
    assert seed_of(load_newest_good(two, RUN)) == 2, "one of another run does not hide those of this one"


# Several machines


def load_as_on_two_machines(checkpoints: Path, report: Path) -> None:
    """Ranks 1 and 2 run on another machine, where verification fails."""
    with init_process_group(timeout=60), pytest.MonkeyPatch.context() as patch:
        rank = ranks.rank()
        patch.setenv("LOCAL_RANK", str(max(0, rank - 1)))
        if rank:
            patch.setattr(reader, "load", refused)
        try:
            load_newest_good(checkpoints, RUN)
        except ProgramError as error:
            (report / str(rank)).write_text(f"{error.exit_code} {error}")


def refused(path: Path, *fingerprints: str) -> None:
    raise CheckpointError("verified")


@pytest.mark.dist
def test_one_rank_of_each_machine_verifies_what_that_one_sees(tmp_path: Path) -> None:
    save_seed(tmp_path / "checkpoints", 1)
    worlds.run(3, load_as_on_two_machines, tmp_path / "checkpoints", tmp_path, log=tmp_path / "log")
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == ["3 ", "3 verified", "3 "]


# Checkpoints of a run that is training


def replacing(
    two: Path, times: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Checkpoint | None:
    """Load while the run replaces the checkpoint that is being read the given number of times."""
    seeds = iter(range(3, 3 + times))

    def read(path: Path) -> dict[str, Any]:
        if (seed := next(seeds, None)) is not None:
            save_seed(two, seed)
            shutil.rmtree(path)
        return read_sealed(path)

    monkeypatch.setattr(reader, "read_sealed", read)
    found = load_newest_good(two, RUN)
    assert not caplog.records, "nothing is wrong"
    return found


@pytest.mark.parametrize("times", [1, 3])
def test_one_that_is_replaced_while_it_is_read_is_looked_for_again(
    times: int, two: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert seed_of(replacing(two, times, monkeypatch, caplog)) == 2 + times


def test_a_run_that_is_always_ahead_is_told_in_words(
    two: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        LockedError, match=r"trains in \S*checkpoints replaced its checkpoint during 10 attempts .*\. Wait"
    ):
        replacing(two, 50, monkeypatch, caplog)


def test_nobody_is_advised_to_remove_what_another_process_trains(two: Path) -> None:
    path = two / "step-00000200"
    (path / "dense.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"Remove {path} to use the one before it"):
        load(path, RUN)
    with (
        holding(two.parent / "lock"),
        pytest.raises(CheckpointError, match=f"training in {two.parent} .*Do not change them") as refused,
    ):
        load(path, RUN)
    assert "Remove" not in str(refused.value)
    with exclusive_lock(two.parent / "lock", wait=False), pytest.raises(CheckpointError, match="Remove"):
        load(path, RUN)  # a resumed run holds the lock until it ends with this message
