"""An exported folder predicts like the checkpoint, or is not created."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from scipy.special import expit, logit
from torch import Tensor

from dlrm_adahessian.checkpoint.reader import Checkpoint
from dlrm_adahessian.cli import main
from dlrm_adahessian.config import composed
from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.prepared.preprocessing import NO_SCALES, Preprocessing
from dlrm_adahessian.data.prepared.vocabulary import Vocabulary
from dlrm_adahessian.data.schema import DenseColumn, LabelColumn, Schema, TokenColumn
from dlrm_adahessian.data.synthetic.generator import write_tsv
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import CheckpointError, UsageError
from dlrm_adahessian.evaluation.calibration.maps import PlattMap
from dlrm_adahessian.evaluation.job import evaluate
from dlrm_adahessian.evaluation.request import EvaluationRequest
from dlrm_adahessian.evaluation.trained_model import TrainedModel
from dlrm_adahessian.serving import export as exporting
from dlrm_adahessian.serving import loader
from dlrm_adahessian.serving.export import BOUND, export, head_program, write_folder
from dlrm_adahessian.serving.parity import Parity, as_tensors, compared, drawn
from dlrm_adahessian.serving.rounding import largest_error, rounded
from dlrm_adahessian.train.state import SCORING_BATCH, TrainState
from tests.oracles import plain_logits


def test_the_folder_predicts_as_the_checkpoint_in_the_same_batches(trained, exact):
    block = drawn(trained.preprocessing, SCORING_BATCH + 500, seed=7)
    with init_process_group():
        ours = trained.score(trained.preprocessing.features(block))
    theirs = loader.load(exact).probabilities(*as_tensors(block)).numpy()
    assert theirs.dtype == np.float32
    assert np.abs(ours - theirs).max() <= BOUND
    assert (ours == theirs).mean() > 0.99  # exp and log1p of two libraries may differ in the last bit
    assert loader.BATCH == SCORING_BATCH
    assert ours.std() > 0.1  # nearly constant predictions would show nothing


def test_drawn_rows_reach_every_row_of_the_tables_and_what_they_lack(trained):
    block = drawn(trained.preprocessing, 20_000)
    ids = trained.preprocessing.features(block).ids
    small = [f for f, height in enumerate(trained.preprocessing.num_rows) if height < 200]
    assert len(small) > 5
    for feature in small:
        assert set(ids[:, feature]) == set(range(trained.preprocessing.num_rows[feature]))
    assert np.nanmin(block.values) < 0
    assert np.nanmax(block.values) > 2**60


@pytest.mark.oracle
def test_a_calibrated_folder_predicts_the_map_of_what_the_plain_one_does(calibrated, exact):
    """The test maps float32 probabilities in float64. Their logits have rounding errors of 2^-24 / (p (1 - p))."""
    model, folder, figures = calibrated
    block = drawn(model.preprocessing, SCORING_BATCH + 500, seed=7)
    plain, found = (loader.load(path).probabilities(*as_tensors(block)).numpy() for path in (exact, folder))
    p = plain.astype(np.float64)
    inside = (p > 1e-3) & (p < 1 - 1e-3)
    np.testing.assert_allclose(found[inside], expit(model.calibration(logit(p[inside]))), atol=1e-4)
    assert np.abs(found - plain).max() > 0.05
    with init_process_group():
        ours = model.score(model.preprocessing.features(block))
    assert np.abs(ours - found).max() <= BOUND * model.calibration.steepest
    assert figures["beyond_rounding"] <= BOUND * model.calibration.steepest
    assert figures["calibration"] == str(model.calibration)
    assert json.loads((folder / "manifest.json").read_text())["format"] == 3  # older loaders reject it


def test_rounded_rows_are_calibrated_as_the_checkpoint_calibrates_its_own(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "head_program", lambda head, **sizes: b"")
    monkeypatch.setattr(exporting, "compared", partial(compared, rows=4_000))
    model = replace(trained, calibration=PlattMap(slope=0.5, intercept=1.0))
    with init_process_group():
        figures = write_folder(model, tmp_path / "folder", "int8")
    assert figures["beyond_rounding"] <= BOUND < figures["largest_difference"]


def test_a_calibration_that_the_folder_lacks_leaves_no_folder(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "head_program", lambda head, **sizes: b"")
    monkeypatch.setattr(exporting, "compared", partial(compared, rows=4_000))
    monkeypatch.setattr(loader._Platt, "__call__", lambda self, logits: logits)
    model = replace(trained, calibration=PlattMap(slope=0.9, intercept=-0.1))
    with (
        init_process_group(),
        pytest.raises(CheckpointError, match="differ from the checkpoint's by .* at most 1e-06 is allowed"),
    ):
        write_folder(model, tmp_path / "folder", "fp32")
    assert not list(tmp_path.iterdir())


@pytest.mark.oracle
def test_the_folder_predicts_what_its_files_say_computed_in_float64(trained, exact):
    block = drawn(trained.preprocessing, 300, seed=3)
    found = loader.load(exact).probabilities(*as_tensors(block))
    head = {name: value.astype(np.float64) for name, value in load_file(exact / "head.safetensors").items()}
    tables = load_file(exact / "tables.safetensors")
    table = pq.read_table(exact / "vocabulary.parquet")
    rows = dict(
        zip(
            zip(*table.select(["feature", "token"]).to_pydict().values(), strict=True),
            table["row"].to_pylist(),
            strict=True,
        )
    )
    worst = 0.0
    for n, probability in enumerate(found.tolist()):
        x = np.log1p(np.maximum(np.nan_to_num(block.values[n]), 0))
        for layer in (0, 2):
            x = np.maximum(head[f"bottom.{layer}.weight"] @ x + head[f"bottom.{layer}.bias"], 0)
        vectors = [x]
        for i in range(26):
            absent = (int(block.missing[n, 0]) >> (13 + i)) & 1
            word = None if absent else f"{block.tokens[n, i]:08x}"
            vectors.append(tables[f"C{i + 1}/weight"][rows.get((f"C{i + 1}", word), 0)].astype(np.float64))
        pairs = [vectors[i] @ vectors[j] for i in range(27) for j in range(i)]
        x = np.concatenate([x, pairs])
        for layer in (0, 2):
            x = np.maximum(head[f"top.{layer}.weight"] @ x + head[f"top.{layer}.bias"], 0)
        logit = float((head["top.4.weight"] @ x + head["top.4.bias"])[0])
        exact_probability = 1 / (1 + math.exp(-logit))
        worst = max(worst, abs(probability - exact_probability))
    # Float32 randomly rounds 355 terms by 2^-24 of their sum, which is 20 here. The slope of the sigmoid is 1/4.
    assert worst < 355**0.5 * 2**-24 * 20 / 4


def test_lists_text_and_tensors_are_the_same_rows(trained, exact):
    block = drawn(trained.preprocessing, 50, seed=5)
    model = loader.load(exact)
    integers, tokens, _ = as_tensors(block)
    numbers = [[None if math.isnan(value) else int(value) for value in row] for row in integers.tolist()]
    words = [[None if value < 0 else f"{value:08X}" for value in row] for row in tokens.tolist()]
    expected = model.probabilities(integers, tokens)
    assert torch.equal(model.probabilities(numbers, words), expected)
    assert model.probabilities([], []).shape == (0,)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
def test_figures_tell_size_and_differences(trained, exported, kind):
    folder, figures = exported[kind]
    assert figures["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert figures["largest_error_of_an_entry"] == max(
        largest_error(rows, kind) for rows in trained.state.lookup.tables().values()
    )
    assert (figures["largest_difference"] <= BOUND) == (kind == "fp32")
    assert figures["beyond_rounding"] <= BOUND
    assert 0 <= figures["mean_difference"] <= figures["largest_difference"] < 0.5
    rows = sum(trained.preprocessing.num_rows)
    sizes = {"fp32": 16 * rows, "bf16": 8 * rows, "int8": 4 * rows + 8 * rows}
    assert 0 <= (folder / "tables.safetensors").stat().st_size - sizes[kind] < 10_000  # the header


def test_the_manifest_tells_where_the_model_is_from(trained, exact):
    manifest = json.loads((exact / "manifest.json").read_text())
    assert manifest["run"]["fingerprint"] == trained.fingerprint
    assert manifest["run"]["step"] == trained.checkpoint.step
    assert manifest["tables"]["rows"] == list(trained.preprocessing.num_rows)
    assert set(manifest["files"]) == {path.name for path in exact.iterdir()} - {"manifest.json"}


def test_evaluate_on_raw_rows_is_what_the_folder_predicts(run, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "head_program", lambda head, **sizes: b"")
    monkeypatch.setattr(exporting, "compared", partial(compared, rows=4_000))  # together with the lines below
    text = tmp_path / "rows.txt"
    write_tsv(SyntheticConfig(seed=4), 2_000, text)
    export(run, tmp_path / "folder")
    evaluate(EvaluationRequest(runs=[run], data=[str(text)], out=tmp_path / "scores.parquet"))
    scores = pq.read_table(tmp_path / "scores.parquet")["probability"].to_numpy()
    with text.open("rb") as lines:
        model = loader.load(tmp_path / "folder")
        found = model.of_parsed(list(loader._rows(model.schema, lines))).numpy()
    assert np.abs(found - scores).max() <= BOUND


def test_a_folder_that_exists_is_left_alone(run, tmp_path):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(UsageError, match=f"{tmp_path} already exists. Remove it"):
        export(run, tmp_path)
    assert (tmp_path / "kept").read_text() == "mine"


def test_a_folder_made_meanwhile_is_left_alone(trained, tmp_path, monkeypatch):
    out = tmp_path / "folder"

    def made_meanwhile(*_):
        out.mkdir()
        (out / "kept").write_text("mine")
        return Parity(rows=1, identical=1, largest=0, mean=0, beyond_rounding=0)

    monkeypatch.setattr(exporting, "head_program", lambda head, **sizes: b"")
    monkeypatch.setattr(exporting, "compared", made_meanwhile)
    with pytest.raises(UsageError, match=f"{out} already exists. Remove it"):
        write_folder(trained, out, "fp32")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "kept"]


def test_what_cannot_be_written_is_told_before_the_run_is_read(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    command = ["export", "--run", str(tmp_path / "absent"), "--out", str(tmp_path / "file" / "model")]
    assert main(command) == 74
    assert "is not a folder. Choose another folder with --out." in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
def test_rows_in_another_order_leave_no_folder(trained, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(exporting, "head_program", lambda head, **sizes: b"")
    monkeypatch.setattr(exporting, "rounded", lambda rows, kind: rounded(rows.flip(0), kind))
    monkeypatch.setattr(exporting, "compared", partial(compared, rows=4_000))  # fewer samples show it too
    with (
        init_process_group(),
        pytest.raises(CheckpointError, match="differ from the checkpoint's by .* at most 1e-06 is allowed"),
    ):
        write_folder(trained, tmp_path / "folder", kind)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("largest", [1e-5, math.nan])
def test_a_prediction_that_is_off_leaves_no_folder(trained, tmp_path, monkeypatch, largest):
    monkeypatch.setattr(exporting, "head_program", lambda head, **sizes: b"")
    off = Parity(rows=1, identical=0, largest=largest, mean=largest, beyond_rounding=largest)
    monkeypatch.setattr(exporting, "compared", lambda trained, model, tables: off)
    with pytest.raises(CheckpointError, match="differ from the checkpoint's by .* at most 1e-06 is allowed"):
        write_folder(trained, tmp_path / "folder", "fp32")
    assert not list(tmp_path.iterdir())


def test_a_head_that_reads_back_otherwise_is_refused(trained, monkeypatch):
    class Other:
        def module(self):
            return lambda dense, pooled: trained.state.head(dense, pooled) + 1e-3

    monkeypatch.setattr(torch.export, "load", lambda buffer: Other())
    with pytest.raises(
        CheckpointError, match="exported head differs from the checkpoint's by .* at most 1e-06"
    ):
        head_program(trained.state.head, num_dense=13, features=26, dim=4)


DLRM: dict[str, object] = {"bottom": [8], "top": [8]}


def trained_on(
    schema: Schema, heights: list[int], model: dict[str, object], optimizer: str = "rowwise_adagrad"
) -> TrainedModel:
    """Return an untrained model of other columns, with large embedding rows."""
    generator = torch.Generator().manual_seed(2)
    tokens = [np.arange(rows - 1, dtype=np.uint32) * 7919 + 1 for rows in heights]
    vocabulary = Vocabulary(
        tokens=np.concatenate([np.empty(0, np.uint32), *tokens]),
        offsets=np.cumsum([0, *map(len, tokens)]),
        missing=np.zeros(len(heights), np.int32),
    )
    config = composed({"model": {"embedding_dim": 4, **model}, "batch_size": 16}, optimizer)
    state = TrainState(config, schema, heights, torch.device("cpu"))
    for rows in state.lookup.tables().values():
        rows.normal_(generator=generator)
    return TrainedModel(
        name="run", run=Path("run"), config=config, fingerprint="run", rows_fingerprint="rows", origin=None,
        preprocessing=Preprocessing(schema, vocabulary, NO_SCALES), state=state,
        checkpoint=Checkpoint(path=Path("step-00000001"), step=1, digest="", state={}, stored=[]),
    )  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("num_dense", "heights", "model"),
    [
        (0, [5, 300, 2], DLRM),
        (0, [40], DLRM),
        (3, [], DLRM),
        (3, [5, 300, 2], {"name": "deepfm", "deep": [8]}),
        (0, [40, 3], {"name": "deepfm", "deep": [8]}),
        (3, [5, 300, 2], {"name": "dcnv2", "deep": [8, 6], "crosses": 2}),
        (3, [], {"name": "dcnv2", "deep": [8], "rank": 2, "structure": "parallel"}),
    ],
)
def test_models_of_each_kind_predict_as_written_down_again(num_dense, heights, model, tmp_path, monkeypatch):
    schema = Schema(
        format="criteo",
        label=LabelColumn(column="click"),
        dense=tuple(DenseColumn(column=f"x{i}") for i in range(num_dense)),
        tokens=tuple(TokenColumn(column=f"t{i}") for i in range(len(heights))),
    )
    monkeypatch.setattr(exporting, "compared", partial(compared, rows=4_000))
    with init_process_group():
        trained = trained_on(schema, heights, model)
        figures = {kind: write_folder(trained, tmp_path / kind, kind) for kind in ("fp32", "int8")}
    block = drawn(trained.preprocessing, 500, seed=8)
    ids = torch.from_numpy(trained.preprocessing.features(block).ids).long()
    dense = torch.from_numpy(np.log1p(np.maximum(np.nan_to_num(block.values), 0)))
    rows = [table.double()[ids[:, f]] for f, table in enumerate(trained.state.lookup.tables().values())]
    pooled = torch.stack(rows, 1) if rows else torch.empty(500, 0, 4, dtype=torch.float64)
    values = {name: p.detach().double() for name, p in trained.state.head.named_parameters()}
    expected = plain_logits(values, trained.config.model, dense, pooled).sigmoid()
    found = loader.load(tmp_path / "fp32").probabilities(*as_tensors(block))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    assert found.std() > 0.01
    with (tmp_path / "fp32" / "head.pt2").open("rb") as file:
        program = torch.export.load(file).module()
    logits: Tensor = program(dense.float(), pooled.float())
    torch.testing.assert_close(logits.sigmoid().double(), expected, rtol=0, atol=1e-5)
    assert pq.read_table(tmp_path / "fp32" / "vocabulary.parquet").num_rows == sum(heights) - len(heights)
    assert (figures["int8"]["largest_difference"] > 0) == bool(heights)
    assert (figures["int8"]["largest_error_of_an_entry"] > 0) == bool(heights)
    with pytest.raises(
        ValueError, match=rf"Expected \(N, {num_dense}\) values, \(N, {len(heights)}\) tokens"
    ):
        loader.load(tmp_path / "fp32").probabilities(torch.zeros(1, 5).long(), torch.zeros(1, 5).long())


@pytest.mark.oracle
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "schedule_free"])
def test_every_file_of_the_folder_is_for_the_population_of_a_log_that_lacks_rows(
    optimizer, tmp_path, monkeypatch
):
    schema = Schema(
        format="criteo",
        label=LabelColumn(column="click", negative_rate=0.1),
        dense=(DenseColumn(column="x"),),
        tokens=(TokenColumn(column="t"),),
    )
    monkeypatch.setattr(exporting, "compared", partial(compared, rows=4_000))
    with init_process_group():
        trained = trained_on(schema, [40], DLRM, optimizer)
        served = trained.state.dense_optimizer.served(trained.state.parameters)
        values = {name: p.detach().double() for name, p in trained.state.head.named_parameters()}
        if served is not trained.state.parameters:
            trained.state.parameters.zero_()  # the training parameters, which are not served
        figures = {kind: write_folder(trained, tmp_path / kind, kind) for kind in ("fp32", "int8")}
        block = drawn(trained.preprocessing, 500, seed=8)
        scored = trained.score(trained.preprocessing.features(block))
    ids = torch.from_numpy(trained.preprocessing.features(block).ids).long()
    dense = torch.from_numpy(np.log1p(np.maximum(np.nan_to_num(block.values), 0)))
    (table,) = trained.state.lookup.tables().values()
    pooled = table.double()[ids]
    p = plain_logits(values, trained.config.model, dense, pooled).sigmoid()
    expected = p / (p + (1 - p) / 0.1)
    found = loader.load(tmp_path / "fp32").probabilities(*as_tensors(block))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    assert (
        found.numpy() == scored
    ).mean() > 0.99  # exp and log1p of two libraries may differ in the last bit
    assert figures["fp32"]["identical"] > 0.99 * 4_000
    assert figures["int8"]["beyond_rounding"] <= BOUND
    with (tmp_path / "fp32" / "head.pt2").open("rb") as file:
        logits: Tensor = torch.export.load(file).module()(dense.float(), pooled.float())
    torch.testing.assert_close(logits.sigmoid().double(), expected, rtol=1e-5, atol=0)
    assert json.loads((tmp_path / "fp32" / "manifest.json").read_text())["schema"]["label"] == {
        "column": "click",
        "negative_rate": 0.1,
    }
