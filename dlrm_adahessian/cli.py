"""The command line: prepare, train, evaluate, compare, plan, doctor.

Heavy packages are imported by the command that needs them, so that help and a wrong flag answer at once.
"""

import json
import logging
import os
import select
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from dlrm_adahessian import __version__, config
from dlrm_adahessian.compare.config import CompareConfig
from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.errors import ProgramError, UsageError
from dlrm_adahessian.launched import alone, is_first, told_once
from dlrm_adahessian.memory import keep_freed_memory
from dlrm_adahessian.planning.config import PlanConfig

T = TypeVar("T")
_STRICT = ConfigDict(extra="forbid")
_TRAIN_HELP = """Train DLRM with a second-order hybrid, then its baseline on the same rows, and compare them.

--config FILE.toml reads settings from a file; flags win over the file, the file over the preset of the optimizer
(configs/optimizers). The defaults shown below already include both."""

_COMPARE_HELP = """Tune and train several optimizers on the same rows, and report which trains the better model.

Every optimizer gets the same rows in the same order, the same initial weights, and as many draws of hyper-parameters from
ranges equally wide, chosen on validation rows. Final runs use other seeds. Start it again to go on after an interruption, or
with more --seeds or --trials to extend it. --config FILE.toml reads settings from a file; flags win over it."""

_PLAN_HELP = """Plan who holds which tables on given machines, and what each rank needs in memory; needs neither.

What cannot fit is refused, with what would. The settings of the optimizer shown below are those of its preset."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PrepareConfig:
    """Turn raw rows into the cache that training reads."""

    dataset: Literal["criteo", "synthetic"] = "criteo"
    """Real rows from --data-path, or generated ones."""
    data_path: str | None = None
    """Raw rows: train.txt under any name, a .gz of it, the dac.tar.gz archive, a folder, or - for standard input."""
    rows: int | None = None
    """Use the first N rows only; for synthetic data, generate N."""
    bad_rows: Literal["strict", "quarantine"] = "strict"
    """Stop at the first bad line, or set bad lines aside in rejects.tsv and count them."""
    json: bool = False
    """Print one JSON document instead of text."""
    data: DataConfig = DataConfig()


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EvaluateConfig:
    """Score rows with a trained run and write the predictions to a parquet file."""

    run: Path
    """Run directory of a training job."""
    data_path: str
    """Raw rows, with labels or without (a file, .gz, dac.tar.gz, a folder, -), or a folder of prepared rows."""
    out: Path
    """Parquet file to write: row, label (null where there is none), probability."""
    part: Literal["all", "train", "val", "test"] = "all"
    """Part of prepared rows."""
    best: bool = False
    """Score with the checkpoint of the lowest validation log loss, not the last; runs with patience always do."""
    bad_rows: Literal["strict", "quarantine"] = "strict"
    """Stop at the first bad line, or set bad lines aside in OUT.rejects.tsv and count them."""
    json: bool = False
    """Print one JSON document instead of text."""


def train(arguments: Sequence[str]) -> int:
    """Train an optimizer and its baseline, and compare them."""
    with told_once():
        base = config.load(_config_file(arguments), _value_of(arguments, "--optimizer"))
        parsed = _parsed(base, arguments, prog="train.py", description=_TRAIN_HELP)
    from dlrm_adahessian.job import run_job
    from dlrm_adahessian.tables import job_table

    done = run_job(parsed)
    if done is None:  # another rank reports
        return 0
    path, summary = done
    _print(f"{job_table(summary)}\n\nwritten to {path}/summary.json")
    return 0


def prepare(arguments: Sequence[str]) -> int:
    """Turn raw rows into the cache that training reads."""
    args = tyro.cli(PrepareConfig, args=arguments, prog="prepare")
    from dlrm_adahessian.data.cache import open_dataset
    from dlrm_adahessian.data.prepared import is_prepared

    if args.data_path is not None and is_prepared(args.data_path):
        raise UsageError(
            f"prepare takes raw rows, and {args.data_path} holds prepared ones; train or evaluate with it as --data-path"
        )
    data = open_dataset(args.dataset, args.data_path, args.data, rows=args.rows, bad_rows=args.bad_rows)
    kept = len(data.labels)
    found = {
        "folder": str(data.folder),
        "rows_read": kept + data.rejected,
        "rows_kept": kept,
        "rows_rejected": data.rejected,
        "train": len(data.split.train),
        "val": len(data.split.val),
        "test": len(data.split.test),
        "table_rows": sum(data.vocabulary.num_rows),
    }
    _report(found, as_json=args.json)
    return 0


def evaluate(arguments: Sequence[str]) -> int:
    """Score rows with a trained run."""
    args = tyro.cli(EvaluateConfig, args=arguments, prog="evaluate")
    from dlrm_adahessian.evaluate import evaluate as score

    found = score(args.run, args.data_path, args.out, part=args.part, best=args.best, bad_rows=args.bad_rows)
    _report(found, as_json=args.json)
    return 0


def compare(arguments: Sequence[str]) -> int:
    """Tune and train several optimizers alike, and report which trains the better model."""
    named = _config_file(arguments)
    base = config.validated(CompareConfig, config.read_toml(named) if named else {})
    args = _parsed(base, arguments, prog="compare", description=_COMPARE_HELP)
    for name in args.names:
        config.preset(name)  # a wrong name is refused before anything is read
    from dlrm_adahessian.compare.results import runs_table, summarize
    from dlrm_adahessian.compare.study import run_study
    from dlrm_adahessian.report.page import write_report
    from dlrm_adahessian.report.words import headline, verdict

    study = run_study(args)
    summary = summarize(study)
    write_report(args.out, summary, runs_table(study))
    _print("\n".join([*headline(summary), *verdict(summary), "", f"written to {args.out}/report.html"]))
    return 0


def plan(arguments: Sequence[str]) -> int:
    """Plan who would hold which tables on given machines, and whether they fit."""
    name = _value_of(arguments, "--optimizer")
    preset = config.load(None, name)
    base = PlanConfig(optimizer=preset.optimizer, optim=preset.optim)
    args = _parsed(base, arguments, prog="plan", description=_PLAN_HELP)
    from dlrm_adahessian.distributed.plan_text import plan_text
    from dlrm_adahessian.planning.report import plan_json, planned

    found = planned(args)
    _print(json.dumps(plan_json(args, found)) if args.json else plan_text(found))
    return 0


def doctor(arguments: Sequence[str]) -> int:
    """Check that torch, torchrec and fbgemm fit together, and say what to do."""
    tyro.cli(_no_arguments, args=arguments, prog="doctor", description=doctor.__doc__)
    from dlrm_adahessian.doctor import diagnose

    healthy, text = diagnose()
    _print(text)
    return 0 if healthy else 1


def _no_arguments() -> None:
    """Take no flags but --help."""


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "plan": plan,
    "doctor": doctor,
}


_BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: as `sys.argv[1:]`, which is the default.

    Returns:
        The exit code of the contract; every error that a user can act on becomes one.

    Raises:
        BrokenPipeError: not of the standard output.
    """
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _reader_left():
            raise
        # What is still buffered must not be tried again at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return _BROKEN_PIPE


