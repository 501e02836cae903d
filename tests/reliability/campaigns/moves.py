"""Move checkpoints between numbers of ranks, from 2 to 1 to 4 and back. All rows and states must stay identical."""

import json
from collections.abc import Iterator
from pathlib import Path

from dlrm_adahessian.checkpoint.reader import load
from dlrm_adahessian.checkpoint.writer import Contents, save
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.embeddings.table_shard import TableShard
from dlrm_adahessian.errors import CheckpointError
from tests.checkpoints import RUN, blank, blank_shard, dense_of, part, same_bits, table_of
from tests.processes import worlds
from tests.reliability.outcome import Outcome, counting

_ROUTE = (2, 1, 2, 4, 2)
"""Numbers of ranks that save. Each one except the first loads the checkpoint of the one before."""
_TABLES = {
    "C3": (301, 16),
    "C7": (50, 16),
    "C9": (7, 8),
    "C1": (1, 4),
}  # embedding rows and width; some ranks have no part of a table with one row


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Send checkpoints along the route."""
    with counting(6, "saved on 2 ranks, loaded on 1 and on 4, and back", times) as (outcome, show):
        outcome.figures = {"loads": 0}
        for leg, world in enumerate(_ROUTE):
            log, report = folder / f"leg-{leg}", folder / f"leg-{leg}.json"
            codes = worlds.wait(worlds.start(world, _pass_on, folder, leg, times, report, log=log), 900)
            if codes != [0] * world:
                outcome.lose(f"leg {leg}: exit codes {codes}: {worlds.printed(log, 0)[-500:]}")
                break
            for seed, wrong in json.loads(report.read_text()):
                outcome.figures["loads"] += 1
                if wrong:
                    outcome.miss(f"checkpoint {seed}, loaded on {world} ranks: {', '.join(wrong[:5])} differ")
        outcome.times = times
        show()
    yield outcome


def _pass_on(folder: Path, leg: int, times: int, report: Path) -> None:
    """Load each checkpoint of the previous leg, compare it with the data of its seed, and save it again."""
    verdicts = []
    with init_process_group():
        for seed in range(times):
            dense, shards = dense_of(seed), _shards(seed)
            if leg:
                restored, blanks = blank(dense), [blank_shard(shard) for shard in shards]
                wrong = _load(folder / f"{leg - 1}" / f"{seed}", seed, restored, blanks)
                of_ranks = ranks.agreed(lambda wrong=wrong: wrong)
                verdicts.append((seed, [name for of_rank in of_ranks for name in of_rank]))
                dense, shards = restored, blanks
            target = folder / f"{leg}" / f"{seed}"
            save(target, Contents(dense=dense, shards=shards, state={"seed": seed}), step=1, fingerprint=RUN)
        ranks.Vote(0).largest()  # the first rank hosts the store, so it must leave last
        if ranks.is_first():
            report.write_text(json.dumps(verdicts))


def _load(folder: Path, seed: int, dense: dict, shards: list[TableShard]) -> list[str]:
    """Return the names of tensors that changed."""
    try:
        found = load(folder / "step-00000001", RUN)
        found.restore_(dense, shards)
    except CheckpointError as error:
        return [str(error)]
    wrong = [name for name, tensor in dense_of(seed).items() if not same_bits(dense[name], tensor)]
    for got, shard in zip(shards, _shards(seed), strict=True):
        wrong += [
            f"{shard.table}/{name}"
            for name, tensor in shard.tensors.items()
            if not same_bits(got.tensors[name], tensor)
        ]
    return wrong if found.state == {"seed": seed} else [*wrong, "state"]


def _shards(seed: int) -> list[TableShard]:
    """Return this rank's rows of each table, if it has any."""
    number, count = ranks.rank(), ranks.world_size()
    shards = []
    for name, (rows, dim) in _TABLES.items():
        first, last = rows * number // count, rows * (number + 1) // count
        if last > first:
            shards.append(part(table_of(seed, name, rows, dim), first, last))
    return shards
