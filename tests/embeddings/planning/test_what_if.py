"""The `plan` command: published table sizes, JSON output, and refusals."""

import json
import re
from pathlib import Path

import pytest

from dlrm_adahessian import cli
from dlrm_adahessian.config import load
from dlrm_adahessian.embeddings.planning.what_if import PlanConfig, planned, table_sizes
from dlrm_adahessian.errors import UsageError
from tests.processes import program, worlds


def config(optimizer: str = "hybrid", **changes: object) -> PlanConfig:
    return PlanConfig(optimizer=optimizer, optim=load(None, optimizer).optim, **changes)  # pyright: ignore


def call(folder: Path, *arguments: str) -> tuple[int | None, str]:
    """Return the exit code of the command, and its standard output and error."""
    (code,) = worlds.wait(worlds.start(1, cli.main, ["plan", *arguments], log=folder / "log"))
    return code, worlds.printed(folder / "log", 0)


def test_published_sizes_are_those_of_26_tables():
    kaggle, large = table_sizes("kaggle"), table_sizes("criteo_1tb")
    # Total rows in facebookresearch/dlrm and MLPerf, for Kaggle and for 1 TB modulo 40 million.
    assert (len(kaggle.rows), sum(kaggle.rows)) == (26, 33_762_577)
    assert (len(large.rows), sum(large.rows), max(large.rows)) == (26, 187_767_399, 39_979_771)
    assert (kaggle.model.embedding_dim, large.model.embedding_dim) == (16, 128)


def test_published_multi_hot_sizes_are_those_of_26_tables():
    multi_hot = table_sizes("criteo_1tb_multihot")
    # Embedding rows of all tables of MLPerf's DLRM-DCNv2, and values of a sample.
    assert (len(multi_hot.rows), sum(multi_hot.rows), sum(multi_hot.bag_lengths)) == (26, 204_184_588, 214)
    assert (multi_hot.bag_lengths[20], multi_hot.rows[20]) == (100, 40_000_000)


@pytest.mark.parametrize("hosts", [1, 4, pytest.param(16, marks=pytest.mark.campaign)])
def test_the_1_tb_tables_fit_on_gpus_of_80_gib(hosts: int):
    plan = planned(config(tables="criteo_1tb", hosts=hosts))
    assert plan.machines.ranks == 8 * hosts
    whole = {shard.table: shard for shard in plan.shards if shard.sharding != "replicate"}
    copies = {shard.table: shard for shard in plan.shards if shard.sharding == "replicate"}
    assert len(whole) + len(copies) == 26
    weights = sum(s.weights for s in plan.shards) - (8 * hosts - 1) * sum(s.weights for s in copies.values())
    assert weights == 187_767_399 * 128 * 4
    assert max(plan.rank_bytes(rank) for rank in range(8 * hosts)) < 0.85 * 80 * 2**30


def test_standard_output_is_one_json_document():
    flags = ["--json", "--optimizer", "adagrad", "--embedding-dim", "32", "--hosts", "2"]
    code, out, err = program.call("plan", *flags)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["asked"] == {"tables": "kaggle", "optimizer": "adagrad", "sharding": "auto"}
    assert found["machines"]["ranks"] == len(found["ranks"]) == 16
    shards = {(s["table"], s["rank"]): s for s in found["shards"]}
    assert all(s["state"] == s["weights"] == s["rows"] * s["columns"] * 4 for s in shards.values())


