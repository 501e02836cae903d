"""The command line on several ranks: one result, one message, and a common stop."""

import gzip
import json
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import psutil
import pytest

from dlrm_adahessian import cli
from tests.processes import program, worlds

pytestmark = [pytest.mark.dist, pytest.mark.slow]

ROWS, BATCH = (
    7000,
    129,
)  # an odd batch: the ranks have 65 and 64 samples, and one has none at the end of an epoch
SMALL = [
    "--model.bottom",
    "16",
    "--model.top",
    "16",
    "--model.embedding-dim",
    "4",
    "--data.train-rows",
    "2500",
]
SLOW = ["--optim.dense.lr", "0.002", "--optim.rows.lr", "0.02"]  # more steps amplify rounding errors less


LONG = ["--epochs", 3, "--baseline", "none", *SLOW]
MISTAKES = {
    "no such optimizer": (["train", "--optimizer", "adagard"], 64, "Did you mean 'adagrad'"),
    "no number": (["train", "--epochs", "none"], 64, "invalid literal"),
    "no file": (
        ["train", "--dataset", "criteo", "--data-path", "nowhere.txt", "--out", "OUT"], 66, "nowhere.txt"),
    "no command of several ranks": (
        ["evaluate", "--run", "x", "--data-path", "y", "--out", "z"], 64, "without a launcher"),
}  # fmt: skip


def train(out: Path, *more: object) -> list[str]:
    # Without a basis: in float32, rounding errors determine the eigenvectors of dead units (docs/scaling.md).
    arguments = [
        "train", "--optimizer", "hybrid_diagonal", "--dataset", "synthetic", "--rows", ROWS, "--batch-size", BATCH,
        "--out", out, "--data.cache-dir", out.parent / "cache", *SMALL, *more,
    ]  # fmt: skip
    return [str(argument) for argument in arguments]


def start(ranks: int, arguments: list[str], log: Path) -> list[BaseProcess]:
    return worlds.start(ranks, cli.main, arguments, log=log)


def summary_of(run: Path) -> dict[str, dict[str, float]]:
    return json.loads((run / "summary.json").read_text())


