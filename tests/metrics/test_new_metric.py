"""A metric needs one function per sample and one table entry; then every command supports it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import dlrm_adahessian

FUNCTION = """def squared_errors(labels: Labels, probability: Probabilities) -> npt.NDArray[np.float64]:
    return (probability.astype(np.float64) - labels) ** 2


def _compared_by("""
ENTRY = """    brier: float | None = _compared_by(
        Metric(title="Brier score", higher_is_better=False, per_sample=squared_errors)
    )
    normalized_entropy: float | None = None
"""
COMMANDS = """
import sys
from contextlib import redirect_stdout
from pathlib import Path
import pandas as pd
from dlrm_adahessian.cli import main

def call(out, *arguments):
    with open(out, "w") as file, redirect_stdout(file):
        assert main(list(arguments)) == 0

if __name__ == "__main__":
    small = ["--dataset", "synthetic", "--rows", "3000", "--batch-size", "128", "--data.cache-dir", "cache"]
    small += ["--model.bottom", "8", "--model.top", "8"]
    call("train.txt", "train", *small, "--optimizer", "rowwise_adagrad", "--out", "run")
    (rows,) = map(str, Path("cache").glob("synthetic-*[0-9a-f]"))
    call("evaluate.txt", "evaluate", "--run", "run", "--data-path", rows, "--out", "theirs.parquet")
    ours = pd.read_parquet("theirs.parquet")
    ours["probability"] = ours["probability"] ** 2
    ours.to_parquet("ours.parquet")
    compared = ["evaluate", "--data-path", "ours.parquet", "--against", "theirs.parquet", "--slices", "day"]
    call("against.txt", *compared, "--report", "against.html")
    call("against.json", *compared, "--json")
    call("compare.txt", "compare", *small, "--optimizers", "adagrad,rowwise_adagrad", "--seeds", "1", "--out", "study")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder in which a copy of the program with an extra metric trained, evaluated, and compared."""
    folder = tmp_path_factory.mktemp("metric")
    package, copy = Path(dlrm_adahessian.__file__).parent, folder / "changed" / "dlrm_adahessian"
    (copy / "metrics").mkdir(parents=True)
    # Symbolic links reuse compiled kernels; only the changed module is a separate file.
    for path in (*package.iterdir(), *(package / "metrics").iterdir()):
        if path.name not in ("metrics", "binary.py", "__pycache__"):
            (copy / path.relative_to(package)).symlink_to(path)
    source = (package / "metrics" / "binary.py").read_text()
    for old, new in (
        ("def _compared_by(", FUNCTION),
        ("    normalized_entropy: float | None = None\n", ENTRY),
    ):
        assert source.count(old) == 1
        source = source.replace(old, new)
    (copy / "metrics" / "binary.py").write_text(source)
    (folder / "commands.py").write_text(COMMANDS)
    environment = {**os.environ, "PYTHONPATH": str(copy.parent), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "commands.py"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.campaign
def test_training_reports_it_with_its_difference_to_the_baseline(folder):
    summary = json.loads((folder / "run" / "summary.json").read_text())
    for part in ("progressive", "val", "test"):
        assert list(summary[part])[1:6] == ["auc", "accuracy", "logloss", "brier", "normalized_entropy"]
        assert 0 < summary[part]["brier"] < 0.25
    for key, part in (("difference", "test"), ("progressive_difference", "progressive")):
        difference = summary[part]["brier"] - summary["baseline"][part]["brier"]
        assert summary[key]["brier"] == pytest.approx(difference, abs=1e-12)
        low, high = summary[key]["brier_ci95"]
        assert low < difference < high
    text = (folder / "train.txt").read_text()
    assert "Brier score" in text.splitlines()[0]
    assert f"{summary['test']['brier']:.4f}" in text
    assert f"brier      {summary['difference']['brier']:+.5f}" in text


@pytest.mark.campaign
def test_evaluation_has_it_with_interval_and_difference(folder):
    found = json.loads((folder / "against.json").read_text())
    losses = {}
    for name in ("ours", "theirs"):
        frame = pd.read_parquet(folder / f"{name}.parquet")
        losses[name] = (frame["probability"].to_numpy(np.float64) - frame["label"]) ** 2
    half = norm.ppf(0.975) / len(losses["ours"]) ** 0.5
    for model in found["models"]:
        mean, reach = losses[model["name"]].mean(), half * losses[model["name"]].std()
        assert model["brier"] == pytest.approx(mean, abs=1e-12)
        assert model["brier_ci95"] == pytest.approx([mean - reach, mean + reach], abs=1e-9)
    (difference,) = found["differences"]
    paired = losses["theirs"] - losses["ours"]
    assert (difference["model"], difference["against"]) == ("theirs", "ours")
    assert difference["brier"] == pytest.approx(paired.mean(), abs=1e-12)
    expected = [paired.mean() - half * paired.std(), paired.mean() + half * paired.std()]
    assert difference["brier_ci95"] == pytest.approx(expected, abs=1e-9)
    assert all(
        part["models"]["ours"]["brier_ci95"] for cut in found["slices"].values() for part in cut["slices"]
    )
    text, page = ((folder / f"against.{kind}").read_text() for kind in ("txt", "html"))
    assert text.count("  Brier score ") == 3  # two models and their difference
    assert f"{difference['brier']:+.5f}" in text
    assert f"{difference['brier']:+.5f}" in page
    assert page.count("Brier score") == 3  # in two tables and a panel of the plot


@pytest.mark.campaign
def test_a_comparison_has_it_in_its_results_and_its_report(folder):
    summary = json.loads((folder / "study" / "summary.json").read_text())
    runs = pd.read_csv(folder / "study" / "results.csv").set_index("optimizer")
    for row in summary["differences"]:
        column = runs[f"{row['rows']}_brier"]
        assert row["brier"] == pytest.approx(column["rowwise_adagrad"] - column["adagrad"], abs=1e-12)
        assert row["brier_ci95"][0] < row["brier"] < row["brier_ci95"][1]
        assert {"brier_standard_error", "brier_p_value", "brier_degrees_of_freedom"} <= set(row)
    for found in summary["optimizers"].values():
        assert {"brier"} <= set(found["val"]) & set(found["test"]) & set(found["progressive"])
    page = (folder / "study" / "report.html").read_text()
    assert "(← better) Brier score difference" in page  # a panel of the plot
    assert "<th>Brier score</th>" in page
    assert "| Brier score |" in (folder / "study" / "report.md").read_text()
