"""Evaluation end to end: two small models on generated data, against pandas and scikit-learn on the output files."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from dlrm_adahessian.data.criteo.columns import COLUMN_NAMES
from dlrm_adahessian.data.prepared.folder import open_prepared
from dlrm_adahessian.evaluation import rows
from dlrm_adahessian.evaluation.predictions import writing
from tests.evaluation.jobs import ROWS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def frame(place):
    return pd.read_csv(
        place / "rows.txt", sep="\t", names=COLUMN_NAMES, dtype={f"C{i}": str for i in range(1, 27)}
    )


@pytest.mark.oracle
def test_two_models_are_each_as_alone_and_their_difference_is_paired(place, evaluate, both):
    found, written = both(), pd.read_parquet(place / "both.parquet")
    for place_, (model, column) in enumerate((("hybrid", "probability"), ("adagrad", "probability_2"))):
        alone = json.loads(evaluate("--run", place / model, "--data-path", place / "rows.txt", "--json"))
        figures = found["models"][place_]
        assert (figures["name"], figures["column"]) == (model, column)
        for metric in ("auc", "logloss", "auc_ci95", "calibration_bins"):
            assert figures[metric] == alone[metric]
        p = written[column].to_numpy(np.float64)
        assert figures["auc"] == pytest.approx(roc_auc_score(written["label"], p), abs=1e-12)
        assert figures["logloss"] == pytest.approx(log_loss(written["label"], p), abs=1e-9)
    losses = -np.log(
        np.where(written["label"].to_numpy()[:, None], p := written.iloc[:, 2:].to_numpy(np.float64), 1 - p)
    )
    paired = losses[:, 1] - losses[:, 0]
    (difference,) = found["differences"]
    assert (difference["model"], difference["against"]) == ("adagrad", "hybrid")
    assert difference["logloss"] == pytest.approx(paired.mean(), abs=1e-9)
    half = 1.959963984540054 * paired.std(ddof=1) / ROWS**0.5
    assert difference["logloss_ci95"] == pytest.approx([paired.mean() - half, paired.mean() + half], abs=1e-9)


@pytest.mark.oracle
def test_slices_are_those_of_pandas_and_sum_to_the_whole(place, both, frame):
    names = ("day", "file", "calibration", "C9", "C3", "C3.band", "I7")
    found, written = both("--slices", *names), pd.read_parquet(place / "both.parquet")
    assert set(found["slices"]) == set(names)
    total = found["logloss"] * ROWS
    for cut in found["slices"].values():
        parts = cut["slices"]
        assert sum(part["rows"] for part in parts) == ROWS
        assert sum(part["clicks"] for part in parts) == written["label"].sum()
        assert sum(part["rows"] * part["models"]["hybrid"]["logloss"] for part in parts) == pytest.approx(
            total, rel=1e-12
        )
    value = frame["C9"].fillna("missing")
    for part in found["slices"]["C9"]["slices"]:
        if part["slice"] == "unseen or rare":
            continue
        rows = value == part["slice"]
        here = written[rows.to_numpy()]
        assert (part["rows"], part["clicks"]) == (len(here), here["label"].sum())
        assert part["models"]["adagrad"]["logloss"] == pytest.approx(
            log_loss(here["label"], here["probability_2"].to_numpy(np.float64), labels=[0, 1]), rel=1e-9
        )
    magnitude = np.floor(np.log2(frame["I7"].fillna(0).clip(lower=0.5))) + 1
    assert [
        part["rows"] for part in found["slices"]["I7"]["slices"]
    ] == magnitude.value_counts().sort_index().tolist()


def test_many_files_are_one_input(place, evaluate, both, tmp_path):
    lines = (place / "rows.txt").read_bytes().splitlines(keepends=True)
    folder = tmp_path / "days"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"".join(lines[:1000]))
    (folder / "b.gz").write_bytes(gzip.compress(b"".join(lines[1000:3500])))
    rest = tmp_path / "rest"
    rest.write_bytes(b"".join(lines[3500:]))
    runs = [
        "--run",
        place / "hybrid",
        place / "adagrad",
        "--slices",
        "file",
        "--json",
        "--out",
        tmp_path / "p.parquet",
    ]
    found, whole = json.loads(evaluate(*runs, "--data-path", folder, rest)), both()
    assert [(f["name"], f["rows"]) for f in found["files"]] == [
        ("a.txt", 1000),
        ("b.gz", 2500),
        ("rest", 2500),
    ]
    assert [part["rows"] for part in found["slices"]["file"]["slices"]] == [1000, 2500, 2500]
    assert found["logloss"] == whole["logloss"]
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "p.parquet"), pd.read_parquet(place / "both.parquet")
    )


def test_bad_lines_are_counted_by_file_and_kept(place, evaluate, tmp_path):
    lines = (place / "rows.txt").read_bytes().splitlines(keepends=True)
    (tmp_path / "a").write_bytes(b"".join([*lines[:50], b"bad\n", *lines[50:90]]))
    (tmp_path / "b").write_bytes(b"".join([b"worse\n", b"worst\n", *lines[90:100]]))
    run = ["--run", place / "hybrid", "--data-path", tmp_path / "a", tmp_path / "b"]
    out = ["--out", tmp_path / "p.parquet", "--bad-rows", "quarantine"]
    found = json.loads(evaluate(*run, *out, "--json"))
    assert (found["rows"], found["rejected"]) == (100, 3)
    assert [(f["rows"], f["rejected"]) for f in found["files"]] == [(90, 1), (10, 2)]
    assert (tmp_path / "p.parquet.rejects.tsv").read_bytes() == b"bad\nworse\nworst\n"
    assert "a:51:1" in evaluate(*run, code=65)
    only_bad = tmp_path / "only_bad"
    only_bad.write_bytes(b"bad\n")
    told = evaluate("--run", place / "hybrid", "--data-path", only_bad, *out, code=65)
    assert (
        "no valid samples: 1 of 1 lines are bad. First bad line: only_bad:1:1: expected 40 tab-separated columns"
        in told
    )


def test_predictions_of_before_have_the_figures_of_their_scoring(place, evaluate, both):
    found = both("--slices", "day", "calibration")
    again = json.loads(
        evaluate("--data-path", place / "both.parquet", "--slices", "day", "calibration", "--json")
    )
    for figures, same in zip(found["models"], again["models"], strict=True):
        assert {k: figures[k] for k in same if k != "name"} == {k: v for k, v in same.items() if k != "name"}
    named = json.loads(json.dumps(again).replace("both_2", "adagrad").replace("both", "hybrid"))
    assert named["slices"] == found["slices"]
    run = [
        "--run",
        place / "hybrid",
        "--data-path",
        place / "rows.txt",
        "--against",
        place / "both.parquet",
        "--json",
    ]
    against = json.loads(evaluate(*run))
    assert [row["model"] for row in against["differences"]] == ["both", "both_2"]
    assert against["differences"][0]["logloss"] == 0
    for metric in ("auc", "accuracy_ci95", "logloss"):
        assert against["differences"][1][metric] == found["differences"][0][metric]


def test_one_checkpoint_of_a_run_can_be_named(place, evaluate):
    early, last = sorted((place / "hybrid" / "checkpoints").glob("step-*"))
    found = json.loads(
        evaluate("--run", early, place / "hybrid", last, "--data-path", place / "rows.txt", "--json")
    )
    steps = [int(path.name.removeprefix("step-")) for path in (early, last)]
    assert [model["name"] for model in found["models"]] == [
        f"hybrid@{steps[0]}",
        "hybrid",
        f"hybrid@{steps[1]}",
    ]
    assert found["models"][1]["logloss"] == found["models"][2]["logloss"] != found["models"][0]["logloss"]


def test_a_pipe_gets_each_answer_before_the_next_question(place, evaluate):
    evaluate("--run", place / "hybrid", "--data-path", place / "rows.txt", "--out", place / "p.parquet")
    expected = pd.read_parquet(place / "p.parquet")["probability"].to_numpy()
    lines = (place / "rows.txt").read_bytes().splitlines(keepends=True)
    command = [sys.executable, "-m", "dlrm_adahessian", "evaluate", "--run", str(place / "hybrid"), "--stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        asked = 0
        for count in (1, 1, 3):
            process.stdin.write(b"".join(lines[asked : asked + count]))
            answers = [np.float32(process.stdout.readline()) for _ in range(count)]
            np.testing.assert_allclose(answers, expected[asked : asked + count], rtol=1e-5)
            asked += count
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


@pytest.fixture
def piped(monkeypatch):
    def call(text):
        end, begin = os.pipe()
        with os.fdopen(begin, "wb") as file:
            file.write(text)
        monkeypatch.setattr(sys, "stdin", stack.enter_context(os.fdopen(end)))

    with ExitStack() as stack:
        yield call


def test_a_pipe_of_rows_by_a_schema_has_their_probabilities(own, evaluate, piped, tmp_path):
    evaluate("--run", own / "csv", "--data-path", own / "rows.csv", "--out", tmp_path / "p.parquet")
    expected = pd.read_parquet(tmp_path / "p.parquet")["probability"]
    frame = pd.read_csv(own / "rows.csv", dtype=str, keep_default_na=False)
    for columns in (["y", "x", "t", "b"], ["b", "t", "x"]):
        piped(frame[columns].to_csv(index=False).encode())
        answers = evaluate("--run", own / "csv", "--stdin").split()
        np.testing.assert_allclose(np.float32(answers), expected, rtol=1e-5)
    piped(b"y,x,t,b\n0,1,a,\n0,one,a,\n")
    assert "stdin, row 2: column 'x' must be empty or a finite" in evaluate(
        "--run", own / "csv", "--stdin", code=65
    )


def test_parquet_is_not_read_from_a_pipe(own, evaluate, piped):
    piped((own / "rows.parquet").read_bytes()[:1000])
    told = evaluate("--run", own / "parquet", "--stdin", code=64)
    assert "parquet is parquet, which cannot be read before its end. Pass a file with --data-path." in told


def test_runs_on_files_of_two_formats_are_each_as_alone(own, evaluate, tmp_path):
    """Both files contain the same samples. The evaluation reads them with the schema of the first run."""
    runs = ("--run", own / "parquet", own / "csv")
    evaluate(*runs, "--data-path", own / "rows.parquet", "--out", tmp_path / "both.parquet")
    both = pd.read_parquet(tmp_path / "both.parquet")
    for form, column in (("parquet", "probability"), ("csv", "probability_2")):
        alone = (
            "--run",
            own / form,
            "--data-path",
            own / f"rows.{form}",
            "--out",
            tmp_path / "alone.parquet",
        )
        evaluate(*alone)
        assert pd.read_parquet(tmp_path / "alone.parquet")["probability"].equals(
            both[column].rename("probability")
        )


def test_runs_that_read_other_columns_are_not_compared(own, place, evaluate):
    told = evaluate("--run", own / "csv", place / "hybrid", "--data-path", own / "rows.csv", code=64)
    assert "their schemas differ in label, weight, time, columns, transforms, or tokens" in told


def test_one_class_and_no_label_have_what_figures_there_are(place, evaluate, tmp_path):
    lines = (place / "rows.txt").read_bytes().splitlines(keepends=True)
    (tmp_path / "zeros").write_bytes(b"".join([line for line in lines if line[:1] == b"0"][:40]))
    run = ["--run", place / "hybrid", "--data-path"]
    report = ["--slices", "day", "--report", tmp_path / "r.html"]
    assert "of one class." not in evaluate(*run, tmp_path / "zeros", *report)
    assert "of one class." in (tmp_path / "r.html").read_text()
    (tmp_path / "bare").write_bytes(b"".join(line[2:] for line in lines[:40]))
    found = json.loads(evaluate(*run, tmp_path / "bare", "--slices", "day", "--json"))
    assert (found["rows"], found["labelled"], found["slices"]["day"]["slices"]) == (40, 0, [])
    assert "40 samples, 0 with a label" in evaluate(*run, tmp_path / "bare")
    assert "A report requires labels" in evaluate(*run, tmp_path / "bare", *report, code=65)


PARTS = {"train": (0, 5143), "test": (5143, 5572), "val": (5572, 6000)}  # of 6000 = 858 + 6 * 857


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_the_raw_rows_that_a_run_was_trained_on(part, place, evaluate, both, tmp_path):
    whole = both() and pd.read_parquet(place / "both.parquet")
    runs = ["--run", place / "hybrid", place / "adagrad", "--data-path", place / "rows.txt"]
    out = tmp_path / "part.parquet"
    found = json.loads(evaluate(*runs, "--part", part, "--slices", "day", "--out", out, "--json"))
    start, stop = PARTS[part]
    expected = whole[start:stop].assign(row=np.arange(stop - start))
    written = pd.read_parquet(out)
    pd.testing.assert_frame_equal(written, expected.reset_index(drop=True), rtol=1e-5)
    assert found["trained_on"] == (["hybrid", "adagrad"] if part == "train" else [])
    days = [f"day {day}" for day in range(1, 7)] if part == "train" else ["day 7"]
    assert [each["slice"].split(":")[0] for each in found["slices"]["day"]["slices"]] == days
    (cache,) = {json.loads((place / "hybrid" / "config.json").read_text())["prepared"]["folder"]}
    again = json.loads(evaluate("--run", place / "hybrid", "--data-path", cache, "--part", part, "--json"))
    assert again["logloss"] == found["logloss"]


def test_parts_of_other_rows_are_not_known(place, evaluate, tmp_path):
    lines = (place / "rows.txt").read_bytes().splitlines(keepends=True)
    (tmp_path / "other").write_bytes(b"".join(lines[1:]))
    run = ["--run", place / "hybrid", "--part", "test", "--data-path"]
    assert "contains other raw data. Leave out --part" in evaluate(*run, tmp_path / "other", code=64)
    without = tmp_path / "old"
    shutil.copytree(place / "hybrid", without)
    config = json.loads((without / "config.json").read_text())
    del config["prepared"]["input"]
    (without / "config.json").write_text(json.dumps(config))
    told = evaluate("--run", place / "hybrid", without, *run[2:], place / "rows.txt", code=64)
    assert "contains other raw data. Leave out --part" in told


def test_rows_that_a_run_was_trained_on_are_told(place, evaluate, caplog, tmp_path):
    def trained_on(*data, part="all"):
        caplog.clear()
        found = json.loads(
            evaluate("--run", place / "hybrid", "--data-path", *data, "--part", part, "--json")
        )
        told = "hybrid was trained on some of these samples, so its figures are too good for new data"
        assert (told in caplog.text) == bool(found["trained_on"])
        return found["trained_on"]

    text = (place / "rows.txt").read_bytes()
    days = tmp_path / "days"
    days.mkdir()
    new = days / "new.txt"
    new.write_bytes(text[text.index(b"\n") + 1 :])
    assert trained_on(place / "rows.txt") == ["hybrid"]
    assert trained_on(new) == []
    (days / "copy.txt").write_bytes(text)
    assert trained_on(days) == ["hybrid"]
    assert trained_on(new, days / "copy.txt") == ["hybrid"]
    prepared = json.loads((place / "hybrid" / "config.json").read_text())["prepared"]["folder"]
    assert [trained_on(prepared, part=part) for part in ("all", "train", "test", "val")] == [
        ["hybrid"],
        ["hybrid"],
        [],
        [],
    ]
    run = ["--run", place / "hybrid", place / "adagrad", "--data-path", place / "rows.txt"]
    evaluate(*run, "--report", tmp_path / "r.html")
    sentence = "hybrid, adagrad were trained on some of these samples, so their figures"
    assert sentence in (tmp_path / "r.html").read_text()
    evaluate(*run, "--part", "test", "--report", tmp_path / "r.html")
    assert "trained on some" not in (tmp_path / "r.html").read_text()


def test_rows_of_a_named_pipe_are_all_read(place, evaluate, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cp", place / "rows.txt", pipe]) as writer:
        found = json.loads(evaluate("--run", place / "hybrid", "--data-path", pipe, "--json"))
    assert (writer.returncode, found["rows"]) == (0, ROWS)


def test_no_row_has_no_figures(evaluate, tmp_path):
    with writing(tmp_path / "empty.parquet", 1):
        pass
    found = json.loads(
        evaluate(
            "--data-path", tmp_path / "empty.parquet", "--slices", "day", "file", "calibration", "--json"
        )
    )
    assert (found["rows"], found["differences"]) == (0, [])
    assert all(cut["slices"] == [] for cut in found["slices"].values())


def test_a_run_has_its_name_wherever_it_is_named_from(place, evaluate, monkeypatch):
    monkeypatch.chdir(place / "hybrid")
    found = json.loads(evaluate("--run", ".", "--data-path", place / "rows.txt", "--json"))
    assert found["models"][0]["name"] == "hybrid"
    monkeypatch.chdir(place / "hybrid" / "checkpoints")
    (step,) = {path.name for path in place.glob("hybrid/checkpoints/step-*")} - {found["checkpoint"]}
    found = json.loads(evaluate("--run", step, "--data-path", place / "rows.txt", "--json"))
    assert found["models"][0]["name"] == f"hybrid@{int(step.removeprefix('step-'))}"


@pytest.mark.oracle
def test_weights_of_prepared_rows_count_in_all_figures_and_come_with_the_predictions(
    place, evaluate, tmp_path, monkeypatch
):
    folder = json.loads((place / "hybrid" / "config.json").read_text())["prepared"]["folder"]
    weights = np.random.default_rng(0).exponential(1.0, ROWS).astype(np.float32)
    monkeypatch.setattr(rows, "open_prepared", lambda path: replace(open_prepared(path), weights=weights))
    asked = ["--run", place / "hybrid", "--data-path", folder, "--slices", "day", "calibration"]
    found = json.loads(evaluate(*asked, "--out", tmp_path / "a.parquet", "--json"))
    written = pd.read_parquet(tmp_path / "a.parquet")
    np.testing.assert_array_equal(written["weight"], weights)
    label, p = written["label"], written["probability"].to_numpy(np.float64)
    assert found["weight"] == pytest.approx(weights.sum(dtype=np.float64), rel=1e-12)
    assert found["logloss"] == pytest.approx(log_loss(label, p, sample_weight=weights), abs=1e-9)
    assert found["auc"] == pytest.approx(roc_auc_score(label, p, sample_weight=weights), abs=1e-9)
    for cut in found["slices"].values():
        parts = [part["models"]["hybrid"] for part in cut["slices"]]
        assert sum(part["weight"] for part in parts) == pytest.approx(found["weight"], rel=1e-9)
        total = sum(part["weight"] * part["logloss"] for part in parts)
        assert total == pytest.approx(found["weight"] * found["logloss"], rel=1e-9)
    stored = ["--data-path", tmp_path / "a.parquet", "--slices", "day", "calibration"]
    again = json.loads(evaluate(*stored, "--json"))
    for figure in ("weight", "logloss", "logloss_ci95", "accuracy_ci95", "calibration_bins"):
        assert again[figure] == found[figure]
    text = evaluate(*stored, "--report", tmp_path / "a.html")
    assert "Metrics use sample weights, " in text
    assert "Samples count by their weights" in (tmp_path / "a.html").read_text()
    monkeypatch.setattr(rows, "open_prepared", lambda path: replace(open_prepared(path), weights=0 * weights))
    assert "All 6,000 labeled samples have weight 0" in evaluate(*asked, code=65)