def figures(summary: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values that depend on neither the clock nor the number of ranks."""
    if isinstance(summary, dict):
        for name, value in summary.items():
            if name not in {
                "seconds",
                "samples_per_second",
                "step_ms_median",
                "waited_share",
                "world_size",
                "resumed_from_step",
            }:
                yield from figures(value, f"{path}/{name}")
    else:
        yield path, summary


def assert_same_results(run: Path, other: Path) -> None:
    """Float32 sums in another order differ by about 1e-7, still so after 20 steps. Later this grows (docs/scaling.md)."""
    found, expected = dict(figures(summary_of(run))), dict(figures(summary_of(other)))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        close = pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float | list) else value
        assert found[name] == close, name
    for name in ("progressive.f32", "test.f32"):
        ours, others = (np.fromfile(folder / name, "<f4") for folder in (run, other))
        assert ours.shape == others.shape
        np.testing.assert_allclose(ours, others, rtol=0, atol=1e-4)
    ours, others = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, other)
    )
    assert [line["step"] for line in ours] == [line["step"] for line in others]
    for line, same in zip(ours, others, strict=True):
        assert line.get("loss", 0) == pytest.approx(same.get("loss", 0), abs=1e-5)
        assert line.get("rows_touched") == same.get("rows_touched")
        assert line.get("window_auc", 0) == pytest.approx(same.get("window_auc", 0), abs=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """A run of one process and its baseline, then a longer run."""
    calls = {"alone": train(folder / "alone"), "whole": train(folder / "whole", *LONG)}
    codes, printed = worlds.in_turn(1, cli.main, calls, folder)
    assert codes == {"alone": [0], "whole": [0]}, printed
    return folder / "alone"


@pytest.fixture(scope="module")
def on_two(folder: Path, alone: Path) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Results and output of two ranks: the same run, the longer run, and user mistakes."""
    (folder / "two").mkdir()
    mistakes = {
        name: [str(folder / "out") if argument == "OUT" else argument for argument in arguments]
        for name, (arguments, _, _) in MISTAKES.items()
    }
    runs = {"together": train(folder / "together", "--profile", 2), "again": train(folder / "again")}
    return worlds.in_turn(2, cli.main, runs | mistakes, folder / "two")


@pytest.fixture(scope="module")
def together(folder: Path, on_two: tuple[dict[str, list[int]], dict[str, str]]) -> Path:
    """The same run on two ranks."""
    codes, printed = on_two
    assert codes["together"] == [0, 0], printed["together"]
    assert printed["together"].count("hybrid_diagonal minus adagrad") == 1
    return folder / "together"


def test_each_rank_writes_a_trace_with_both_exchanges_of_a_step(together: Path) -> None:
    for rank in range(2):
        file = together / "profile" / f"rank-{rank}.json.gz"
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
        names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
        assert {part: names.count(part) for part in ("exchange", "row update")} == {
            "exchange": 4,
            "row update": 2,
        }


def wait_for_steps(run: Path, processes: list[BaseProcess]) -> None:
    deadline = time.monotonic() + 60
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        assert time.monotonic() < deadline
        assert all(process.is_alive() for process in processes)
        time.sleep(0.02)


def test_two_ranks_write_the_results_of_one_process(alone: Path, together: Path):
    assert (summary_of(alone)["world_size"], summary_of(together)["world_size"]) == (1, 2)
    assert_same_results(together, alone)


def test_launch_trains_as_any_other_launcher_does(folder: Path, together: Path):
    """Bit for bit, because it is the same program."""
    arguments = ["launch", "--ranks", "2", *train(folder / "launched")[1:]]
    code, output, complaints = program.call(*arguments)
    assert code == 0, complaints
    assert output.count("hybrid_diagonal minus adagrad") == 1
    assert dict(figures(summary_of(folder / "launched"))) == dict(figures(summary_of(together)))
    for name in ("progressive.f32", "test.f32"):
        assert (folder / "launched" / name).read_bytes() == (together / name).read_bytes()


@pytest.mark.campaign
def test_launch_and_its_ranks_listen_on_the_loopback_only_and_stop_when_asked(folder: Path, alone: Path):
    run = folder / "launched-and-stopped"
    arguments = ["launch", "--ranks", "2", *train(run, "--epochs", 50, "--baseline", "none")[1:]]
    launcher = program.Command(*arguments, log=folder / "launched-and-stopped")
    wait_for_steps(run, [launcher.process])
    ranks = psutil.Process(launcher.pid).children()
    assert len(ranks) == 2
    assert {ip for rank in ranks for ip in listening(rank)} == {"127.0.0.1"}
    assert not listening(psutil.Process(launcher.pid))
    os.kill(launcher.pid, signal.SIGHUP)
    assert launcher.wait() == 128 + signal.SIGHUP, launcher.printed()
    assert launcher.printed().count("use --resume to continue") == 1
    assert not any(rank.is_running() for rank in ranks)


def listening(process: psutil.Process) -> list[str]:
    found = process.net_connections("inet")
    return [connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN]


def test_a_finished_baseline_is_reused(
    together: Path, folder: Path, on_two: tuple[dict[str, list[int]], dict[str, str]]
):
    codes, printed = on_two
    assert codes["again"] == [0, 0], printed["again"]
    assert printed["again"].count("reused the finished run") == 1
    assert summary_of(folder / "again")["baseline"] == summary_of(together)["baseline"]


def test_a_signal_to_one_rank_stops_all_and_another_number_of_ranks_resumes(folder: Path, alone: Path):
    run, log = folder / "stopped", folder / "log-stopped"
    arguments = train(run, *LONG)
    processes = start(2, arguments, log)
    wait_for_steps(run, processes)
    os.kill(processes[1].pid, signal.SIGTERM)
    assert worlds.wait(processes) == [143, 143], worlds.printed(log, 0)
    assert worlds.printed(log, 0).count("use --resume to continue") == 1
    codes = worlds.wait(start(1, [*arguments, "--resume"], folder / "log-resumed"))
    assert codes == [0], worlds.printed(folder / "log-resumed", 0)
    assert summary_of(run)["resumed_from_step"] > 0
    assert_same_results(run, folder / "whole")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_and_its_code_on_all_ranks(
    mistake: str, on_two: tuple[dict[str, list[int]], dict[str, str]]
):
    codes, printed = (of_calls[mistake] for of_calls in on_two)
    _, code, message = MISTAKES[mistake]
    assert codes == [code, code], printed
    assert printed.count(message) == 1
    assert "Traceback" not in printed


@pytest.mark.parametrize("blow", [signal.SIGSTOP, signal.SIGKILL])
def test_a_rank_that_hangs_or_dies_ends_the_others_with_one_message(
    blow: signal.Signals, folder: Path, alone: Path
):
    run, log = folder / f"lost-{blow.name}", folder / f"log-{blow.name}"
    processes = start(3, train(run, "--epochs", 50, "--baseline", "none", "--timeout", 3), log)
    wait_for_steps(run, processes)
    os.kill(processes[1].pid, blow)
    try:
        assert worlds.wait([processes[0], processes[2]], 30) == [75, 75]
    finally:
        processes[1].kill()
    output = worlds.printed(log, 0) + worlds.printed(log, 2)
    assert output.count("See the launcher's output") == 1, output
    assert "Traceback" not in output


def train_with_paths_of_its_own(folder: Path) -> int:
    """Train on one rank, which has other paths and another working folder than the first rank."""
    place = folder / f"machine-{os.environ['RANK']}"
    place.mkdir()
    os.chdir(place)
    paths = ["--out", "run", "--data.cache-dir", "cache"]
    if os.environ["RANK"] == "1":
        paths = ["--out", "none", "--data.cache-dir", "none", "--data-path", "none"]
    return cli.main([*train(folder / "unused"), *paths])


@pytest.mark.campaign
def test_paths_may_differ_and_those_of_the_first_rank_hold(folder: Path, alone: Path):
    worlds.run(2, train_with_paths_of_its_own, folder, log=folder / "log-paths")
    assert_same_results(folder / "machine-0" / "run", alone)
    assert sorted(path.name for path in (folder / "machine-0").iterdir()) == ["cache", "run"]
    assert list((folder / "machine-1").iterdir()) == []
