"""Run the examples in order in one folder, as their first lines say, and check their results."""

import os
import re
import runpy
import sys
from pathlib import Path

import pytest

from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.synthetic.generator import write_tsv
from tests.processes import worlds

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


def run(name, *arguments, folder, ranks=1):
    codes = worlds.wait(worlds.start(ranks, run_here, name, arguments, folder, log=folder / name))
    said = worlds.printed(folder / name, 0)
    assert codes == [0] * ranks, said
    return said


def run_here(name, arguments, folder):
    if os.environ["WORLD_SIZE"] == "1":
        worlds.leave_launcher()
    os.chdir(folder)
    sys.argv = [name, *arguments]
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    sys.stdout.flush()


@pytest.mark.slow
def test_the_examples(tmp_path):
    assert re.search(r"run: test log loss 0\.\d{4} after 67 steps", run("train.py", ".", folder=tmp_path))

    write_tsv(SyntheticConfig(), 1000, tmp_path / "rows.txt")
    said = run("score.py", "run", "rows.txt", "out.parquet", folder=tmp_path)
    assert said.startswith("1,000 samples, AUC 0.")

    write_tsv(SyntheticConfig(), 13_000, tmp_path / "all.txt")
    after = (
        (tmp_path / "all.txt").read_bytes().splitlines(keepends=True)[10_000:]
    )  # the run did not train on these
    (tmp_path / "next.txt").write_bytes(b"".join(after[:1500]))
    (tmp_path / "later.txt").write_bytes(b"".join(after[1500:]))
    said = run("calibrate.py", "run", "next.txt", "later.txt", folder=tmp_path)
    assert "Calibration" in said
    plain, calibrated = map(float, re.findall(r"actual clicks (\S+)", said))
    assert plain < calibrated  # it predicts too few clicks

    assert "step 67: log loss" in run("draw_metrics.py", "run", "learning.png", folder=tmp_path)
    assert (tmp_path / "learning.png").read_bytes().startswith(b"\x89PNG")

    difference = re.search(r"largest difference (\S+)", run("hessian_diagonal.py", folder=tmp_path))
    assert float(difference[1]) < 1e-12

    descent, newton = re.findall(r"log loss (\S+)", run("own_model.py", folder=tmp_path))
    assert float(newton) < float(descent)

    first_order, second_order = re.findall(r"log loss (\S+)", run("library_mlp.py", folder=tmp_path))
    assert float(second_order) < float(first_order)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_example_with_torchrec(ranks, tmp_path):
    first, last = re.findall(r"log loss (\S+)", run("torchrec_model.py", folder=tmp_path, ranks=ranks))
    assert float(last) < float(first) / 3


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path):
    # The service example checks its input, which takes half of its lines.
    assert len(path.read_text().splitlines()) <= (150 if path.name == "serve.py" else 60)
