# pyright: basic
"""The training loop, read top to bottom.

Each batch is predicted before it is learnt. In the first epoch these predictions are the progressive validation: from
the second day on nearly every training row serves as a test row (Blum, Kalai, Langford, "Beating the hold-out",
1999). They are a little optimistic by themselves, since the vocabulary comes from all training rows, and fair in
differences, since it is the same for every optimizer.

Several ranks run the same loop, each on its share of a batch. What they decide by - loss, predictions, signals - all of them
have, so they decide alike; the first one writes.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dlrm_adahessian.checkpoint.background import BackgroundSaver
from dlrm_adahessian.checkpoint.reader import Checkpoint, load_newest_good
from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.curvature.base import all_finite
from dlrm_adahessian.data.loader import Batch, Loader, on_device
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.embeddings.planning.plan import write_plan
from dlrm_adahessian.metrics.binary import BinaryMetrics, binary_metrics, probability_from_logit
from dlrm_adahessian.optim.config import lr_scale
from dlrm_adahessian.runs.run_directory import PredictionLog, RunDirectory
from dlrm_adahessian.runtime.device import find_device
from dlrm_adahessian.train.progress import Progress, Saved, diverged
from dlrm_adahessian.train.run_log import PROGRESSIVE, Journal
from dlrm_adahessian.train.signals import StopRequest
from dlrm_adahessian.train.step import SCORING_BATCH, TrainState
from dlrm_adahessian.train.timing import StepClock
from dlrm_adahessian.train.training_rows import labels_of, progressive, training_loader, training_rows

logger = logging.getLogger(__name__)

_TEST = "test.f32"  # predictions in the run directory


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A finished run.

    Attributes:
        summary: its part of summary.json.
        progressive: labels and predictions of the rows of the progressive validation, in the order of training.
        test: labels and predictions of the test rows.
    """

    summary: dict[str, Any]
    progressive: tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]
    test: tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]


def fit(config: RunConfig, data: PreparedData, run: RunDirectory, *, title: str | None) -> Fitted | None:
    """Train, validate and test one configuration; all ranks call it.

    Args:
        config: of the run; `resume` continues from the newest good checkpoint.
        data: the rows.
        run: where logs, checkpoints and predictions go; locked by the caller on the first rank.
        title: of the progress bar; None shows none.

    Returns:
        Metrics and predictions on the first rank, None on the others.
    """
    with ExitStack() as stack:
        device = find_device(config.device)
        stack.enter_context(init_process_group(device, config.timeout))
        return _Fit(config, data, run, stack, device).run(title)


