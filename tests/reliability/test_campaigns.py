"""Run a small part of each campaign of `make reliability`, and check with seeded faults that each one can fail."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.__main__ import run, table
from tests.reliability.campaigns import (
    agreement,
    damage,
    foreign,
    hostile,
    kills,
    lines,
    links,
    not_finite,
    pipe,
    ranks,
    results,
    soak,
)
from tests.reliability.outcome import Campaign, Outcome, counting

pytestmark = pytest.mark.slow


def require_good(campaign: Campaign, times: int, folder: Path) -> list[Outcome]:
    outcomes = list(campaign(times, folder))
    assert all(outcome.good for outcome in outcomes), table(outcomes)
    assert all(outcome.times or outcome.skipped for outcome in outcomes)
    return outcomes


@pytest.mark.campaign
def test_three_kills_of_a_process_lose_nothing(tmp_path: Path) -> None:
    (outcome,) = require_good(kills.run, 3, tmp_path)
    assert outcome.times == 3
    assert outcome.figures["runs_compared"] >= 1


@pytest.mark.campaign
@pytest.mark.dist
def test_a_kill_of_a_rank_is_recovered_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ranks, "_LIMIT", 100.0
    )  # the speed is not checked, because other tests run at the same time
    monkeypatch.setattr(ranks, "_OFTEN", 8)
    (outcome,) = require_good(ranks.run, 1, tmp_path)
    assert len(outcome.figures["recovery_seconds"]) == 1
    assert outcome.figures["orphans"] == 0


@pytest.mark.campaign
@pytest.mark.dist
def test_sixty_corruptions_of_a_checkpoint_of_two_ranks_are_refused(tmp_path: Path) -> None:
    one, two, commands = require_good(damage.run, 65, tmp_path)
    assert commands.times == 2
    assert one.times == two.times == 65


@pytest.mark.campaign
@pytest.mark.dist
def test_numbers_that_are_not_finite_change_nothing(tmp_path: Path) -> None:
    skips, passes, _ = require_good(not_finite.run, 21, tmp_path)
    assert skips.times == 21
    assert passes.figures["rollbacks"] == passes.times == 2


@pytest.mark.campaign
@pytest.mark.dist
def test_disagreements_of_every_kind_end_with_one_message(tmp_path: Path) -> None:
    (outcome,) = require_good(agreement.run, 8, tmp_path)
    assert outcome.times == 8


@pytest.mark.dist
def test_two_ranks_that_differ_end_with_one_message(tmp_path: Path) -> None:
    names = ["rate of the dense part", "version of torch", "device", "labels"]
    with counting(27, "a sample") as (outcome, _):
        for name, found in agreement.in_turn(names, tmp_path).items():
            agreement.judge(outcome, name, *found)
    assert (outcome.times, outcome.good) == (len(names), True), outcome.failures


def test_a_pipe_takes_little_memory(tmp_path: Path) -> None:
    (outcome,) = require_good(pipe.run, 200_000, tmp_path)
    assert len(outcome.figures["samples"]) > 1


@pytest.mark.campaign
def test_damaged_results_are_made_anew_or_refused(tmp_path: Path) -> None:
    (outcome,) = require_good(results.run, 6, tmp_path)
    assert sum(outcome.figures.values()) == outcome.times == 6


@pytest.mark.campaign
def test_a_run_grows_neither_in_memory_nor_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "_WATCH", 0.1)
    (outcome,) = require_good(soak.run, 800, tmp_path)
    assert outcome.times == 800
    assert len(outcome.figures["samples"]) > 4


@pytest.mark.parametrize(("leak", "told"), [
    ({"memory": 1000}, "memory grew"), ({"descriptors": 0.01}, "descriptors grew"), ({"files": 0.01}, "files grew"),
])  # fmt: skip
def test_what_grows_by_the_step_is_found(leak: dict[str, float], told: str) -> None:
    """Leak a kilobyte of memory per step, or a file every hundred steps."""
    still = soak.Look(second=0, step=0, memory=400 << 20, descriptors=20, files=100)
    steps = range(0, 200_000, 100)
    assert not list(soak.grown([still for _ in steps]))
    growing = [
        still._replace(**{name: getattr(still, name) + round(each * step) for name, each in leak.items()})
        for step in steps
    ]
    (found,) = soak.grown(growing)
    assert told in found


def test_odd_lines_are_refused_or_put_aside(tmp_path: Path) -> None:
    (outcome,) = require_good(lines.run, 1, tmp_path)
    assert outcome.times == 160


def test_the_source_runs_nothing_that_it_reads() -> None:
    outcome = hostile.source()
    assert outcome.good, outcome.failures
    assert outcome.times > 100


@pytest.mark.parametrize("text", [
    "import pickle", "from pickle import loads", "import joblib.memory", "eval('1')", "exec('')", "tar.extractall('x')",
    "np.load(p)", "np.load(p, allow_pickle=True)", "torch.load(p)", "os.system('x')", "subprocess.run(x, shell=True)",
    "__import__('os')",
])  # fmt: skip
def test_the_search_of_the_source_finds_each_danger(text: str) -> None:
    assert len(hostile.forbidden(text)) == 1
    assert not hostile.forbidden("model.eval()\nre.compile('x')\nnp.load(p, allow_pickle=False)")


def test_the_source_has_one_way_to_write_a_file() -> None:
    outcome = links.source()
    assert outcome.good, outcome.failures
    assert outcome.times > 100


@pytest.mark.parametrize("text", [
    "open(p, 'w')", "open(p, mode='r+b')", "p.open('ab')", "p.write_text('x')", "p.write_bytes(b'')", "p.touch()",
    "np.save(p, x)", "x.tofile(p)", "frame.to_csv(p)", "frame.to_parquet(p)", "figure.savefig(p)",
    "pq.ParquetWriter(p, schema)", "ipc.new_file(p, s)", "pq.write_table(t, p)", "shutil.copyfile(a, b)",
    "shutil.move(a, b)", "tempfile.mkstemp()", "os.open(p, os.O_WRONLY)", "os.link(a, b)", "p.symlink_to(q)",
    "logging.FileHandler(p)",
])  # fmt: skip
def test_the_search_of_the_source_finds_each_other_way_to_write(text: str) -> None:
    assert len(links.other_ways(text)) == 1
    for good in (
        "p.open('rb')",
        "with replacing(p) as f, pq.ParquetWriter(f, s): f.write(b'')",
        "frame.to_csv(index=False)",
        "buffer = io.StringIO()\nfigure.savefig(buffer)",
        "write_text(p, 'x')",
    ):
        assert not links.other_ways(good)


@pytest.mark.campaign
def test_planted_links_change_nothing(tmp_path: Path) -> None:
    source, planted = require_good(links.run, 1, tmp_path)
    assert source.times > 100
    assert planted.times > 30


@pytest.mark.campaign
def test_run_folders_that_claim_huge_sizes_are_refused(tmp_path: Path) -> None:
    (outcome,) = require_good(foreign.run, 1, tmp_path)
    assert outcome.times == 12


def test_a_campaign_that_breaks_off_is_lost_and_keeps_what_it_found(tmp_path: Path) -> None:
    def campaign(times: int, folder: Path) -> Iterator[Outcome]:
        yield Outcome(line=1, tried="all is well", times=times)
        raise RuntimeError("the disk failed")

    well, broken = run(campaign, 3, tmp_path)
    assert well.good
    assert broken.lost == 1
    assert "the disk failed" in broken.failures[0]
