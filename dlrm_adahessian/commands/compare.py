"""Implement `compare`: tune, train and compare optimizers or models."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from dlrm_adahessian.commands.arguments import config_file, model_name, parsed, value_of
from dlrm_adahessian.commands.cautions import slowed
from dlrm_adahessian.commands.help import ROWS, Layout, ReadBefore
from dlrm_adahessian.compare.config import CompareConfig
from dlrm_adahessian.config import of_model
from dlrm_adahessian.data.config import GENERATED
from dlrm_adahessian.data.published import schema_of
from dlrm_adahessian.data.text.sources import require_rows
from dlrm_adahessian.errors import ProgramError, StorageError, UsageError
from dlrm_adahessian.presets import optimizer_preset
from dlrm_adahessian.runs.sealed import require_writable
from dlrm_adahessian.runtime.process import require_gpu_driver
from dlrm_adahessian.runtime.settings import read_toml, settings, validated
from dlrm_adahessian.runtime.terminal import say

if TYPE_CHECKING:
    from dlrm_adahessian.compare.study import Study

logger = logging.getLogger(__name__)

_HELP = """Tune and train several optimizers or models on the same data, and report which is better.

Every entrant gets the same samples in the same order, and the same tuning budget. Optimizers of one model also start from
the same initial weights. Trials are ranked on validation samples by default, and final runs use fresh seeds. The first
entrant is the reference. Run the same command again to continue after an interruption, or with more --seeds or --trials
to extend the comparison. Further processes and machines can train runs of it with --join OUT."""


@dataclass(frozen=True)
class ReadBeforeComparing(ReadBefore):
    """`ReadBefore`, and the flag of a process that joins a comparison."""

    join: Path | None = None
    """Help train the comparison in this folder until it is done; accepts only --parallel."""


@settings
class JoinConfig:
    """Train runs of a comparison that another process started."""

    join: Path
    """Folder of the comparison."""
    parallel: Annotated[int, Field(ge=1)] = 1
    """Number of runs that this process trains at once."""


LAYOUT = Layout(
    basic={
        "input data": ROWS,
        "comparison": ("optimizers", "models", "trials", "seeds", "searches"),
        "training": ("model", "batch_size", "epochs", "device"),
        "run": ("out", "parallel", "join", "config"),
    },
    advanced={
        "search": ("refine", "select", "trial_rows", "sampler", "seed"),
        "precision": ("precision", "curvature_precision"),
    },
    before=ReadBeforeComparing(),
)
"""Headings of --help and --help-all."""


def compare(arguments: Sequence[str]) -> int:
    """Tune and train several optimizers or models, and report which is better."""
    if value_of(arguments, "--join") is not None and not {*arguments} & {"-h", "--help", "--help-all"}:
        return _join(arguments)
    named, model = config_file(arguments), model_name(arguments)
    values = read_toml(named) if named else {}
    base = validated(CompareConfig, of_model(values, model) if model else values)
    args = parsed(
        base,
        arguments,
        prog="python -m dlrm_adahessian compare",
        description=_HELP,
        read=("--config", "--model"),
        layout=LAYOUT,
    )
    for name in args.optimizer_names:
        optimizer_preset(name)  # refuses an unknown name before any data is read
    if args.dataset not in GENERATED:
        require_rows(args.data_path, "compare", schema_of(args.dataset, args.schema).format)
    require_gpu_driver(args.device)
    require_writable(args.out, "--out")
    from dlrm_adahessian.compare.study import run_study

    say("\n".join([*report(run_study(args), args.out), "", f"Report written to {args.out}/report.html"]))
    return 0


def _join(arguments: Sequence[str]) -> int:
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    if others := [flag for flag in flags if flag not in ("--join", "--parallel")]:
        raise UsageError(
            f"--join takes data and settings from the comparison, so it does not accept {', '.join(others)}. Pass only "
            "--join and --parallel."
        )
    args = parsed(JoinConfig, arguments, prog="python -m dlrm_adahessian compare")
    require_writable(args.join, "--join")
    from dlrm_adahessian.compare.study import join_study

    join_study(args.join, args.parallel)
    return 0


def report(study: "Study", folder: Path) -> list[str]:
    """Write results.csv and the report of a comparison.

    Args:
        study: all runs.
        folder: folder of the comparison.

    Returns:
        The verdicts as sentences, and what the intervals cover.

    Raises:
        StorageError: the report failed because of a bug. The results are kept.
    """
    from dlrm_adahessian.compare.summary import runs_table, summarize
    from dlrm_adahessian.report.comparison import verdicts, write_report, write_runs

    try:
        runs = runs_table(study)
        write_runs(folder, runs)
        found = summarize(study)
        write_report(folder, found, runs)
        waited = {name: entrant.train.get("waited_share") for name, entrant in found.optimizers.items()}
        if (caution := slowed(waited)) is not None:
            logger.warning("%s", caution)
        return [*(verdict.sentence for verdict in verdicts(found)), found.intervals_cover]
    except Exception as error:
        if isinstance(error, ProgramError):
            raise
        said = " ".join(str(error).split())  # template errors have the line number on its own line
        raise StorageError(
            f"Cannot write the report of {folder} because of a bug in this program "
            f"({type(error).__name__}: {said}). All runs are finished, and results.csv has their metrics. "
            "Once the bug is fixed, run the same command again: it writes the report without training."
        ) from error
