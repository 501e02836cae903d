# pyright: basic
"""Write the curves of a run for TensorBoard: the figures of metrics.jsonl, and histograms of the curvature.

If TensorBoard is not installed, this module writes nothing.
"""

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dlrm_adahessian.runs.files import new_file
from dlrm_adahessian.runs.logs import scalars
from dlrm_adahessian.runs.sealed import require_no_links, storage_errors

_BINS = 60  # per histogram; TensorBoard shows no more


class Board:
    """Writes event files to one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer = _writer(folder)

    def close(self) -> None:
        """Write pending events."""
        if self._writer is not None:
            self._writer.close()

    def show(self, record: Mapping[str, Any]) -> None:
        """Add the figures of one line of metrics.jsonl."""
        if self._writer is not None:
            for name, value in scalars(record).items():
                self._writer.add_scalar(name, value, record["step"])

    def show_curvature(self, curvature: Tensor, step: int) -> None:
        """Add a histogram of log10 of the absolute nonzero entries of the curvature (P,)."""
        if self._writer is not None:
            sizes = curvature[curvature != 0].abs().log10()
            if len(sizes):
                self._writer.add_histogram("curvature/log10", sizes, step, bins=_BINS)

    def rewind(self, step: int) -> None:
        """Drop everything after a step."""
        self.close()
        # Event files are append-only; `purge_step` tells TensorBoard to ignore events from that step on.
        self._writer = _writer(self._folder, purge_step=step + 1)


def copy_curves(run: Path, to: Path) -> None:
    """Copy the current curves of another run, to show them next to those of this run.

    Args:
        run: folder of the other run's event files. It may be missing. Links in it raise an error.
        to: folder of the copies; replaces an existing one.
    """
    shutil.rmtree(to, ignore_errors=True)
    if run.is_dir():
        require_no_links(run)
        with storage_errors(to):
            to.mkdir(parents=True)
            for path in filter(Path.is_file, run.iterdir()):
                with path.open("rb") as events, new_file(to / path.name) as copy:
                    shutil.copyfileobj(events, copy)


def _writer(folder: Path, *, purge_step: int | None = None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    # TensorBoard builds the name from time, host, and process, which others can guess.
    suffix = f".{secrets.randbits(64)}"
    return SummaryWriter(str(folder), purge_step=purge_step, filename_suffix=suffix)
