"""The ONNX head predicts in ONNX Runtime like the checkpoint, or is not written."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from dlrm_adahessian.cli import main
from dlrm_adahessian.data.schema import DenseColumn, LabelColumn, Schema, TokenColumn
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import CheckpointError, UsageError
from dlrm_adahessian.evaluation.trained_model import open_trained
from dlrm_adahessian.serving import export as exporting
from dlrm_adahessian.serving import onnx_head
from dlrm_adahessian.serving.export import export, write_folder
from dlrm_adahessian.serving.parity import as_tensors, compared, drawn
from tests.oracles import plain_logits
from tests.serving.test_export import trained_on

SERVING = Path(__file__).resolve().parents[2] / "docs" / "serving.md"


@pytest.fixture
def onnxruntime(monkeypatch):
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason="needs the extra onnx")
    monkeypatch.setattr(onnx_head, "ROWS", 8192)
    monkeypatch.setattr(exporting, "compared", partial(compared, rows=1000))
    return pytest.importorskip("onnxruntime", reason="needs the extra onnx")


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("num_dense", "heights", "model"),
    [
        (3, [5, 300, 2], {"bottom": [8], "top": [8], "self_interaction": True}),
        (0, [40, 3], {"bottom": [8], "top": [8]}),
        (3, [], {"bottom": [8], "top": [8]}),
        (3, [5, 300, 2], {"name": "deepfm", "deep": [8]}),
        (3, [5, 300, 2], {"name": "dcnv2", "deep": [8, 6], "crosses": 2}),
        (3, [], {"name": "dcnv2", "deep": [8], "rank": 2, "structure": "parallel"}),
    ],
)
def test_each_architecture_predicts_as_written_down_again(onnxruntime, num_dense, heights, model, tmp_path):
    schema = Schema(
        format="criteo",
        label=LabelColumn(column="click"),
        dense=tuple(DenseColumn(column=f"x{i}") for i in range(num_dense)),
        tokens=tuple(TokenColumn(column=f"t{i}") for i in range(len(heights))),
    )
    with init_process_group():
        trained = trained_on(schema, heights, model)
        write_folder(trained, tmp_path / "folder", "fp32", onnx=True)
    session = onnxruntime.InferenceSession(tmp_path / "folder" / "head.onnx")
    values = {name: p.detach().double() for name, p in trained.state.head.named_parameters()}
    for rows in (1, 500):
        dense, pooled = torch.rand(rows, num_dense), torch.randn(rows, len(heights), 4)
        (found,) = session.run(["probability"], {"dense": dense.numpy(), "pooled": pooled.numpy()})
        expected = plain_logits(values, trained.config.model, dense.double(), pooled.double()).sigmoid()
        assert found.shape == (rows,)
        assert np.abs(found - expected.numpy()).max() <= 1e-6
    assert expected.std() > 0.01


def test_the_code_of_the_page_predicts_as_the_checkpoint(onnxruntime, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figures = export(run, Path("model"), onnx=True)
    assert 0 < figures["onnx_largest_difference"] < 1e-5
    files = json.loads((tmp_path / "model" / "manifest.json").read_text())["files"]
    assert files["head.onnx"]["bytes"] == (tmp_path / "model" / "head.onnx").stat().st_size
    (code,) = re.findall(r"```python\n(import numpy.*?)```", SERVING.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    with init_process_group():
        trained = open_trained(run, torch.device("cpu"), best=False)
        block = drawn(trained.preprocessing, 300, seed=9)
        expected = trained.score(trained.preprocessing.features(block))
    values, tokens, _ = as_tensors(block)
    words = [[None if token < 0 else f"{token:08x}" for token in row] for row in tokens.tolist()]
    assert np.abs(names["predict"](values.numpy(), words) - expected).max() < 1e-5
    assert expected.std() > 0.01


def test_a_head_that_predicts_otherwise_leaves_no_folder(onnxruntime, trained, tmp_path, monkeypatch):
    written = onnx_head.onnx_program
    monkeypatch.setattr(exporting, "onnx_program", lambda program: written(other))
    for parameter in (head := trained.state.served_head()).parameters():
        parameter.data = parameter.data.clone()
    other = exporting.head_program(Shifted(head), num_dense=13, features=26, dim=4)
    with (
        init_process_group(),
        pytest.raises(CheckpointError, match="head.onnx differs from the checkpoint's head by .*e-0"),
    ):
        write_folder(trained, tmp_path / "folder", "fp32", onnx=True)
    assert not list(tmp_path.iterdir())


class Shifted(torch.nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, dense, pooled):
        return self.head(dense, pooled) + 1e-3


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_told_before_the_run_is_read(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_head, "find_spec", lambda sought: None if sought == name else object())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    command = ["export", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "model"), "--onnx"]
    assert main(command) == UsageError.exit_code
    said = f"--onnx requires missing packages: {name}. Run pip install 'dlrm_adahessian[onnx]'"
    assert said in capsys.readouterr().err
