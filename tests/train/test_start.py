"""Warm starts from a finished run, day after day."""

import io
import json
import signal
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dlrm_adahessian import cli
from dlrm_adahessian.checkpoint.reader import latest
from dlrm_adahessian.embeddings.table_shard import fill_uniform_
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.train import loop
from tests.processes import worlds
from tests.train.days import FLAGS, ROWS, write_days

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("days")
    write_days(folder)
    return folder


def arguments(folder: Path, name: str, trains: str, tests: int, *more: object) -> list[str]:
    days = [f"day_{number}.csv" for number in trains]
    flags = ["--data-path", folder / "days", "--data.cache-dir", folder / "cache", "--out", folder / name]
    parts = ["--data.train-files", *days, "--data.test-files", f"day_{tests}.csv"]
    return ["train", *map(str, [*flags, *parts, *more])]


def train(folder: Path, name: str, trains: str, tests: int, *more: object, code: int = 0) -> Path:
    """Train on some days, and test on another one."""
    assert cli.main(arguments(folder, name, trains, tests, *more)) == code
    return folder / name


def first(folder: Path, name: str, trains: str, tests: int, *more: object, schema: str = "hashed") -> Path:
    """Train from random weights."""
    path = folder / f"{schema}.toml"
    return train(folder, name, trains, tests, "--schema", path, "--baseline", "none", *FLAGS, *more)


