# pyright: basic
"""Open a run for training: claim its folder, prepare its data, and check that all ranks agree on both.

The first rank prepares the data and locks the run directory. If any rank fails, all ranks stop and one of them reports it.
"""

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dlrm_adahessian.checkpoint.reader import latest
from dlrm_adahessian.checkpoint.step_folders import step_of
from dlrm_adahessian.config import RunConfig, asdict
from dlrm_adahessian.data.prepared.folder import (
    DamagedFolderError,
    PreparedData,
    map_prepared,
    open_prepared,
)
from dlrm_adahessian.data.prepared.preprocessing import Preprocessing
from dlrm_adahessian.data.text.sources import STANDARD_INPUT, is_pipe
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import CheckpointError, StorageError
from dlrm_adahessian.runs.finished import SUMMARY, FinishedRun
from dlrm_adahessian.runs.run_directory import RUNS, RunDirectory, default_run_path
from dlrm_adahessian.runs.sealed import sealed_folder
from dlrm_adahessian.runtime.device import finds_gpu
from dlrm_adahessian.runtime.launcher import is_first_here
from dlrm_adahessian.train import agreement
from dlrm_adahessian.train.learnt import preprocessing_of
from dlrm_adahessian.train.recorded import RecordedRun, files_of
from dlrm_adahessian.train.samples import open_samples, training_loader
from dlrm_adahessian.train.start import Start, find_start

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """Everything a run needs to train.

    Attributes:
        config: settings of the run, completed with the checkpoint of a warm start.
        directory: run directory, locked by the first rank.
        data: the samples.
        device: device of this rank.
        start: initial state of a warm start; None for random weights, or if the run has its own checkpoint.
    """

    config: RunConfig
    directory: RunDirectory
    data: PreparedData
    device: torch.device
    start: Start | None


@contextmanager
def on_all_ranks(config: RunConfig) -> Generator[None]:
    """Connect the ranks of the launcher for the duration of the block. A collective: all ranks call it."""
    # The device itself is chosen later, so that a rank without the requested device can report this to the others.
    kind = torch.device("cuda" if finds_gpu(config.device) else "cpu")
    with init_process_group(kind, config.timeout), ranks.one_voice():
        yield


@contextmanager
def opened_run(config: RunConfig) -> Generator[OpenedRun]:
    """Claim the folder of a run and open its data for the duration of the block. A collective: all ranks call it.

    Args:
        config: settings of the run; with `resume`, the run in the folder continues.

    Yields:
        The opened run.
    """
    with ExitStack() as stack:
        agreement.require_same_start(config)
        device = agreement.find_same_device(config)
        path, claimed = ranks.first_opens(partial(_claim, config, stack))
        run, begun = claimed or (RunDirectory(Path(path)), None)
        agreement.require_same_folder(run)
        start = None
        if config.init_from is not None:
            config, start = _started(config, config.init_from, begun)
        # Preparation may take hours.
        folder, prepared = ranks.first_opens(partial(_rows, config, begun), patient=True)
        _, data = ranks.all_open(lambda: (None, prepared or _follow(Path(folder))))
        agreement.require_same_rows(data)
        ranks.first_does(partial(_note, run, begun, config, data))
        yield OpenedRun(config=config, directory=run, data=data, device=device, start=start)


def _claim(config: RunConfig, stack: ExitStack) -> tuple[str, tuple[RunDirectory, RecordedRun | None]]:
    """Lock the run directory until the stack closes. Return its path and, for the first rank, the run recorded there."""
    path = config.out or default_run_path(RUNS, config.default_stem, resume=config.resume)
    run = stack.enter_context(RunDirectory.create(path, resume=config.resume))
    newest = latest(run.checkpoints)
    if newest is None and (path / SUMMARY).exists():
        raise CheckpointError(
            f"{path} is a finished run without checkpoints, so it cannot be resumed. Its results are unchanged. Start "
            "another run with --out."
        )
    begun = None if newest is None else RecordedRun.find(run)
    if begun is not None:
        begun.require_settings(begun.with_start(config))
        _tell_of_damage(begun)
    return str(path.absolute()), (run, begun)


