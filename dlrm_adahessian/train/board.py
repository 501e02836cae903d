# pyright: basic
"""The curves of a run in TensorBoard: what metrics.jsonl says, and histograms of the curvature.

Where TensorBoard is not installed, nothing.
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

_BINS = 60  # of a histogram, as many as TensorBoard can show apart


class Board:
    """Event files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer = _writer(folder)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    def show(self, record: Mapping[str, Any]) -> None:
        """Show a line of metrics.jsonl."""
        if self._writer is not None:
            for name, value in scalars(record).items():
                self._writer.add_scalar(name, value, record["step"])

    def show_curvature(self, curvature: Tensor, step: int) -> None:
        """Show how large the entries (P,) are that are not 0, on a logarithmic scale."""
        if self._writer is not None:
            sizes = curvature[curvature != 0].abs().log10()
            if len(sizes):
                self._writer.add_histogram("curvature/log10", sizes, step, bins=_BINS)

    def rewind(self, step: int) -> None:
        """Take back what was shown after a step."""
        self.close()
        # Event files only grow; this tells TensorBoard which of the events before it no longer count.
        self._writer = _writer(self._folder, purge_step=step + 1)


def copy_curves(run: Path, to: Path) -> None:
    """Show the curves of another run beside those of one, as they are now.

    Args:
        run: folder of the other run's event files; it may be absent; links in it are refused.
        to: folder of the copies, which takes the place of that of before.
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
    # TensorBoard names its file by time, host and process, which can be guessed.
    suffix = f".{secrets.randbits(64)}"
    return SummaryWriter(str(folder), purge_step=purge_step, filename_suffix=suffix)
