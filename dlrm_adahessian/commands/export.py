"""`export`: a run's model as a folder to serve from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dlrm_adahessian.checkpoint.step_folders import require_run
from dlrm_adahessian.commands.arguments import parsed
from dlrm_adahessian.runs.sealed import require_writable
from dlrm_adahessian.runtime.settings import settings
from dlrm_adahessian.runtime.terminal import say_figures


@settings
class ExportConfig:
    """Write a trained model as a folder that predicts with torch and safetensors alone, and check its predictions."""

    run: Path
    """Run directory of a training job."""
    out: Path
    """Folder to write; it must not exist."""
    tables: Literal["fp32", "bf16", "int8"] = "fp32"
    """Embedding rows as they are, rounded to bfloat16, or to 8 bits with a scale and an offset per row."""
    best: bool = False
    """Export the checkpoint of the lowest validation log loss, not the last; of runs with patience it always is."""
    calibrated: bool = False
    """Predict with the calibration that `calibrate` fitted for the run."""
    onnx: bool = False
    """Write the dense head as ONNX too, and check it with ONNX Runtime; needs the extra onnx."""
    json: bool = False
    """Print one JSON document instead of text."""


def export(arguments: Sequence[str]) -> int:
    """Write a trained model as a folder to serve from."""
    args = parsed(ExportConfig, arguments, prog="python -m dlrm_adahessian export")
    require_writable(args.out.parent, "--out")
    require_run(args.run)
    from dlrm_adahessian.serving.export import export as write

    found = write(
        args.run, args.out, tables=args.tables, best=args.best, calibrated=args.calibrated, onnx=args.onnx
    )
    if not args.json:  # most of them are far below 1
        found = {name: f"{value:.2g}" if isinstance(value, float) else value for name, value in found.items()}
    say_figures(found, as_json=args.json)
    return 0