def _reader_left() -> bool:
    """Whether nobody reads our output any more, as when head has enough."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _run(given: list[str]) -> int:
    if given[:1] == ["--version"]:
        _print(__version__)
        return 0
    if not given or given[0] in ("-h", "--help"):
        _print(_usage())
        return 0 if given else UsageError.exit_code
    _quiet_libraries()
    keep_freed_memory()
    try:
        with told_once():
            command = _command(given[0])
        return command(given[1:])
    except ProgramError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except SystemExit as leaving:  # the flags library leaves with 2 when a flag is wrong
        return UsageError.exit_code if leaving.code == 2 else int(leaving.code or 0)


def _command(name: str) -> Callable[[Sequence[str]], int]:
    if name not in COMMANDS:
        raise UsageError(f"a command is one of {', '.join(COMMANDS)}, got {name!r}")
    if name != "train" and not alone():
        raise UsageError(
            f"{name} runs in one process, and a launcher started several; start it without torchrun"
        )
    return COMMANDS[name]


def _quiet_libraries() -> None:
    """Show what this program logs, and of the libraries below it errors only."""
    logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stderr)
    logging.getLogger("dlrm_adahessian").setLevel(logging.INFO if is_first() else logging.ERROR)
    warnings.filterwarnings("ignore", module="torch.*")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported


def _config_file(arguments: Sequence[str]) -> Path | None:
    named = _value_of(arguments, "--config")
    return Path(named) if named else None


def _parsed(base: T, arguments: Sequence[str], *, prog: str, description: str) -> T:
    """Return settings whose defaults are those of `base`; the file of --config is in it already."""
    return tyro.cli(
        type(base),
        default=base,
        args=_without(arguments, "--config"),
        prog=prog,
        description=description,
        config=(tyro.conf.AvoidSubcommands,),
    )


def _value_of(arguments: Sequence[str], flag: str) -> str | None:
    """Return the value of a flag that is needed before the others can be read."""
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag:
            if place + 1 == len(arguments):
                raise UsageError(f"{flag} needs a value, got none")
            return arguments[place + 1]
    return None


def _without(arguments: Sequence[str], flag: str) -> list[str]:
    rest = [a for a in arguments if not a.startswith(f"{flag}=")]
    if flag in rest:
        place = rest.index(flag)
        del rest[place : place + 2]
    return rest


def _report(found: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        _print(json.dumps(found, allow_nan=False))
        return
    for name, value in found.items():
        if name == "calibration_bins":
            continue
        shown = (
            f"{value:.6f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
        )
        _print(f"{name.replace('_', ' '):<28}{shown}")


def _usage() -> str:
    lines = [f"  {name:<10}{command.__doc__}" for name, command in COMMANDS.items()]
    return "usage: python -m dlrm_adahessian COMMAND [--help] [flags]\n\n" + "\n".join(lines)


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _complain(text: str) -> None:
    if not text:  # another rank tells
        return
    with suppress(BrokenPipeError):  # the exit code still tells
        sys.stderr.write(f"error: {text}\n")