def test_the_file_of_the_tables_and_the_text(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text("rows = [10, 2000]\n[model]\nembedding_dim = 8\nbottom = [4]\ntop = [4]\n")
    machines = ["--gpus-per-host", "2", "--device", "cpu", "--memory-gib", "1"]
    code, printed = call(tmp_path, "--tables", str(path), *machines)
    assert code == 0
    assert printed.startswith("2 tables on 2 cpu ranks of 1.0 GiB, 2 per host, batch size 65,536\n")


def test_values_per_bag_of_a_file_are_those_of_its_tables(tmp_path: Path):
    path = tmp_path / "mine.toml"
    model = "[model]\nembedding_dim = 8\nbottom = [4]\ntop = [4]\n"
    path.write_text(f"rows = [10, 2000]\nvalues_per_bag = [1, 2.5]\n{model}")
    machines: dict[str, object] = {"gpus_per_host": 1, "batch_size": 100, "optimizer": "adagrad"}
    first, second = planned(config(tables=str(path), **machines)).shards
    # Per lookup: row and bag numbers, 8 bytes each. Per bag: pooled embedding and derivatives. Per row: derivatives.
    assert first.activations == 4 * 8 * 100 + 32 * (3 * 100 + 2 * 10)
    assert second.activations == 4 * 8 * 250 + 32 * (3 * 100 + 2 * 250)
    path.write_text(f"rows = [10, 2000]\n{model}")
    assert [shard.activations for shard in planned(config(tables=str(path), **machines)).shards] == [
        first.activations,
        4 * 8 * 100 + 32 * (3 * 100 + 2 * 100),
    ]


def test_another_architecture_is_as_wide_as_the_tables_model_and_needs_what_its_layers_do():
    tables: dict[str, object] = {
        "tables": "kaggle",
        "gpus_per_host": 1,
        "batch_size": 1,
        "optimizer": "adagrad",
    }
    width, widths = 13 + 26 * 16, (512, 256, 1)
    inputs = (width, *widths)
    layers = sum(i * o + o for i, o in zip(inputs, widths, strict=False)) + 3 * (width * width + width)
    # Parameters, gradient, curvature, and Adagrad's accumulator; then inputs, three crosses, and activations of the MLP.
    expected = 4 * 4 * layers + 16 * (width + 3 * 3 * width + width + 512 + 256)
    assert planned(config(model="dcnv2", **tables)).dense_bytes == expected
    assert {shard.columns for shard in planned(config(model="deepfm", **tables)).shards} == {16}
    narrow = planned(config(model="deepfm", embedding_dim=4, **tables))
    assert {shard.columns for shard in narrow.shards} == {4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--tables", "criteo_1tb", "--gpus-per-host", "1"],
            r"59\.\d of 80.0 GiB .* 89\.5 GiB for 26 tables, .* would fit: 2 ranks; .*embedding width 64",
        ),
        (
            ["--sharding", "column"],
            "Column sharding .* needs a row optimizer that updates each entry by itself",
        ),
        (["--optimizer", "hybird"], "Did you mean 'hybrid'"),
        (
            ["--model", "deepfm", "--embedding-dim", "1"],
            "embedding_dim must be greater than or equal to 2",
        ),
    ],
)
def test_what_cannot_be_is_one_message_with_its_remedy(arguments: list[str], message: str, tmp_path: Path):
    code, printed = call(tmp_path, *arguments)
    assert code == 64
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert re.search(message, printed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "Unknown tables: 'nothing'. Choose kaggle, criteo_1tb, criteo_1tb_multihot, or"),
        ("rows = []", "at least 1 item"),
        ("rows = [0]", "greater than or equal to 1"),
        ("rows = [1]\ncolumns = 3", "Unknown setting 'columns'"),
        (
            "rows = [1, 2]\nvalues_per_bag = [1.5]",
            "one number for each of the 2 tables, got 1. Provide as many",
        ),
        ("rows = [1]\nvalues_per_bag = [-1]", "greater than or equal to 0"),
        ("rows = [1]\nvalues_per_bag = [inf]", "finite number"),
    ],
)
def test_unfit_table_files_are_refused(text: str | None, message: str, tmp_path: Path):
    name = "nothing"
    if text is not None:
        path = tmp_path / "tables.toml"
        path.write_text(text)
        name = str(path)
    with pytest.raises(UsageError, match=message):
        table_sizes(name)