class _Fit:
    """One call of `fit`: its parts by name."""

    def __init__(
        self,
        config: RunConfig,
        data: PreparedData,
        run: RunDirectory,
        stack: ExitStack,
        device: torch.device,
    ) -> None:
        self.config, self.data, self.directory = config, data, run
        self.fingerprint = config.fingerprint(data.fingerprint)
        self.device = device
        self.state = TrainState(config, data.vocabulary.num_rows, device)
        self.loader = training_loader(config, data, pinned=device.type == "cuda")
        self.total_steps = self.loader.batches_per_epoch * config.epochs
        self.eval_every = config.eval_every or self.loader.batches_per_epoch
        self.journal: Journal | None = None
        if ranks.is_first():
            write_plan(run.plan, self.state.lookup.plan)
            if ranks.world_size() > 1:
                logger.info("%s", self.state.lookup.describe_plan())
            journal = Journal(run, log_every=config.log_every, total_steps=self.total_steps)
            self.journal = stack.enter_context(journal)
        self.stop = stack.enter_context(StopRequest())
        self.saver = stack.enter_context(BackgroundSaver())
        self.progress = Progress()
        self.validation: BinaryMetrics | None = None  # of the newest parameters, once they were validated
        self.clock = StepClock()
        self.saved_at = 0  # step of the newest of the checkpoints that come at intervals
        self.resumed_from = self._resume()

    def run(self, title: str | None) -> Fitted | None:
        size = self.config.batch_size
        if self.journal is not None:
            self.journal.begin(title, done=self.progress.step * size, total=self.total_steps * size)
        while self.progress.step < self.total_steps and not self.progress.stopped_early:
            epoch, first = divmod(self.progress.step, self.loader.batches_per_epoch)
            coming = on_device(self.loader.batches(epoch, first), self.device)
            for batch, following in _with_following(coming):
                vote = ranks.Vote(self.stop.received, self.saver.status())
                began = time.perf_counter()
                loss, probability = self._step(batch, following)
                self.clock.add(time.perf_counter() - began, len(probability))
                if self.journal is not None:
                    self.journal.learnt(
                        self.progress.step,
                        loss,
                        batch.all_labels,
                        probability,
                        self.clock.summary,
                        progressive=epoch == 0,
                    )
                signal, saving = vote.largest()
                self.saver.proceed(saving)
                if self.progress.skipped_in_a_row >= self.config.max_skipped:
                    self._go_back()
                    break
                self._evaluate_and_save(signal)
                if self.progress.stopped_early:
                    break
        return self._finish()

    def _step(self, batch: Batch, following: Batch | None) -> tuple[float, npt.NDArray[np.float32]]:
        """Predict and learn one batch; return its mean loss and its predictions, those of all ranks."""
        config, progress = self.config, self.progress
        curvature_samples = config.curvature_samples(progress.step, batch.share.samples)
        pooled, found = self.state.derivatives(
            batch, curvature_samples=curvature_samples, following=following
        )
        progress.step += 1
        finite = all_finite(found)
        # Read before the update is launched, a GPU updates while the host goes on to the next batch.
        loss = float(found.loss)
        probability = probability_from_logit(torch.nan_to_num(found.logits).cpu().numpy())
        if finite:
            scale = lr_scale(progress.step, self.total_steps, config.optim.schedule)
            self.state.update_(pooled, found, lr_scale=scale)
            progress.learnt()
        else:
            progress.skip()
            logger.warning("step %d skipped: its loss or a derivative is not finite", progress.step)
        return loss, probability

    def _go_back(self) -> None:
        """Go on from the newest checkpoint after too many skipped steps, or give up; all ranks call it."""
        stuck, optim = self.progress, self.config.optim
        rates = {"dense_lr": optim.dense.lr, "rows_lr": optim.rows.lr}
        self.saver.finish()
        found = load_newest_good(self.directory.checkpoints, self.fingerprint)
        if found is None:
            raise diverged(stuck, "there is no checkpoint yet to go back to", **rates)
        if not stuck.may_go_back_to(found.step):
            raise diverged(stuck, f"the run went back to the checkpoint of step {found.step} before", **rates)
        self._restore(found)
        self.progress.went_back_from(stuck)
        if self.journal is not None:
            samples = self.progress.step * self.config.batch_size
            self.journal.went_back(self.progress.step, stuck.step, self.progress.rollbacks, samples)
        logger.warning(
            "went back to the checkpoint of step %d: the last %d steps, up to step %d, were skipped; if that is again so "
            "before the next checkpoint, the run ends",
            *(found.step, stuck.skipped_in_a_row, stuck.step),
        )

    def _evaluate_and_save(self, signal: int) -> None:
        config, progress = self.config, self.progress
        step, last = progress.step, progress.step == self.total_steps
        if step % self.eval_every == 0 or last:
            self._validate()
        if last or signal:
            self.saver.finish()
            self._save(self.directory.checkpoints, config.checkpoint_keep, background=False)
        elif self._is_due():
            self.saved_at = step
            self._save(self.directory.checkpoints, config.checkpoint_keep)
        if signal and not last:
            logger.info("stopped at step %d; continue with --resume", step)
            self.stop.leave(signal)

    def _is_due(self) -> bool:
        """Whether a checkpoint is; not at a skipped step, so that going back undoes all of a row of them."""
        # A signal does not wait for that: what was skipped before its checkpoint stays so (Progress.went_back_from).
        every, progress = self.config.checkpoint_every, self.progress
        return every > 0 and progress.step // every > self.saved_at // every and not progress.skipped_in_a_row

    def _validate(self) -> None:
        progress = self.progress
        found = self.validation = self._measure(self.data.split.val)[1]
        if self.journal is not None:
            self.journal.validated(progress.step, found, self.clock.summary())
        if progress.best_logloss is None or found.logloss < progress.best_logloss:  # pyright: ignore[reportOptionalOperand], val rows exist
            progress.best_logloss, progress.evaluations_since_best = found.logloss, 0
            if self.config.patience or self.eval_every < self.total_steps:
                self._save(self.directory.best, keep=1)
        else:
            progress.evaluations_since_best += 1
        progress.stopped_early = 0 < self.config.patience <= progress.evaluations_since_best

    def _save(self, folder: Path, keep: int, *, background: bool = True) -> None:
        state = {"progress": vars(self.progress), "timing": self.clock.state()}
        if self.journal is not None:
            state |= self.journal.position()
        saver = self.saver if background and self.config.checkpoint_in_background else None
        self.state.save(folder, self.progress.step, state, self.fingerprint, keep=keep, background=saver)

    def _resume(self) -> int:
        if not self.config.resume:
            return 0
        found = load_newest_good(self.directory.checkpoints, self.fingerprint)
        if found is None:
            logger.info("%s holds no checkpoint yet; starting from the beginning", self.directory.path)
            if self.journal is not None:
                self.journal.rewind(step=0, metrics_bytes=0, progressive_rows=0)
            return 0
        self._restore(found)
        logger.info("resumed from step %d", found.step)
        return found.step

    def _restore(self, found: Checkpoint) -> None:
        """Take up a checkpoint, and drop what was logged after it."""
        saved = Saved.of(found.state, found.path)
        self.state.restore_(found)
        self.progress = saved.progress
        if self.journal is not None:
            self.journal.rewind(
                step=found.step,
                metrics_bytes=saved.metrics_bytes,
                progressive_rows=saved.progressive_rows,
                window=saved.window,
            )
        self.clock.load(saved.timing)
        self.saved_at = found.step

    def _measure(self, rows: range) -> tuple[npt.NDArray[np.float32], BinaryMetrics]:
        loader = Loader(
            self.data,
            rows,
            SCORING_BATCH * ranks.world_size(),
            prefetch=self.config.data.prefetch,
            pinned=self.device.type == "cuda",
            rank=ranks.rank(),
            world_size=ranks.world_size(),
        )
        probability = self.state.score(loader.batches(0))
        return probability, binary_metrics(labels_of(self.data, rows), probability)

    def _finish(self) -> Fitted | None:
        timing = self.clock.summary()
        self.saver.finish()
        if self.config.patience and (best := load_newest_good(self.directory.best, self.fingerprint)):
            self.state.restore_(best)
            self.validation = None
        data, split = self.data, self.data.split
        test_probability, test = self._measure(split.test)
        test_labels = labels_of(data, split.test)
        validation = self.validation or self._measure(split.val)[1]
        num_bytes = self.state.num_bytes()
        if self.journal is None:
            return None
        predicted = progressive(data, self.loader, self.journal.progressive)
        with PredictionLog(self.directory.path / _TEST) as log:
            log.rewind(0)
            log.append(test_probability)
        summary = {
            "dataset": self.config.dataset,
            "optimizer": self.config.optimizer,
            "curvature": self.config.curvature,
            "seed": self.config.seed,
            "world_size": ranks.world_size(),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "batch_size": self.config.batch_size,
            "resumed_from_step": self.resumed_from,
            "skipped_steps": self.progress.skipped,
            "rollbacks": self.progress.rollbacks,
            "rows": {
                "train": len(training_rows(self.config, data)),
                "val": len(split.val),
                "test": len(split.test),
                "rejected": data.rejected,
            },
            "progressive": binary_metrics(*predicted).asdict(),
            "val": validation.asdict(),
            "test": test.asdict(),
            "train": {
                "steps": self.progress.step,
                "samples": self._samples_trained(),
                "model_mib": num_bytes / 2**20,
                **timing,
            },
        }
        if data.truth is not None:
            truth = np.asarray(data.truth[split.test.start : split.test.stop])
            summary["bayes"] = binary_metrics(test_labels, truth).asdict()
        return Fitted(summary=summary, progressive=predicted, test=(test_labels, test_probability))

    def _samples_trained(self) -> int:
        epochs, batches = divmod(self.progress.step, self.loader.batches_per_epoch)
        return epochs * len(training_rows(self.config, self.data)) + batches * self.config.batch_size


def _with_following(batches: Iterable[Batch]) -> Iterator[tuple[Batch, Batch | None]]:
    """Yield each batch and the one after it, None after the last."""
    batches = iter(batches)
    batch = next(batches, None)
    while batch is not None:
        following = next(batches, None)
        yield batch, following
        batch = following


def finished(config: RunConfig, data: PreparedData, run: RunDirectory) -> Fitted | None:
    """Return what `fit` returned in a run directory, or None when the run there has not finished.

    Args:
        config: of the run.
        data: its rows.
        run: the directory.

    Returns:
        The same metrics and predictions.
    """
    if not (run.path / "summary.json").exists():
        return None
    test = data.split.test
    with PredictionLog(run.path / _TEST) as test_log, PredictionLog(run.path / PROGRESSIVE) as log:
        if test_log.rows != len(test):
            return None
        return Fitted(
            summary=run.read_summary(),
            progressive=progressive(data, training_loader(config, data), log),
            test=(labels_of(data, test), np.array(test_log.read())),
        )
