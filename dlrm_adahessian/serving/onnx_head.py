# pyright: basic, reportMissingImports=false
"""The dense head as ONNX, for ONNX Runtime and whatever else reads it; needs the extra `onnx`.

    dense   (B, K) float32     the dense inputs, transformed as for training
    pooled  (B, F, D) float32  the sum of the embedding rows of each feature
    probability (B,) float32   of a click, without a calibration

B is any number of rows. The tables stay in tables.safetensors: they may be larger than the 2 GB that an ONNX file holds.
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
"""How far two float32 sigmoids of the same logit may be apart."""
_TIMES = 10  # that one float32 sum may be further off than another in the worst of 65,536 rows


def require_extra() -> None:
    """Refuse what cannot be written: a `UsageError` where a package of the extra is missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--onnx needs packages that are not installed: {', '.join(missing)}; pip install 'dlrm_adahessian[onnx]'"
        )


class _Probability(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        return self.head(dense, pooled).sigmoid()


def onnx_program(program: bytes) -> bytes:
    """Return the file.

    Args:
        program: what `head_program` returned in this process; reading it unpickles.

    Returns:
        A model in one piece.
    """
    head: Any = torch.export.load(io.BytesIO(program))
    rows = {0: torch.export.Dim("rows")}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not there
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch calls in itself
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
    """Compare ONNX Runtime with the checkpoint's head, on drawn rows as the loader hands them to its own.

    Args:
        trained: the checkpoint's model.
        model: the loaded folder.
        file: the head as ONNX.

    Returns:
        The largest absolute difference in probability.

    Raises:
        CheckpointError: it is larger than rounding explains, which the same head in float64 shows.
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
            f"{file.name} must predict as the checkpoint's head does to {bound:.1e}, and is off by {largest:.1e} in ONNX "
            "Runtime; nothing was written; export without --onnx"
        )
    return largest
