# pyright: basic
"""The training loop.

The model predicts each batch before it trains on it. In the first epoch these predictions are the progressive validation:
from the second day on, nearly every training sample also serves as a test sample (Blum, Kalai, Langford, "Beating the
hold-out", 1999). The absolute values are slightly optimistic, because the vocabulary comes from all training samples.
Differences between optimizers are fair, because all of them share this vocabulary.

All ranks run the same loop, each on its share of a batch. They reach the same decisions because all of them have the same
loss, predictions, and signals. Only the first rank writes files.
"""

import logging
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from dlrm_adahessian.checkpoint.background import BackgroundSaver
from dlrm_adahessian.checkpoint.reader import Checkpoint, latest, load_newest_good
from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.curvature.registry import matrix_of
from dlrm_adahessian.data.loader import Batch, Loader, on_device, with_following
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.data.sampling import population_probability, population_weights
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.embeddings.planning.plan import write_plan
from dlrm_adahessian.metrics.binary import BinaryMetrics, binary_metrics
from dlrm_adahessian.optim.config import lr_scale
from dlrm_adahessian.runs.finished import TEST
from dlrm_adahessian.runs.logs import PredictionLog
from dlrm_adahessian.runs.profile import named_each, profiled
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.train.figures import StepFigures
from dlrm_adahessian.train.progress import Progress, Saved, StepClock, StopRequest, diverged
from dlrm_adahessian.train.results import Predicted, RunResult, RunSummary, SampleCounts, TrainingCost
from dlrm_adahessian.train.run_log import NoLog, RunLog
from dlrm_adahessian.train.samples import (
    predicted,
    progressive,
    require_weight,
    training_loader,
    training_rows,
)
from dlrm_adahessian.train.start import Start
from dlrm_adahessian.train.state import SCORING_BATCH, TrainState
from dlrm_adahessian.train.step import StepResult, curvature_samples, train_step

logger = logging.getLogger(__name__)


def fit(
    config: RunConfig,
    data: PreparedData,
    run: RunDirectory,
    device: torch.device,
    *,
    title: str | None,
    start: Start | None = None,
) -> RunResult | None:
    """Train, validate, and test one configuration. A collective: needs a process group, and all ranks call it.

    Args:
        config: settings of the run; with `resume`, training continues from the newest valid checkpoint.
        data: the samples.
        run: directory for logs, checkpoints, and predictions, locked by the caller on the first rank.
        device: device of this rank.
        title: title of the progress bar; None shows no bar.
        start: weights to start from if the run has no checkpoint of its own; None for random weights.

    Returns:
        Metrics and predictions on the first rank, None on the others.
    """
    require_weight(data)
    with ExitStack() as stack:
        return _Fit(config, data, run, device, stack, start).run(title)


