"""What an attacker would leave in a folder: pickles that act when they are loaded, under manifests that agree with them."""

import json
from pathlib import Path

from dlrm_adahessian.runs.sealed import MANIFEST, file_digest


def reseal(folder: Path, **changes: object) -> None:
    """Make the manifest agree with the files, as an attacker would."""
    files = {
        path.name: {"bytes": path.stat().st_size, "xxh3_128": file_digest(path)}
        for path in folder.iterdir()
        if path.name != MANIFEST
    }
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "files": files, **changes}))


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.canary,)