def tensors(run: Path) -> dict[str, torch.Tensor]:
    newest = latest(RunDirectory(run).checkpoints)
    assert newest is not None
    return {
        f"{path.name}/{name}": tensor
        for path in sorted(newest.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def table(run: Path, name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a table, which one process writes to one file."""
    newest = latest(RunDirectory(run).checkpoints)
    assert newest is not None
    stored = json.loads((newest / "state.json").read_text())["stored"]
    (file,) = (part["file"] for part in stored if part["table"] == name)
    return load_file(newest / file)


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


@pytest.mark.parametrize("optimizer", ["adagrad", "hybrid", "schedule_free", "hybrid_adahessian"])
def test_day_after_day_is_one_run_over_both_where_no_vocabulary_grows(folder: Path, optimizer: str) -> None:
    """Bit for bit: weights, states of all rules, and progressive predictions."""
    choice = ["--optimizer", optimizer, "--seed", 3]
    if optimizer == "schedule_free":
        choice += ["--optim.rows.lr", "0.03"]
    whole = first(folder, f"{optimizer}-whole", "01", 2, *choice)
    day = first(folder, f"{optimizer}-0", "0", 2, *choice)
    after = train(folder, f"{optimizer}-1", "1", 2, "--init-from", day)
    expected, found = tensors(whole), tensors(after)
    assert found.keys() == expected.keys()
    assert [name for name, tensor in found.items() if not tensor.equal(expected[name])] == []
    assert (after / "test.f32").read_bytes() == (whole / "test.f32").read_bytes()
    both = (whole / "progressive.f32").read_bytes()
    assert (after / "progressive.f32").read_bytes() == both[4 * ROWS :]
    assert summary(after)["progressive"]["rows"] == ROWS
    assert summary(after)["init_from"] == str(day)


@pytest.fixture(scope="module")
def day(folder: Path) -> Path:
    return first(folder, "day", "0", 1, "--optimizer", "hybrid_diagonal", schema="counted")


@pytest.mark.parametrize("decay", [1.0, 0.25])
def test_known_rows_go_on_and_new_ones_begin(folder: Path, day: Path, decay: float) -> None:
    """The second day has nearly no effect, because its learning rate is tiny."""
    run = train(
        folder,
        f"grown-{decay}",
        "1",
        2,
        *("--init-from", day, "--init-row-decay", decay, "--optim.rows.lr", 1e-30, "--optim.dense.lr", 1e-30),
    )
    for place, name in enumerate(("site", "genres")):
        before, after = table(day, name), table(run, name)
        known, rows = len(before["weight"]), len(after["weight"])
        assert known < rows
        assert after["weight"][:known].equal(before["weight"])
        new = torch.empty_like(after["weight"])
        fill_uniform_(new, first_row=0, num_rows=rows, seed=0, table=place)
        assert after["weight"][known:].equal(new[known:])
        # Tokens that the second day lacks got no updates.
        ratio = after["sum"][:known] / before["sum"]
        untouched = before["sum"] > 0
        assert ratio[untouched].min() == decay
    assert tensors(run)["dense.safetensors/parameters"].equal(tensors(day)["dense.safetensors/parameters"])


def test_another_optimizer_takes_the_weights_alone(folder: Path, day: Path) -> None:
    """Its state starts from zero: with a tiny learning rate, one day adds the squares of one day."""
    still = ["--optim.rows.lr", 1e-30, "--optim.dense.lr", 1e-30]
    run = train(folder, "other", "1", 2, "--init-from", day, "--optimizer", "adagrad", *still)
    twice = train(folder, "twice", "1", 2, "--init-from", run, *still)
    assert tensors(run)["dense.safetensors/parameters"].equal(tensors(day)["dense.safetensors/parameters"])
    one, two = (tensors(path)["dense.safetensors/optimizer/sum"] for path in (run, twice))
    torch.testing.assert_close(two, 2 * one)
    known = len(table(day, "site")["weight"])
    assert table(run, "site")["weight"][:known].equal(table(day, "site")["weight"])


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    folder: Path, day: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(folder, "unbroken", "1", 2, "--init-from", day)
    real = loop._Fit._step

    def step(fit: Any, batch: Any, following: Any) -> Any:
        if fit.progress.step == 5 and not fit.config.resume:
            fit.stop.received = signal.SIGTERM
        return real(fit, batch, following)

    monkeypatch.setattr(loop._Fit, "_step", step)
    train(folder, "broken", "1", 2, "--init-from", day, code=128 + signal.SIGTERM)
    assert cli.main(["train", "--out", str(folder / "broken"), "--resume"]) == 0
    expected, found = tensors(whole), tensors(folder / "broken")
    assert all(tensor.equal(expected[name]) for name, tensor in found.items())
    for name in ("test.f32", "progressive.f32"):
        assert (folder / "broken" / name).read_bytes() == (whole / name).read_bytes()
    assert summary(folder / "broken")["init_checkpoint"] == summary(whole)["init_checkpoint"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--model.top", "16"], "The model must be the same as in"),
        (["--baseline", "adagrad"], "Use --baseline none"),
        (["--init-row-decay", "0.5", "--optimizer", "sgd"], "keeps none. Remove it"),
    ],
)
def test_what_cannot_go_on_is_refused(
    folder: Path, day: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train(folder, "refused", "1", 2, "--init-from", day, *more, code=64)
    assert words in " ".join(capsys.readouterr().err.split())


def test_only_finished_runs_are_started_from_and_only_the_one_that_was_noted(
    folder: Path, day: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(folder, "pinned", "1", 2, "--init-from", day, "--init-checkpoint", "0123456789abcdef", code=3)
    assert "started from checkpoint 0123456789abcdef" in capsys.readouterr().err
    summary_file = day / "summary.json"
    hidden = summary_file.rename(day / "hidden")
    try:
        train(folder, "unfinished", "1", 2, "--init-from", day, code=64)
    finally:
        hidden.rename(summary_file)
    assert "Finish that run with --resume." in capsys.readouterr().err


def test_rows_of_the_runs_before_are_known_as_training_rows(folder: Path, day: Path) -> None:
    second = train(folder, "second", "1", 3, "--init-from", day)
    third = train(folder, "third", "2", 3, "--init-from", second)
    scored = ["evaluate", "--run", str(third), "--json", "--out", str(folder / "scored.parquet")]
    for number in range(3):
        path = folder / "days" / f"day_{number}.csv"
        assert _answer([*scored, "--data-path", str(path)])["trained_on"] == ["third"]
    new = folder / "new.csv"
    new.write_text((folder / "days" / "day_0.csv").read_text().replace("site-3", "site-4"))
    assert _answer([*scored, "--data-path", str(new)])["trained_on"] == []


def _answer(arguments: list[str]) -> dict[str, Any]:
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert cli.main(arguments) == 0
    return json.loads(printed.getvalue())


def test_two_ranks_go_on_as_one(folder: Path, day: Path) -> None:
    """Tables are sharded over both ranks. The figures differ only by float32 rounding."""
    alone = train(folder, "alone", "1", 2, "--init-from", day)
    log = folder / "log-two"
    worlds.run(2, _train, arguments(folder, "two", "1", 2, "--init-from", day), log=log)
    one, two = summary(alone), summary(folder / "two")
    assert two["world_size"] == 2
    for part in ("progressive", "test"):
        assert two[part]["logloss"] == pytest.approx(one[part]["logloss"], abs=1e-6)


def _train(flags: list[str]) -> None:
    assert cli.main(flags) == 0
