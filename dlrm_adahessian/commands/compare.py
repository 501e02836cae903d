"""`compare`: which optimizer trains the better model, and which model is better."""

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

_HELP = """Tune and train several optimizers or models on the same rows, and report which is better.

Each gets the same rows in the same order, with one model the same initial weights, and as many draws of hyper-parameters
from ranges equally wide, chosen on validation rows. Final runs use other seeds. Start it again to go on after an
interruption, or with more --seeds or --trials to extend it. The first optimizer, with the first model, is the reference.
With --join OUT alone, further processes and machines train runs of a comparison that another process began."""


@dataclass(frozen=True)
class ReadBeforeComparing(ReadBefore):
    """And what a process needs that joins."""

    join: Path | None = None
    """Train runs of the comparison in this folder that nobody works on, until all are done; takes --parallel only."""


@settings
class JoinConfig:
    """Train runs of a comparison that another process began."""

    join: Path
    """Folder of the comparison."""
    parallel: Annotated[int, Field(ge=1)] = 1
    """Runs at once of this process."""


LAYOUT = Layout(
    basic={
        "rows": ROWS,
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
"""What --help and --help-all show of the flags."""


def compare(arguments: Sequence[str]) -> int:
    """Tune and train several optimizers or models alike, and report which is better."""
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
        optimizer_preset(name)  # a wrong name is refused before anything is read
    if args.dataset not in GENERATED:
        require_rows(args.data_path, "compare", schema_of(args.dataset, args.schema).format)
    require_gpu_driver(args.device)
    require_writable(args.out, "--out")
    from dlrm_adahessian.compare.study import run_study

    say("\n".join([*report(run_study(args), args.out), "", f"written to {args.out}/report.html"]))
    return 0


def _join(arguments: Sequence[str]) -> int:
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    if others := [flag for flag in flags if flag not in ("--join", "--parallel")]:
        raise UsageError(
            f"a process that joins takes rows and settings from the comparison, and {', '.join(others)} was given; leave "
            "all flags but --join and --parallel out"
        )
    args = parsed(JoinConfig, arguments, prog="python -m dlrm_adahessian compare")
    require_writable(args.join, "--join")
    from dlrm_adahessian.compare.study import join_study

    join_study(args.join, args.parallel)
    return 0


def report(study: "Study", folder: Path) -> list[str]:
    """Write the report of a study, results first.

    Args:
        study: all its runs.
        folder: of the comparison.

    Returns:
        What it says, in sentences.

    Raises:
        StorageError: the report has a fault; the results stay.
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
        said = " ".join(str(error).split())  # templates report a line number on a line of its own
        raise StorageError(
            f"the report of {folder} could not be written, because of a fault in this program "
            f"({type(error).__name__}: {said}); all runs are finished, and results.csv has their figures; "
            "once the fault is fixed, the same command writes the report and trains nothing"
        ) from error
