"""The results of a finished run, sealed: they are what the run wrote, or they are refused.

seal.json lists size and xxh3_128 of each result, names the run by what determines its results, and ends with a fingerprint
of itself. It is written when metrics and predictions are on disk, and summary.json, which says that the run is finished,
appears after it. Of a run that diverged, diverged.json is the only result.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from dlrm_adahessian.runs.sealed import (
    DamagedFolderError,
    entry_of,
    finite,
    flushed_entry,
    json_text,
    storage_errors,
    verify_file,
    write_text,
)
from dlrm_adahessian.runs.sealed_json import read_sealed_json, write_sealed_json

METRICS, PROGRESSIVE, TEST = "metrics.jsonl", "progressive.f32", "test.f32"
SUMMARY: Literal["summary.json"] = "summary.json"
DIVERGED: Literal["diverged.json"] = "diverged.json"
SEAL = "seal.json"
_RESULTS = {
    SUMMARY: (METRICS, PROGRESSIVE, TEST),
    DIVERGED: (),
}  # what is written before each of the last files


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """The sealed results in a run directory.

    Attributes:
        folder: the run directory.
        run: fingerprint of what determines the results.
        files: size and digest of each result.
    """

    folder: Path
    run: str
    files: Mapping[str, Mapping[str, int | str]]

    @classmethod
    def seal(cls, folder: Path, run: str, summary: Mapping[str, object]) -> Self:
        """Write the summary of a run whose logs are complete, and before it the seal of all; as `_seal`."""
        return cls._seal(folder, run, SUMMARY, summary)

    @classmethod
    def seal_divergence(cls, folder: Path, run: str, message: str) -> Self:
        """Write why a run diverged, and before it the seal; as `_seal`."""
        return cls._seal(folder, run, DIVERGED, {"message": message})

    @classmethod
    def _seal(cls, folder: Path, run: str, last: str, values: Mapping[str, object]) -> Self:
        """Seal results of which the last is still to be written; raises a StorageError."""
        text = json_text(finite(values))
        with storage_errors(folder):
            files = {name: flushed_entry(folder / name) for name in _RESULTS[last]}
            sealed = cls(folder=folder, run=run, files={**files, last: entry_of(text.encode())})
            sealed._write()  # the folder is flushed with it, before the last file appears
            write_text(folder / last, text)
        return sealed

    @classmethod
    def open(cls, folder: Path, run: str, last: Literal["summary.json", "diverged.json"] = SUMMARY) -> Self:
        """Verify the results in a run directory, every byte.

        Args:
            folder: the run directory.
            run: fingerprint of what determines the results.
            last: the file that says how the run ended.

        Returns:
            The results.

        Raises:
            DamagedFolderError: one is missing or changed, or they are of another run, or were never sealed.
        """
        if not (folder / SEAL).exists():
            raise DamagedFolderError(
                f"{folder / SEAL} is missing: it was lost, or a version that did not seal results wrote {last}"
            )
        found = read_sealed_json(folder / SEAL)
        files = found.get("files")
        if (
            found.get("run") != run
            or not isinstance(files, dict)
            or not {*_RESULTS[last], last} <= files.keys()
        ):
            raise DamagedFolderError(f"{folder / SEAL} is of another run")
        sealed = cls(folder=folder, run=run, files=files)
        try:
            for name, entry in files.items():
                verify_file(folder / name, entry)
        except OSError as error:
            raise DamagedFolderError(
                f"{error.filename or folder} cannot be read: {error.strerror}"
            ) from error
        return sealed

    def read(self, name: str) -> bytes:
        """Read a result, and verify these very bytes.

        Args:
            name: of the file.

        Returns:
            Its content.

        Raises:
            DamagedFolderError: it is missing, unreadable or changed.
        """
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DamagedFolderError(f"{path} cannot be read: {error.strerror}") from error
        if entry_of(content) != self.files[name]:
            raise DamagedFolderError(f"{path} changed since it was written")
        return content

    def read_json(self, name: str) -> Any:
        """Read a result that is JSON; raises as `read`."""
        return json.loads(self.read(name))

    def with_result(self, name: str, value: object) -> Self:
        """Write one more result as JSON, and seal it.

        Args:
            name: of the file.
            value: JSON value.

        Returns:
            All results.
        """
        text = json_text(value)
        write_text(self.folder / name, text)
        sealed = type(self)(
            folder=self.folder, run=self.run, files={**self.files, name: entry_of(text.encode())}
        )
        sealed._write()
        return sealed

    def _write(self) -> None:
        write_sealed_json(self.folder / SEAL, {"run": self.run, "files": self.files})