class _Fit:
    """The state of one call of `fit`."""

    def __init__(
        self,
        config: RunConfig,
        data: PreparedData,
        run: RunDirectory,
        device: torch.device,
        stack: ExitStack,
        start: Start | None,
    ) -> None:
        self.config, self.data, self.directory, self.start = config, data, run, start
        self.fingerprints = config.checkpoint_fingerprints(data.fingerprint)
        self.device = device
        schema, num_rows = data.preprocessing.schema, data.preprocessing.num_rows
        newest = load_newest_good(run.checkpoints, *self.fingerprints) if config.resume else None
        if newest is not None:
            newest.require_sizes_of(config.model, schema, num_rows)
        self.label = schema.label
        self.state = TrainState(
            config,
            schema,
            num_rows,
            device,
            values_per_bag=data.values_per_bag,
            start=start if newest is None else None,
        )
        self.loader = training_loader(config, data, pinned=device.type == "cuda")
        self.total_steps = self.loader.batches_per_epoch * config.epochs
        self.eval_every = config.eval_every or self.loader.batches_per_epoch
        if ranks.is_first():
            write_plan(run.plan, self.state.lookup.plan)
            if ranks.world_size() > 1:
                logger.info("%s", self.state.lookup.describe_plan())
            if start is not None and newest is None:
                logger.info("%s", start.told(num_rows))
        self.log = stack.enter_context(
            RunLog(run, log_every=config.log_every, total_steps=self.total_steps)
            if ranks.is_first()
            else NoLog()
        )
        self.traced = stack.enter_context(profiled(run.profile(ranks.rank()), config.profile))
        self.stop = stack.enter_context(StopRequest())
        self.saver = stack.enter_context(BackgroundSaver())
        self.progress = Progress()
        self.validation: BinaryMetrics | None = None  # of the current parameters; None if they changed since
        self.clock = StepClock()
        self.saved_at = 0  # step of the newest periodic checkpoint
        self.resumed_from = self._resume(newest)

    def run(self, title: str | None) -> RunResult | None:
        size = self.config.batch_size
        self.log.begin(title, done=self.progress.step * size, total=self.total_steps * size)
        while self.progress.step < self.total_steps and not self.progress.stopped_early:
            epoch, first = divmod(self.progress.step, self.loader.batches_per_epoch)
            coming = on_device(self.loader.batches(epoch, first), self.device)
            for batch, following in named_each("feed", with_following(coming)):
                vote = ranks.Vote(self.stop.received, self.saver.status())
                began = time.perf_counter()
                found, figures = self._step(batch, following)
                self.clock.add(time.perf_counter() - began, len(found.probability))
                self.log.learned(
                    self.progress.step,
                    found.loss,
                    batch.all_labels,
                    found.probability,
                    self.clock.summary,
                    weights=population_weights(self.label, batch.all_labels, batch.all_weights),
                    progressive=epoch == 0,
                    figures=figures.values,
                    curvature=figures.curvature,
                )
                self.traced()
                signal, saving = vote.largest()
                self.saver.proceed(saving)
                if self.progress.skipped_in_a_row >= self.config.max_skipped:
                    self._go_back()
                    break
                self._evaluate_and_save(signal)
                if self.progress.stopped_early:
                    break
        return self._finish()

    def _step(self, batch: Batch, following: Batch | None) -> tuple[StepResult, StepFigures]:
        """Predict one batch and train on it."""
        config, progress, step = self.config, self.progress, self.progress.step + 1
        dense, rows = (
            lr_scale(step, self.total_steps, config.optim.schedule, of) for of in ("dense", "rows")
        )
        lr = {"dense": config.optim.dense.lr * dense, "rows": config.optim.rows.lr * rows}
        figures = StepFigures(config, self.state, batch, step, self.total_steps, lr)
        found = train_step(
            self.state,
            batch,
            curvature_samples=curvature_samples(config, progress.step, batch.share.samples),
            lr_scale=dense,
            rows_lr_scale=rows,
            following=following,
            seen=figures,
        )
        progress.step = step
        if found.finite:
            progress.learned()
        else:
            progress.skip()
            logger.warning("step %d skipped: the loss or a derivative is not finite", progress.step)
        return found, figures

    def _go_back(self) -> None:
        """Restore the newest checkpoint after too many skipped steps, or give up. A collective: all ranks call it."""
        stuck, optim = self.progress, self.config.optim
        rates = {"dense_lr": optim.dense.lr, "rows_lr": optim.rows.lr}
        self.saver.finish()
        found = load_newest_good(self.directory.checkpoints, *self.fingerprints)
        if found is None:
            raise diverged(stuck, "There is no checkpoint to go back to.", **rates)
        if not stuck.may_go_back_to(found.step):
            raise diverged(
                stuck, f"The run already went back to the checkpoint of step {found.step}.", **rates
            )
        self._restore(found)
        self.progress.went_back_from(stuck)
        samples = self.progress.step * self.config.batch_size
        self.log.went_back(self.progress.step, stuck.step, self.progress.rollbacks, samples)
        logger.warning(
            "went back to the checkpoint of step %d, because the last %d steps up to step %d were skipped; the run ends if "
            "this happens again before the next checkpoint",
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
            logger.info("stopped at step %d; use --resume to continue", step)
            self.stop.leave(signal)

    def _is_due(self) -> bool:
        """Return whether to write a periodic checkpoint. Never at a skipped step, so that going back undoes them all."""
        # A signal does not wait for a step that is not skipped; see Progress.went_back_from.
        every, progress = self.config.checkpoint_every, self.progress
        return every > 0 and progress.step // every > self.saved_at // every and not progress.skipped_in_a_row

    def _validate(self) -> None:
        progress = self.progress
        found = self.validation = self._measure(self.data.split.val)[1]
        self.log.validated(progress.step, found, self.clock.summary())
        if progress.best_logloss is None or found.logloss < progress.best_logloss:  # pyright: ignore[reportOptionalOperand], val rows exist
            progress.best_logloss, progress.evaluations_since_best = found.logloss, 0
            if self._keeps_best:
                self._save(self.directory.best, keep=1)
        else:
            progress.evaluations_since_best += 1
        progress.stopped_early = 0 < self.config.patience <= progress.evaluations_since_best

    @property
    def _keeps_best(self) -> bool:
        return self.config.patience > 0 or self.eval_every < self.total_steps

    def _save(self, folder: Path, keep: int, *, background: bool = True) -> None:
        state = {
            "progress": vars(self.progress),
            "timing": self.clock.state(),
            **self.log.position(),
        }
        saver = self.saver if background and self.config.checkpoint_in_background else None
        self.state.save(folder, self.progress.step, state, self.fingerprints[0], keep=keep, background=saver)

    def _resume(self, found: Checkpoint | None) -> int:
        if not self.config.resume:
            return 0
        if found is None:
            if self.start is None:
                logger.info("%s has no checkpoint yet; starting from the beginning", self.directory.path)
            self.log.rewind(step=0, metrics_bytes=0, progressive_rows=0)
            return 0
        self._restore(found)
        logger.info("resumed from step %d", found.step)
        if self._keeps_best and self._lacks_best():
            self._save(self.directory.best, keep=1)
        return found.step

    def _lacks_best(self) -> bool:
        """Return whether the run was planned to end here, so that its only and best evaluation is not saved in best/."""
        progress = self.progress
        best_here = progress.best_logloss is not None and not progress.evaluations_since_best
        at_end = progress.step % self.loader.batches_per_epoch == 0
        return best_here and at_end and ranks.first_does(lambda: latest(self.directory.best) is None)

    def _restore(self, found: Checkpoint) -> None:
        """Restore a checkpoint, and drop everything logged after it."""
        saved = Saved.of(found.state, found.path)
        self.state.restore_(found)
        self.progress = saved.progress
        self.log.rewind(
            step=found.step,
            metrics_bytes=saved.metrics_bytes,
            progressive_rows=saved.progressive_rows,
            metrics_xxh3_128=saved.metrics_xxh3_128,
            progressive_xxh3_128=saved.progressive_xxh3_128,
            window=saved.window,
        )
        self.clock.load(saved.timing)
        self.saved_at = found.step

    def _measure(self, rows: range) -> tuple[Predicted, BinaryMetrics]:
        loader = Loader(
            self.data,
            rows,
            SCORING_BATCH * ranks.world_size(),
            prefetch=self.config.data.prefetch,
            pinned=self.device.type == "cuda",
            rank=ranks.rank(),
            world_size=ranks.world_size(),
        )
        found = predicted(self.data, rows, self.state.score(loader.batches(0)))
        return found, binary_metrics(*found)

    def _finish(self) -> RunResult | None:
        timing = self.clock.summary()
        self.saver.finish()
        if self.config.patience and (best := load_newest_good(self.directory.best, *self.fingerprints)):
            self.state.restore_(best)
            self.validation = None
        data, split = self.data, self.data.split
        of_test, test = self._measure(split.test)
        validation = self.validation or self._measure(split.val)[1]
        num_bytes = self.state.num_bytes()
        if isinstance(self.log, NoLog):  # only the first rank reports
            return None
        before_learning = progressive(self.config, data, self.loader, self.log.progressive.read())
        with PredictionLog(self.directory.path / TEST) as log:
            log.rewind(0)
            log.append(of_test.probability)
        truth = None if data.truth is None else np.asarray(data.truth[split.test.start : split.test.stop])
        summary = RunSummary(
            dataset=self.config.dataset,
            optimizer=self.config.optimizer,
            curvature=self.config.curvature,
            model=self.config.model.name,
            curvature_of=matrix_of(self.config.curvature, self.state.head.parts),
            seed=self.config.seed,
            world_size=ranks.world_size(),
            device=torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            batch_size=self.config.batch_size,
            init_from=self.config.init_from and str(self.config.init_from),
            init_checkpoint=self.config.init_checkpoint,
            resumed_from_step=self.resumed_from,
            skipped_steps=self.progress.skipped,
            rollbacks=self.progress.rollbacks,
            rows=SampleCounts(
                train=len(training_rows(self.config, data)),
                val=len(split.val),
                test=len(split.test),
                rejected=data.rejected,
            ),
            progressive=binary_metrics(*before_learning),
            val=validation,
            test=test,
            train=TrainingCost(
                steps=self.progress.step,
                samples=self._samples_trained(),
                model_mib=num_bytes / 2**20,
                **timing,
            ),
            bayes=None
            if truth is None
            else binary_metrics(of_test.labels, population_probability(self.label, truth), of_test.weights),
        )
        return RunResult(summary=summary, progressive=before_learning, test=of_test)

    def _samples_trained(self) -> int:
        epochs, batches = divmod(self.progress.step, self.loader.batches_per_epoch)
        return epochs * len(training_rows(self.config, self.data)) + batches * self.config.batch_size
