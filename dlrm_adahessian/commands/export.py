"""Implement `export`: write the model of a run as a folder for serving."""

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
    """Export a trained model as a folder that needs only torch and safetensors, and verify its predictions."""

    run: Path
    """Run directory."""
    out: Path
    """Folder to write (must not exist)."""
    tables: Literal["fp32", "bf16", "int8"] = "fp32"
    """Storage type of embedding rows; int8 has a scale and an offset per embedding row."""
    best: bool = False
    """Use the checkpoint with the lowest validation log loss; runs with early stopping always do."""
    calibrated: bool = False
    """Apply the calibration that `calibrate` fitted to the run."""
    onnx: bool = False
    """Also write the dense part as ONNX, and verify it with ONNX Runtime (needs the extra onnx)."""
    json: bool = False
    """Print one JSON document instead of text."""


def export(arguments: Sequence[str]) -> int:
    """Export a trained model as a folder for serving."""
    args = parsed(ExportConfig, arguments, prog="python -m dlrm_adahessian export")
    require_writable(args.out.parent, "--out")
    require_run(args.run)
    from dlrm_adahessian.serving.export import export as write

    found = write(
        args.run, args.out, tables=args.tables, best=args.best, calibrated=args.calibrated, onnx=args.onnx
    )
    if not args.json:  # most values are far below 1
        found = {name: f"{value:.2g}" if isinstance(value, float) else value for name, value in found.items()}
    say_figures(found, as_json=args.json)
    return 0
