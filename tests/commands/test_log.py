"""Test what `log` copies, with the real packages if they are installed, and with a substitute that records all calls."""

import json
import sys
import threading
import time
from contextlib import nullcontext

import pytest

from dlrm_adahessian.cli import main
from dlrm_adahessian.commands import log as command
from tests.processes.holder import holding

CONFIG = {"seed": 3, "optim": {"dense": {"lr": 0.5, "name": "adagrad"}}}
LINES = [
    {"step": 1, "loss": 0.7, "window_auc": None, "lr": {"dense": 0.1}, "timing": {"seconds": 2.0}},
    {"step": 2, "loss": 0.6, "window_auc": 0.75},
    {"step": 2, "val": {"auc": 0.8}},
]
CURVES = {
    "train/loss": [(1, 0.7), (2, 0.6)],
    "train/window_auc": [(2, 0.75)],
    "lr/dense": [(1, 0.1)],
    "timing/seconds": [(1, 2.0)],
    "val/auc": [(2, 0.8)],
}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    append(folder, *LINES)
    return folder


def append(run, *lines):
    with (run / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def log(capsys):
    """Return a function that calls the command, and returns its exit code and output."""

    def call(run, to, *more):
        code = main(["log", "--run", str(run), "--to", to, *more])
        return code, "".join(capsys.readouterr())

    return call


class Remembers:
    """Replaces the package mlflow."""

    def __init__(self):
        self.__file__ = __file__
        self.name, self.params, self.curves = None, {}, {}

    def start_run(self, run_name):
        self.name = run_name
        return nullcontext()

    def log_params(self, params):
        self.params |= params

    def log_metrics(self, figures, step):
        for name, value in figures.items():
            self.curves.setdefault(name, []).append((step, value))


@pytest.fixture
def remembers(monkeypatch):
    package = Remembers()
    monkeypatch.setitem(sys.modules, "mlflow", package)
    return package


def test_settings_and_curves_arrive_under_the_name_of_the_run(log, run, remembers):
    code, said = log(run, "mlflow")
    assert code == 0
    assert remembers.name == "mine"
    assert remembers.params == {"seed": 3, "optim.dense.lr": 0.5, "optim.dense.name": "adagrad"}
    assert remembers.curves == CURVES
    assert said == f"Copied 3 lines of {run}/metrics.jsonl to mlflow.\n"


def test_a_run_in_training_is_followed_to_its_end_through_a_resume_that_drops_lines(
    log, run, remembers, monkeypatch
):
    monkeypatch.setattr(command, "_POLL", 0.001)
    later = [{"step": step, "loss": step / 10} for step in range(3, 9)]

    def train():
        time.sleep(0.02)
        metrics = run / "metrics.jsonl"
        before = metrics.read_text()
        append(run, *later[:3])
        time.sleep(0.02)
        metrics.write_text(before + json.dumps(later[0])[:-3])  # a line that is only half written
        time.sleep(0.02)
        metrics.write_text(before)
        append(run, *later)
        (run / "summary.json").write_text("{}")

    training = threading.Thread(target=train)
    training.start()
    code, said = log(run, "mlflow", "--follow")
    training.join()
    assert (code, said.split()[1]) == (0, "9")
    losses = [*CURVES["train/loss"], *((line["step"], line["loss"]) for line in later)]
    assert remembers.curves == {**CURVES, "train/loss": losses}


@pytest.mark.parametrize("last", ["summary.json", "diverged.json"])
def test_a_run_that_ended_is_not_waited_for(last, log, run, remembers):
    (run / last).write_text("{}")
    assert log(run, "mlflow", "--follow") == (0, f"Copied 3 lines of {run}/metrics.jsonl to mlflow.\n")


def test_a_run_that_was_killed_is_followed_until_its_lock_is_free(log, run, remembers, monkeypatch, caplog):
    monkeypatch.setattr(command, "_POLL", 0.01)
    monkeypatch.setattr(command, "_SILENT", 0.3)
    looks, look = [], command.locked_by_another
    with holding(run / "lock") as training:

        def killed_at_last(path):
            looks.append(look(path))
            if len(looks) == 60:  # twice the time that a run may be silent
                append(run, {"step": 3, "loss": 0.5})
                training.kill()
                training.wait()
            return looks[-1]

        monkeypatch.setattr(command, "locked_by_another", killed_at_last)
        code, said = log(run, "mlflow", "--follow")
    assert code == 0
    assert all(looks[:60])
    assert looks[60:]
    assert not any(looks[60:])
    assert "stopped before it finished. Continue it with train --resume." in caplog.text
    assert "Copied 4 lines of" in said


def test_a_package_that_is_missing_is_one_sentence_with_the_command_that_installs_it(log, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, told = log(run, "wandb")
    assert code == 64
    assert "needs the package wandb" in told
    assert told.endswith("Install it with pip install -e '.[wandb]'.\n")


def test_a_folder_of_figures_is_not_taken_for_the_package(log, run, monkeypatch, tmp_path):
    (tmp_path / "mlflow").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setitem(sys.modules, "mlflow", None)  # removes the imported module after the test
    monkeypatch.delitem(sys.modules, "mlflow")
    code, told = log(run, "mlflow")
    assert code == 64
    assert "needs the package mlflow" in told


def test_what_is_no_run_and_lines_that_are_none_are_refused(log, run, remembers, tmp_path):
    assert log(tmp_path, "mlflow")[0] == 66
    append(run, ["no", "object"])
    code, told = log(run, "mlflow")
    assert code == 65
    assert "but line 4 is " in told


@pytest.mark.filterwarnings("ignore")
def test_mlflow_itself_has_them(log, run, monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its database needs more packages
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    assert log(run, "mlflow")[0] == 0
    (found,) = mlflow.search_runs(output_format="list")
    assert found.info.run_name == "mine"
    assert found.data.params["optim.dense.lr"] == "0.5"
    history = mlflow.MlflowClient().get_metric_history
    curves = {name: history(found.info.run_id, name) for name in found.data.metrics}
    assert {name: [(m.step, m.value) for m in curve] for name, curve in curves.items()} == CURVES


@pytest.mark.filterwarnings("ignore")
def test_wandb_itself_has_them_offline(log, run, monkeypatch, tmp_path):
    pytest.importorskip("wandb.proto.wandb_internal_pb2", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert log(run, "wandb")[0] == 0
    (file,) = tmp_path.rglob("*.wandb")
    curves = {}
    for figures in written(file):
        for name in figures.keys() & CURVES.keys():
            curves.setdefault(name, []).append((figures["_step"], figures[name]))
    assert curves == CURVES


def written(file):
    """Yield the metrics of each step in the file of an offline run, which is a LevelDB log of less than one block."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place = file.read_bytes(), 7  # after the header: checksum, length, kind, record
    while place < len(content):
        size = int.from_bytes(content[place + 4 : place + 6], "little")
        record = Record()
        record.ParseFromString(content[place + 7 : place + 7 + size])
        place += 7 + size
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            yield {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
