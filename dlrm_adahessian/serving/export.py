# pyright: basic
"""Export a run's model as a folder that predicts with only torch and safetensors.

    FOLDER/
      manifest.json           sizes and origin of the model, size and sha256 of each file
      loader.py               makes predictions; a copy of serving/loader.py
      head.safetensors        parameters of the dense head
      head.pt2                the same head from torch.export, for other runtimes
      head.onnx               the same head as ONNX, on request
      tables.safetensors      embedding rows
      vocabulary.safetensors  tokens and their embedding rows, sorted for the loader
      vocabulary.parquet      feature, token, row, for other systems

The folder appears under its name only when it is complete and predicts like the checkpoint. The exported head is loaded
again and checked. This program never reads head.pt2 later, because torch unpickles parts of it (ADR 9).
"""

import copy
import dataclasses
import hashlib
import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlrm_adahessian import __version__
from dlrm_adahessian.checkpoint.tensor_file import write_tensors
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import CheckpointError, UsageError
from dlrm_adahessian.evaluation.trained_model import TrainedModel, open_trained
from dlrm_adahessian.metrics.binary import probability_from_logit
from dlrm_adahessian.runs.files import flush_to_disk, new_file
from dlrm_adahessian.runs.sealed import put_in_place, storage_errors, temporary_folder, write_json
from dlrm_adahessian.serving import loader
from dlrm_adahessian.serving.onnx_head import onnx_difference, onnx_program, require_extra
from dlrm_adahessian.serving.parity import Parity, compared
from dlrm_adahessian.serving.rounding import RowType, largest_error, rounded
from dlrm_adahessian.serving.vocabulary import sorted_tensors, write_parquet

BOUND = 1e-6
"""Largest allowed difference between two float32 computations of a probability."""
_NEW = "{out} already exists. Remove it, or choose another folder with --out."


def export(
    run: Path,
    out: Path,
    *,
    tables: RowType = "fp32",
    best: bool = False,
    calibrated: bool = False,
    onnx: bool = False,
) -> dict[str, Any]:
    """Write the folder, load it again, and compare its predictions with the checkpoint's.

    Args:
        run: run directory of a training job.
        out: the folder to create. It must not exist.
        tables: storage type of the embedding rows.
        best: use the checkpoint of the best validation, even if the run did not stop early.
        calibrated: include the run's calibration, which the folder then applies.
        onnx: also write the head as ONNX.

    Returns:
        Description of the export, and differences from the checkpoint's predictions.

    Raises:
        UsageError: `out` exists, or the ONNX extra is not installed.
    """
    if _taken(out):
        raise UsageError(_NEW.format(out=out))
    if onnx:
        require_extra()
        if calibrated:
            raise UsageError(
                "The ONNX head predicts without calibration, but the rest of the folder would predict with it. Leave out "
                "--calibrated, and apply the map in calibration.json to the logits of the head."
            )
    cpu = torch.device("cpu")
    with init_process_group(cpu):
        trained = open_trained(run, cpu, best=best, precision="fp32", calibrated=calibrated)
        return write_folder(trained, out, tables, onnx=onnx)


