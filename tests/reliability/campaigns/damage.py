"""Damage checkpoints of two ranks: they must be rejected, or an older one used with a warning, but never loaded."""

import json
import logging
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from dlrm_adahessian.checkpoint.reader import load_newest_good
from dlrm_adahessian.checkpoint.writer import Contents, save
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.embeddings.table_shard import TableShard
from dlrm_adahessian.errors import CheckpointError, ProgramError
from tests.checkpoints import RUN, blank, blank_shard, dense_of, part, same_bits, table_of
from tests.processes import worlds
from tests.processes.program import Command
from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import differences, job, uninterrupted

_TABLES = {"C3": (3000, 16), "C7": (500, 16), "C9": (37, 8), "C1": (2, 4)}  # embedding rows and width
_PAGE = 4096
_OLD, _NEW = 1, 2  # seeds
KINDS = {"bit flip": 4, "truncation": 4, "zeroed page": 4, "missing, swapped or foreign file": 1}
"""Kinds of damage with their relative frequencies: 200, 200, 200, and 50 of 650."""


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Damage checkpoints, and load each on one rank and on two."""
    two = folder / "checkpoints"
    worlds.run(2, _save, two, log=folder / "save")
    counts = {kind: max(1, times * weight // sum(KINDS.values())) for kind, weight in KINDS.items()}
    for world in (1, 2):
        report, log = folder / f"verdicts-{world}.json", folder / f"load-{world}"
        tried = f"damage to a checkpoint of 2 ranks, loaded by {world}"
        with counting(4, tried) as (outcome, show):
            codes = worlds.wait(worlds.start(world, _attack, two, counts, report, log=log), 3600)
            if codes == [0] * world:
                _count(outcome, json.loads(report.read_text()))
            else:
                outcome.lose(f"exit codes {codes} of the ranks: {worlds.printed(log, 0)[-1000:]}")
            show()
        yield outcome
    yield _commands(max(1, times // 54), folder)


def _commands(times: int, folder: Path) -> Outcome:
    """Damage the newest checkpoint of a finished run several times, then evaluate and resume the run."""
    tried = "the same at the command line: evaluate and train --resume"
    with counting(4, tried, 2 * times) as (outcome, show):
        whole = uninterrupted(folder, 1)
        rows = next(folder.glob("cache/synthetic-*[0-9a-f]"))
        out, scores = folder / "attacked", folder / "scores.parquet"
        score = [
            "evaluate",
            "--run",
            str(out),
            "--data-path",
            str(rows),
            "--part",
            "test",
            "--out",
            str(scores),
        ]
        for number in range(times):
            alone, kind = number % 2 == 0, [*KINDS][number // 2 % len(KINDS)]
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(whole, out)
            older, newest = sorted(out.glob("checkpoints/step-*"))
            what = _damage(newest, older, kind, number)
            if alone:
                shutil.rmtree(older)
            for command in (score, ["train", *job(out, "--resume")]):
                process = Command(*command, log=folder / "log")
                code, printed = process.wait(), process.printed()
                told = "None of 1 checkpoints" if alone else "Skipped a checkpoint"
                right = code == (CheckpointError.exit_code if alone else 0) and told in printed
                outcome.expect(
                    right and "Traceback" not in printed,
                    f"{what}, {command[0]}: exit {code}: {printed[-400:]}",
                )
                show()
            if scores.exists() == alone:
                outcome.miss(f"{what}: {'scored with damaged data' if alone else 'no scores'}")
            scores.unlink(missing_ok=True)
            if not alone and (found := differences(out, whole)):
                outcome.miss(f"{what}: resumed, but {', '.join(found)} differ from the undisturbed run")
    return outcome


def _count(outcome: Outcome, verdicts: list[tuple[str, str, list[list[str]]]]) -> None:
    outcome.figures = {kind: sum(of == kind for of, _, _ in verdicts) for kind in KINDS}
    for _, what, of_ranks in verdicts:
        outcome.times += 1
        for lost, silent in of_ranks:
            if silent:
                outcome.miss(f"{what}: {silent}")
            elif lost:
                outcome.lose(f"{what}: {lost}")


def _shards(seed: int) -> list[TableShard]:
    """Return this rank's part of each table."""
    number, count = ranks.rank(), ranks.world_size()
    tables = [table_of(seed, name, rows, dim) for name, (rows, dim) in _TABLES.items()]
    return [part(table, table.rows * number // count, table.rows * (number + 1) // count) for table in tables]


def _save(folder: Path) -> None:
    with init_process_group():
        for seed in (_OLD, _NEW):
            contents = Contents(dense=dense_of(seed), shards=_shards(seed), state={"seed": seed})
            save(folder, contents, step=100 * seed, fingerprint=RUN)


def _attack(folder: Path, counts: dict[str, int], report: Path) -> None:
    """Damage and load on all ranks, several times. The first rank does the damage and writes the outcome."""
    warned: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())
    logging.getLogger("dlrm_adahessian").addHandler(handler)
    verdicts = []
    tries = [(kind, number) for kind, count in counts.items() for number in range(count)]
    with init_process_group():
        first = ranks.is_first()
        attacked = report.with_suffix(".attacked")
        for kind, number in tries:
            alone = number % 2 == 0  # without an older checkpoint
            what = ranks.first_does(
                lambda kind=kind, number=number, alone=alone: _harm(
                    folder, attacked, kind, number, alone=alone
                )
            )
            warned.clear()
            lost, silent = _load(attacked, None if alone else _OLD)
            if (
                not (alone or lost or silent)
                and first
                and not any("step-00000200" in each for each in warned)
            ):
                silent = "the older checkpoint was used without a warning"
            verdicts.append((kind, what, ranks.agreed(lambda lost=lost, silent=silent: [lost, silent])))
        ranks.Vote(0).largest()  # the first rank hosts the store, so it must leave last
    if first:
        report.write_text(json.dumps(verdicts))


def _load(folder: Path, expected: int | None) -> tuple[str, str]:
    """Load the newest valid checkpoint, and return visible and silent errors.

    Args:
        folder: folder of the checkpoints.
        expected: seed of the checkpoint that must be loaded; None if all must be rejected.

    Returns:
        Two messages, empty without an error.
    """
    try:
        found = load_newest_good(folder, RUN)
    except ProgramError as error:
        right = expected is None and error.exit_code == CheckpointError.exit_code
        return ("" if right else f"refused with exit {error.exit_code}: {error}"), ""
    if found is None:
        return "", "not recognized as a checkpoint"
    dense, shards = dense_of(found.state["seed"]), _shards(found.state["seed"])
    restored, blanks = blank(dense), [blank_shard(shard) for shard in shards]
    try:
        found.restore_(restored, blanks)
    except ProgramError as error:
        return f"verified, then refused: {error}", ""
    same = all(same_bits(restored[name], tensor) for name, tensor in dense.items()) and all(
        same_bits(got.tensors[name], tensor)
        for got, shard in zip(blanks, shards, strict=True)
        for name, tensor in shard.tensors.items()
    )
    if not same:
        return "", "loaded with wrong numbers"
    return "", "" if found.state["seed"] == expected else f"loaded as checkpoint {found.state['seed']}"


def _harm(folder: Path, attacked: Path, kind: str, number: int, *, alone: bool) -> str:
    """Copy the checkpoints, damage the newest copy, and return a description of the damage."""
    shutil.rmtree(attacked, ignore_errors=True)
    shutil.copytree(folder, attacked)
    older, newest = (attacked / f"step-{100 * seed:08d}" for seed in (_OLD, _NEW))
    what = _damage(newest, older, kind, number)
    if alone:
        shutil.rmtree(older)
    return what


def _damage(newest: Path, older: Path, kind: str, number: int) -> str:
    """Damage a checkpoint, and return a description of the damage."""
    rng = random.Random(f"{kind} {number}")
    path = rng.choice(sorted(newest.iterdir()))
    data = bytearray(path.read_bytes())
    if kind == "bit flip":
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
        what = f"bit of byte {at}"
    elif kind == "truncation":
        at = rng.randrange(len(data) - 1)  # a manifest without its final newline has the same content
        del data[at:]
        what = f"cut at byte {at}"
    elif kind == "zeroed page":
        page = rng.randrange(0, len(data), _PAGE)
        size = len(data[page : page + _PAGE])
        data[page : page + size] = bytes(size)
        what = f"page at byte {page}"
    else:
        what = rng.choice(("missing", "swapped", "foreign"))
        shards = sorted(newest.glob("tables-*"))
        # Foreign files come from another checkpoint, and swapped ones from another shard.
        path, other = rng.sample(shards, 2)
        data = bytearray(other.read_bytes() if what == "swapped" else (older / path.name).read_bytes())
        if what == "swapped":
            other.write_bytes(path.read_bytes())
    path.write_bytes(data)
    if what == "missing":
        path.unlink()
    return f"{path.name} {what}"
