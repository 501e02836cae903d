"""Identify the raw files of a run's data by content, so that an evaluation recognizes training samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dlrm_adahessian.data.schema import Format
from dlrm_adahessian.data.split import Split
from dlrm_adahessian.data.text.sources import input_files, input_identity, is_pipe
from dlrm_adahessian.errors import NoInputError
from dlrm_adahessian.train.recorded import files_of


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The raw files of a run, identified by content, independent of their names.

    Attributes:
        files: records that identify the files, in reading order.
        split: split of the valid samples.
        form: format of the files.
        cache_dir: folder with the digests of large files.
        earlier: files of the runs that this run started from.
    """

    files: Sequence[Mapping[str, Any]]
    split: Split
    form: Format
    cache_dir: Path
    earlier: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, prepared: Mapping[str, Any], form: Format, cache_dir: Path) -> Self | None:
        """Return the origin recorded in a run directory; None for generated data, and for older runs without a record."""
        split, files = prepared.get("split"), files_of(prepared)
        if not isinstance(split, dict) or not files:
            return None
        return cls(
            files=files,
            split=Split.from_dict(split),
            form=form,
            cache_dir=cache_dir,
            earlier=files_of(prepared, "earlier"),
        )

    def shares(self, path: str) -> bool:
        """Return whether an input contains one of these files or the earlier ones; False for a pipe."""
        return any(file in (*self.files, *self.earlier) for file in self._contents(path))

    def is_that_of(self, path: str) -> bool:
        """Return whether an input consists of exactly these files, in order."""
        return self._contents(path) == list(self.files)

    def _contents(self, path: str) -> list[dict[str, Any]]:
        return contents(path, self.form, self.cache_dir)


def contents(path: str, form: Format, cache_dir: Path) -> list[dict[str, Any]]:
    """Return records that identify the files of an input by content; empty for a pipe, which can be read only once."""
    try:
        return [] if is_pipe(path) else input_identity(input_files(path, form), cache_dir)
    except NoInputError:  # the folder has no file in the format of this run
        return []