def _started(config: RunConfig, init_from: Path, begun: RecordedRun | None) -> tuple[RunConfig, Start | None]:
    """Return the settings completed with the checkpoint of a warm start, and the start if the run has no own checkpoint."""
    folder, noted = ranks.first_does(
        lambda: (str(init_from.absolute()), begun and begun.config.init_checkpoint)
    )
    if noted is not None:
        return replace(config, init_checkpoint=noted), None
    return find_start(config, Path(folder))


def _rows(config: RunConfig, begun: RecordedRun | None) -> tuple[str, PreparedData]:
    """Return the folder of the prepared data, and the data."""
    data = (begun and _rows_of_pipe(begun, config)) or open_samples(config, extends=_extended(config))
    return str(data.folder.absolute()), data


def _extended(config: RunConfig) -> Preprocessing | None:
    """Return the preprocessing that the data extends; None without a warm start."""
    if config.init_from is None:
        return None
    return preprocessing_of(RecordedRun.read(RunDirectory(config.init_from)))[0]


def _tell_of_damage(begun: RecordedRun) -> None:
    """Warn about results that changed since they were written. The checkpoint has its own digests of what a resume needs."""
    if not (begun.folder / SUMMARY).exists():
        return
    try:
        FinishedRun.open(begun.folder, begun.config.fingerprint(begun.rows))
    except DamagedFolderError as error:
        logger.warning(
            "%s; the summary and the test predictions are computed again from the checkpoint", error
        )


def _rows_of_pipe(begun: RecordedRun, config: RunConfig) -> PreparedData | None:
    """Return the prepared data of a run that read it from a pipe, which cannot be read again; None to read new data."""
    path = config.data_path
    if path is None or not is_pipe(path) or not begun.names_rows_of(config):
        return None
    source = "standard input" if path == STANDARD_INPUT else path
    folder = Path(str(begun.prepared.get("folder")))
    try:
        data = open_prepared(folder)
    except DamagedFolderError as error:
        logger.warning(
            "the data of %s came from %s, and its prepared copy is unusable: %s; send the same data through the pipe again",
            *(begun.folder, source, error),
        )
        return None
    if data.fingerprint != begun.rows:
        return None
    logger.info("the data came from %s, which is not read again; using prepared data in %s", source, folder)
    return data


def _follow(folder: Path) -> PreparedData:
    """Map the data that the first rank prepared. On every other machine, one rank verifies it."""
    try:
        return open_prepared(folder) if is_first_here() else map_prepared(folder)
    except DamagedFolderError as error:
        raise StorageError(
            f"This rank cannot read the data that the first rank prepared: {error}. Set --data.cache-dir to a folder that "
            "all machines share."
        ) from error


def _note(run: RunDirectory, begun: RecordedRun | None, config: RunConfig, data: PreparedData) -> None:
    """Record a new run. For a run with checkpoints, check that the data is the same, and record a larger epoch number."""
    newest = latest(run.checkpoints)
    if newest is None:
        _describe(run, config, data)
    elif begun is not None:
        begun.require_rows(config, data.fingerprint)
        if config.epochs > begun.config.epochs:
            steps = training_loader(config, data).batches_per_epoch
            begun.require_regular_end(config, steps_per_epoch=steps, step=step_of(newest) or 0)
            _write_config(run, config, data, files_of(begun.prepared, "earlier"))


def _write_config(
    run: RunDirectory, config: RunConfig, data: PreparedData, earlier: Sequence[Mapping[str, Any]]
) -> None:
    prepared = {
        "folder": str(data.folder.resolve()),
        "fingerprint": data.fingerprint,
        "input": data.manifest["key"].get("input"),
        "split": data.split.asdict(),
    }
    if earlier:
        prepared["earlier"] = list(earlier)
    run.write_config({**asdict(config), "prepared": prepared})


def _describe(run: RunDirectory, config: RunConfig, data: PreparedData) -> None:
    """Write everything that an evaluation needs besides the checkpoints."""
    before = None if config.init_from is None else RecordedRun.read(RunDirectory(config.init_from))
    _write_config(run, config, data, before.all_files if before else ())
    manifest: dict[str, Any] = {"fingerprint": data.fingerprint, "values_per_bag": data.values_per_bag}
    with sealed_folder(run.vocabulary, manifest) as folder:
        manifest.update(data.preprocessing.save(folder))
