"""What the rows of a run were prepared from, so that an evaluation knows its training rows where it meets them again."""

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
    """Raw files, known by their content whatever they are called.

    Attributes:
        files: what identifies each, in the order that they were read in.
        split: of the good rows that were taken.
        form: of the rows.
        cache_dir: keeps the digests of large files.
        earlier: those of the runs that the run goes on from.
    """

    files: Sequence[Mapping[str, Any]]
    split: Split
    form: Format
    cache_dir: Path
    earlier: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, prepared: Mapping[str, Any], form: Format, cache_dir: Path) -> Self | None:
        """Return the origin that a run directory tells; None for generated rows, and for runs that tell none."""
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
        """Whether an input has one of the files, or of the earlier ones; of a pipe it is not known."""
        return any(file in (*self.files, *self.earlier) for file in self._contents(path))

    def is_that_of(self, path: str) -> bool:
        """Whether an input is all of the files in their order."""
        return self._contents(path) == list(self.files)

    def _contents(self, path: str) -> list[dict[str, Any]]:
        return contents(path, self.form, self.cache_dir)


def contents(path: str, form: Format, cache_dir: Path) -> list[dict[str, Any]]:
    """Return what identifies the files of an input by their content; nothing of a pipe, which is read once."""
    try:
        return [] if is_pipe(path) else input_identity(input_files(path, form), cache_dir)
    except NoInputError:  # a folder for another run, without a file of this one's format
        return []
