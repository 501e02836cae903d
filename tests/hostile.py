"""Files that an attacker could leave under valid manifests: pickles that run code when loaded, and huge sizes."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dlrm_adahessian.errors import CheckpointError
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.runs.sealed import MANIFEST, file_digest
from dlrm_adahessian.train.recorded import RecordedRun


def reseal(folder: Path, **changes: object) -> None:
    """Make the manifest match the files, as an attacker would."""
    files = {
        path.name: {"bytes": path.stat().st_size, "xxh3_128": file_digest(path)}
        for path in folder.iterdir()
        if path.name != MANIFEST
    }
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "files": files, **changes}))


LARGE: dict[str, dict[str, object]] = {
    "width": {"bottom": [10**9]},
    "layers": {"bottom": [8] * 100_000},
    "dim": {"embedding_dim": 10**7},
}
"""Settings of DLRM that would exhaust memory or run for ages."""


def forged(run: Path, *, model: Mapping[str, object] | None = None, **changes: object) -> Path:
    """Change the config.json of a run, and update the manifests of its checkpoints to match.

    Args:
        run: the run directory.
        model: settings of its model; with `name`, those of another architecture.
        changes: other settings.

    Returns:
        The run directory.
    """
    config = json.loads((run / "config.json").read_text())
    if model is not None:
        changes["model"] = model if "name" in model else {**config["model"], **model}
    (run / "config.json").write_text(json.dumps({**config, **changes}))
    with suppress(CheckpointError):  # settings that no run can have also have no fingerprint
        claimed = RecordedRun.read(RunDirectory(run))
        for checkpoint in (run / "checkpoints").glob("step-*"):
            reseal(checkpoint, fingerprint=claimed.config.checkpoint_fingerprints(claimed.rows)[0])
    return run


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.canary,)