def write_folder(trained: TrainedModel, out: Path, tables: RowType, *, onnx: bool = False) -> dict[str, Any]:
    """Write the folder of a model. See `export` for arguments and results.

    Args:
        trained: the model.
        out: the folder to create.
        tables: storage type of the embedding rows.
        onnx: also write the head as ONNX.

    Returns:
        Description of the export, and differences from the checkpoint's predictions.

    Raises:
        CheckpointError: a prediction differs by more than rounding the embedding rows explains.
        UsageError: `out` exists by now.
    """
    rows = trained.state.lookup.tables()
    features = trained.preprocessing.schema.features
    with storage_errors(out):
        temporary = temporary_folder(out)
        try:
            _write_files(trained, temporary, {name: rows[name] for name in features}, tables, onnx=onnx)
            _write_manifest(trained, temporary, tables)
            model = loader.load(temporary)
            parity, bound = compared(trained, model, tables), _bound(trained)
            if not parity.beyond_rounding <= bound:
                raise CheckpointError(
                    f"The exported predictions differ from the checkpoint's by {parity.beyond_rounding:.1e}, apart from "
                    f"rounding of embedding rows; at most {bound:.3g} is allowed. Nothing was written. Run the doctor "
                    "command, then export again."
                )
            onnx_off = onnx_difference(trained, model, temporary / loader.ONNX) if onnx else None
            size = sum(path.stat().st_size for path in temporary.iterdir())
            if _taken(out):  # another process may have created it
                raise UsageError(_NEW.format(out=out))
            put_in_place(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    error = max((largest_error(rows[n], tables) for n in features), default=0.0)
    figures = _figures(trained, out, tables, size, parity, error)
    return figures if onnx_off is None else {**figures, "onnx_largest_difference": onnx_off}


def _bound(trained: TrainedModel) -> float:
    """Return the largest allowed difference. A calibration steeper than 1 amplifies differences of logits."""
    return BOUND * max(1.0, trained.calibration.steepest if trained.calibration else 1.0)


def head_program(head: nn.Module, *, num_dense: int, features: int, dim: int) -> bytes:
    """Export a head: (B, K) dense inputs and (B, F, D) pooled embeddings to (B,) logits, for any B; K or F may be 0.

    Args:
        head: float32 head on the CPU.
        num_dense: K.
        features: F.
        dim: D.

    Returns:
        The bytes that `torch.export.save` writes.

    Raises:
        CheckpointError: the loaded copy predicts differently.
    """
    generator = torch.Generator().manual_seed(0)

    def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        dense = torch.rand(rows, num_dense, generator=generator)
        return 10 * dense, torch.randn(rows, features, dim, generator=generator)

    alone = copy.deepcopy(head)
    for parameter in alone.parameters():
        # In training they are views of one vector, about which torch warns.
        parameter.data = parameter.data.clone()
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(alone, inputs(3), dynamic_shapes=({0: batch}, {0: batch}))
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        buffer.seek(0)
        again = torch.export.load(buffer).module()  # safe to unpickle: this process wrote the bytes
        for given in (inputs(1), inputs(100)):
            ours, theirs = (probability_from_logit(f(*given).numpy()) for f in (head, again))
            if abs(ours - theirs).max() > BOUND:
                raise CheckpointError(
                    f"The exported head differs from the checkpoint's by {abs(ours - theirs).max():.1e}; at most {BOUND} is "
                    "allowed. Install the version of torch that this program requires."
                )
    return buffer.getvalue()


def _taken(out: Path) -> bool:
    return out.exists() or out.is_symlink()


def _write_files(
    trained: TrainedModel, folder: Path, rows: Mapping[str, Tensor], tables: RowType, *, onnx: bool
) -> None:
    head = trained.state.served_head()
    write_tensors(folder / "head.safetensors", dict(head.state_dict()))
    program = head_program(
        head,
        num_dense=len(trained.preprocessing.schema.dense),
        features=len(rows),
        dim=trained.config.model.embedding_dim,
    )
    with new_file(folder / "head.pt2") as file:
        file.write(program)
    if onnx:
        with new_file(folder / loader.ONNX) as file:
            file.write(onnx_program(program))
    write_tensors(folder / "vocabulary.safetensors", sorted_tensors(trained.preprocessing))
    write_parquet(trained.preprocessing, folder / "vocabulary.parquet")
    # With fp32 these are the embedding rows themselves, not copies.
    stored = {
        f"{name}/{part}": tensor
        for name, table in rows.items()
        for part, tensor in rounded(table, tables).items()
    }
    write_tensors(folder / "tables.safetensors", stored)
    with new_file(folder / "loader.py") as file:
        file.write(Path(loader.__file__).read_bytes())


def _write_manifest(trained: TrainedModel, folder: Path, tables: RowType) -> None:
    calibration = trained.calibration and {"calibration": dataclasses.asdict(trained.calibration)}
    manifest: dict[str, Any] = {
        "format": loader.CALIBRATED if calibration else loader.FORMAT,
        "version": __version__,
        "run": {
            "fingerprint": trained.fingerprint,
            "checkpoint": trained.checkpoint.path.name,
            "step": trained.checkpoint.step,
        },
        "model": dataclasses.asdict(trained.config.model),
        "features": {
            "integers": trained.preprocessing.schema.dense_names,
            "tokens": trained.preprocessing.schema.features,
        },
        "schema": trained.preprocessing.schema.asdict(),
        "tables": {"type": tables, "rows": trained.preprocessing.num_rows},
        **(calibration or {}),
        "files": {path.name: _entry(path) for path in sorted(folder.iterdir())},
    }
    write_json(folder / loader.MANIFEST, {**manifest, "digest": loader.digest(manifest)})


def _entry(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        flush_to_disk(file.fileno())
        return {
            "bytes": os.fstat(file.fileno()).st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _figures(
    trained: TrainedModel, out: Path, tables: RowType, size: int, parity: Parity, error: float
) -> dict[str, Any]:
    return {
        "folder": str(out),
        "checkpoint": trained.checkpoint.path.name,
        "tables": tables,
        "bytes": size,
        "largest_error_of_an_entry": error,
        "rows_compared": parity.rows,
        "identical": parity.identical,
        "largest_difference": parity.largest,
        "mean_difference": parity.mean,
        "beyond_rounding": parity.beyond_rounding,
        **({"calibration": str(trained.calibration)} if trained.calibration else {}),
    }
