"""Seal the results of a finished run, so that readers detect every change.

seal.json lists the size and xxh3_128 of each result, identifies the run by a fingerprint of everything that determines its
results, and ends with a fingerprint of itself. It is written after the metrics and predictions are on disk and before
summary.json, which marks the run as finished. If the run diverged, diverged.json is its only result.
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
}  # the files that exist before each of the last files is written


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """The sealed results in a run directory.

    Attributes:
        folder: the run directory.
        run: fingerprint of everything that determines the results.
        files: size and digest of each result.
    """

    folder: Path
    run: str
    files: Mapping[str, Mapping[str, int | str]]

    @classmethod
    def seal(cls, folder: Path, run: str, summary: Mapping[str, object]) -> Self:
        """Seal a run with complete logs, and write its summary. Errors are those of `_seal`."""
        return cls._seal(folder, run, SUMMARY, summary)

    @classmethod
    def seal_divergence(cls, folder: Path, run: str, message: str) -> Self:
        """Seal a run that diverged, and write the reason. Errors are those of `_seal`."""
        return cls._seal(folder, run, DIVERGED, {"message": message})

    @classmethod
    def _seal(cls, folder: Path, run: str, last: str, values: Mapping[str, object]) -> Self:
        """Write the seal, then the last result; raises a StorageError."""
        text = json_text(finite(values))
        with storage_errors(folder):
            files = {name: flushed_entry(folder / name) for name in _RESULTS[last]}
            sealed = cls(folder=folder, run=run, files={**files, last: entry_of(text.encode())})
            sealed._write()  # also flushes the folder, before the last file appears
            write_text(folder / last, text)
        return sealed

    @classmethod
    def open(cls, folder: Path, run: str, last: Literal["summary.json", "diverged.json"] = SUMMARY) -> Self:
        """Verify every byte of the results in a run directory.

        Args:
            folder: the run directory.
            run: fingerprint of everything that determines the results.
            last: the file that says how the run ended.

        Returns:
            The results.

        Raises:
            DamagedFolderError: a file is missing or changed, or the results belong to another run or were never sealed.
        """
        if not (folder / SEAL).exists():
            raise DamagedFolderError(
                f"{folder / SEAL} is missing: it was lost, or an older version without seals wrote {last}"
            )
        found = read_sealed_json(folder / SEAL)
        files = found.get("files")
        if (
            found.get("run") != run
            or not isinstance(files, dict)
            or not {*_RESULTS[last], last} <= files.keys()
        ):
            raise DamagedFolderError(f"{folder / SEAL} belongs to another run")
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
        """Read a result, and verify the bytes that were read.

        Args:
            name: name of the file.

        Returns:
            The content.

        Raises:
            DamagedFolderError: the file is missing, unreadable, or changed.
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
        """Read a JSON result. Errors are those of `read`."""
        return json.loads(self.read(name))

    def with_result(self, name: str, value: object) -> Self:
        """Write one more JSON result, and add it to the seal.

        Args:
            name: name of the file.
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
