# pyright: basic, reportMissingImports=false
"""Export the dense head as ONNX, for ONNX Runtime and other programs. Requires the extra `onnx`.

    dense   (B, K) float32     dense inputs, transformed as in training
    pooled  (B, F, D) float32  pooled embeddings
    probability (B,) float32   click probability, without calibration

B is dynamic. The tables stay in tables.safetensors, because they may exceed the 2 GB limit of an ONNX file.
"""

import copy
import io
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dlrm_adahessian.errors import CheckpointError, UsageError
from dlrm_adahessian.evaluation.trained_model import TrainedModel
from dlrm_adahessian.metrics.binary import probability_from_logit
from dlrm_adahessian.serving import loader
from dlrm_adahessian.serving.parity import ROWS, as_tensors, drawn
from dlrm_adahessian.train.state import SCORING_BATCH

BOUND = 1e-6
"""Largest allowed difference between two float32 sigmoids of the same logit."""
_TIMES = 10  # factor by which one float32 sum may be less exact than another, over 65,536 samples


def require_extra() -> None:
    """Raise a `UsageError` if a package of the extra is missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--onnx requires missing packages: {', '.join(missing)}. Run pip install 'dlrm_adahessian[onnx]'."
        )


class _Probability(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        return self.head(dense, pooled).sigmoid()


def onnx_program(program: bytes) -> bytes:
    """Convert an exported head to ONNX.

    Args:
        program: result of `head_program` in this process. It is unpickled.

    Returns:
        The bytes of the ONNX file.
    """
    head: Any = torch.export.load(io.BytesIO(program))
    rows = {0: torch.export.Dim("rows")}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch uses its own deprecated functions
        written: Any = torch.onnx.export(
            _Probability(head.module()),
            head.example_inputs[0],
            dynamo=True,
            verbose=False,
            dynamic_shapes=(rows, rows),
            input_names=["dense", "pooled"],
            output_names=["probability"],
        )
    return written.model_proto.SerializeToString()


def onnx_difference(trained: TrainedModel, model: loader.Model, file: Path) -> float:
    """Compare ONNX Runtime with the checkpoint's head, on random samples with the loader's inputs.

    Args:
        trained: model of the checkpoint.
        model: the loaded folder.
        file: the head as ONNX.

    Returns:
        The largest absolute difference in probability.

    Raises:
        CheckpointError: the difference exceeds the rounding error, which the same head in float64 shows.
    """
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session: Any = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    head = trained.state.served_head()
    exact = copy.deepcopy(head).double()
    differences: list[float] = []
    roundings: list[float] = []
    for seed in range(ROWS // SCORING_BATCH):
        rows = drawn(trained.preprocessing, SCORING_BATCH, seed)
        with torch.no_grad():
            dense, pooled = model.head_inputs(*as_tensors(rows))
            expected = probability_from_logit(head(dense, pooled).numpy()).astype(np.float64)
            unrounded = exact(dense.double(), pooled.double()).sigmoid().numpy()
        (found,) = session.run(None, {"dense": dense.numpy(), "pooled": pooled.numpy()})
        differences.append(float(np.abs(expected - found).max()))
        roundings.append(float(np.abs(expected - unrounded).max()))
    largest, bound = float(np.max(differences)), BOUND + _TIMES * float(np.max(roundings))
    if not largest <= bound:
        raise CheckpointError(
            f"{file.name} differs from the checkpoint's head by {largest:.1e} in ONNX Runtime; at most {bound:.1e} is "
            "allowed. Nothing was written. Export without --onnx."
        )
    return largest
