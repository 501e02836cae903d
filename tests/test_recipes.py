"""Follow CONTRIBUTING.md's recipes in a copy of the package, and train with the toy parts that they add."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dlrm_adahessian

pytestmark = pytest.mark.slow

DENSE = '''"""Sign descent on the dense part: w -= lr * sign(g)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.optim.base import DenseOptimizer, Tuned, rate
from dlrm_adahessian.runtime.settings import settings

if TYPE_CHECKING:
    from torch import Tensor


@settings
class ToyConfig:
    """Sign descent."""

    uses_curvature: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"lr": rate(0.001)}
    name: Literal["toy"] = "toy"
    lr: float = Field(default=0.001, gt=0)

    def build(self, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
        return Toy(self)


class Toy(DenseOptimizer):
    def __init__(self, cfg: ToyConfig) -> None:
        self.cfg = cfg
        self.state: dict[str, Tensor] = {}

    def step(self, parameters, grad, curvature, *, lr_scale, samples):
        parameters.sub_(grad.sign(), alpha=self.cfg.lr * lr_scale)
'''
ROWS = '''"""Newton steps on embedding rows, without state: w -= lr * g / (h + 1)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from dlrm_adahessian.kernels.compiled import triton_kernel
from dlrm_adahessian.optim.base import RowRule, Tuned, rate
from dlrm_adahessian.runtime.settings import settings


@settings
class ToyRowConfig:
    """Newton steps."""

    pooled_curvature: ClassVar[str] = "entries"
    tuned: ClassVar[Tuned] = {"lr": rate(1.0)}
    name: Literal["toy"] = "toy"
    lr: float = Field(default=1.0, gt=0)

    def build(self) -> RowRule:
        return ToyRows(self)


class ToyRows(RowRule):
    def __init__(self, cfg: ToyRowConfig) -> None:
        self.cfg = cfg

    def new_state(self, weight):
        return {}

    @property
    def direction_triton(self) -> Any:
        return _direction.compiled

    def update_torch_(self, weight, state, hits, *, lr_scale, samples):
        curvature = 0 if hits.curvature is None else hits.curvature
        weight[hits.rows] -= self.cfg.lr * lr_scale * hits.grad / (curvature + 1)

    update_numba_ = update_torch_


@triton_kernel
def _direction(states, weight, row, entry, touched, here, grad, curvature, has_curvature, count, samples, cfg, width):
    return grad / (curvature + 1)
'''
ESTIMATOR = '''"""The squared gradient, which estimates no curvature here."""

from dataclasses import replace

from dlrm_adahessian.curvature.base import Derivatives, Estimator, Request, gradient


class Toy(Estimator):
    def derivatives(self, request: Request) -> Derivatives:
        found = gradient(request.head, request.dense, request.pooled, request.labels, request.weights)
        squares = found.grad.square(), found.pooled_grad.square()
        return replace(
            found, curvature=squares[0], pooled_curvature=squares[1], pooled_samples=len(request.labels)
        )
'''
MODEL = '''"""Logistic regression on the dense inputs and the pooled embeddings."""

import torch
from torch import nn

from dlrm_adahessian.model.layers import linear


class Head(nn.Module):
    def __init__(self, cfg, *, num_dense, num_features, generator, dtype):
        super().__init__()
        self.parts = cfg.parts
        self.last = linear(num_dense + num_features * cfg.embedding_dim, 1, generator=generator, dtype=dtype)

    def forward(self, dense, pooled):
        return self.last(torch.cat([dense, pooled.flatten(1)], 1)).squeeze(1)
'''
MODEL_SETTINGS = '''@settings
class ToyModelConfig(Architecture):
    """Logistic regression."""

    name: Literal["toy"] = "toy"
    toys: int = 1

    @property
    def parts(self) -> Parts:
        return Parts(weights="hessian", pooled="hessian")

    def activations(self, num_dense: int, num_features: int) -> int:
        return num_dense + num_features * self.embedding_dim

    def parameters(self, num_dense: int, num_features: int) -> int:
        return num_dense + num_features * self.embedding_dim + 1


'''
PRESET = 'curvature = "toy"\n[optim.dense]\nname = "toy"\n[optim.rows]\nname = "toy"\n'
SCHEMA = """# A toy.
format = "tsv"
header = ["clicked", "price", "site"]
[label]
column = "clicked"
[[dense]]
column = "price"
[[tokens]]
column = "site"
"""
ADDED = {
    "optim/dense/toy.py": DENSE,
    "optim/rows/toy.py": ROWS,
    "curvature/toy.py": ESTIMATOR,
    "model/toy.py": MODEL,
    "presets/optimizers/toy.toml": PRESET,
    "presets/schemas/toy.toml": SCHEMA,
}
CASE = """        case "toy":
            from dlrm_adahessian.curvature.toy import Toy

            return Toy()
"""
MODEL_CASE = """        case ToyModelConfig():
            from dlrm_adahessian.model import toy

            return toy.Head(cfg, **sizes, generator=generator, dtype=dtype)
"""
CHANGED = {
    "optim/dense/__init__.py": [
        ("\nDenseConfig = (\n", "from dlrm_adahessian.optim.dense.toy import ToyConfig\n\nDenseConfig = (\n"),
        ("DenseConfig = (\n", "DenseConfig = (\n    ToyConfig\n    | "),
    ],
    "optim/rows/__init__.py": [
        ("\nRowConfig = (\n", "from dlrm_adahessian.optim.rows.toy import ToyRowConfig\n\nRowConfig = (\n"),
        ("RowConfig = (\n", "RowConfig = (\n    ToyRowConfig\n    | "),
    ],
    "data/config.py": [("DatasetName = Literal[", 'DatasetName = Literal["toy", ')],
    "model/config.py": [
        ("def _named(", f"{MODEL_SETTINGS}def _named("),
        ("    Annotated[DLRMConfig | ", "    Annotated[ToyModelConfig | DLRMConfig | "),
    ],
    "model/registry.py": [
        ('ModelName = Literal["dlrm", ', 'ModelName = Literal["toy", "dlrm", '),
        ("DLRMConfig, ModelConfig\n", "DLRMConfig, ModelConfig, ToyModelConfig\n"),
        ("        case DLRMConfig():\n", f"{MODEL_CASE}        case DLRMConfig():\n"),
    ],
    "curvature/registry.py": [
        ('CurvatureName = Literal["exact", ', 'CurvatureName = Literal["toy", "exact", '),
        ('        case "none":\n            from', f'{CASE}        case "none":\n            from'),
    ],
}


def linked(package: Path, copy: Path) -> None:
    """Copy a package as links to its files. Folders are real."""
    copy.mkdir(parents=True)
    for path in package.iterdir():
        if path.name == "__pycache__":
            continue
        if path.is_dir():
            linked(path, copy / path.name)
        else:
            (copy / path.name).symlink_to(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which a copy of the program trained after following the recipes."""
    folder = tmp_path_factory.mktemp("recipes")
    copy = folder / "changed" / "dlrm_adahessian"
    linked(Path(dlrm_adahessian.__file__).parent, copy)
    for name, text in ADDED.items():
        (copy / name).write_text(text)
    for name, changes in CHANGED.items():
        text = (copy / name).read_text()
        for old, new in changes:
            assert text.count(old) == 1, f"{name} has no {old!r}, which CONTRIBUTING.md's recipe needs"
            text = text.replace(old, new)
        (copy / name).unlink()
        (copy / name).write_text(text)
    (folder / "toy.tsv").write_text("".join(f"{n % 2}\t{n % 7}\t{'ab'[n % 2]}\n" for n in range(500)))
    flags = ["--dataset", "toy", "--data-path", "toy.tsv", "--batch-size", "64", "--model", "toy"]
    flags += ["--model.toys", "2", "--baseline", "none", "--out", "run", "--data.cache-dir", "cache"]
    done = subprocess.run(
        [sys.executable, "-m", "dlrm_adahessian", "train", "--optimizer", "toy", *flags],
        cwd=folder,
        # Compiling all kernels for the new location would take longer than running them uncompiled.
        env={**os.environ, "PYTHONPATH": str(copy.parent), "PYTHONSAFEPATH": "1", "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_what_the_recipes_add_trains(folder: Path) -> None:
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert (summary["dataset"], summary["optimizer"], summary["curvature"]) == ("toy", "toy", "toy")
    assert summary["train"]["steps"] == 7
    assert summary["skipped_steps"] == 0
    config = json.loads((folder / "run" / "config.json").read_text())
    assert (config["model"]["name"], config["model"]["toys"], summary["model"]) == ("toy", 2, "toy")
    assert {part: config["optim"][part]["name"] for part in ("dense", "rows")} == {
        "dense": "toy",
        "rows": "toy",
    }
