"""The messages in docs/troubleshooting.md are those that the program prints, and their codes those that it ends with."""

import gzip
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from dlrm_adahessian.cli import main

PAGE = Path(__file__).resolve().parent.parent / "docs" / "troubleshooting.md"
ENTRIES = {
    title: (message, int(code[1]) if (code := re.match(r"Code (\d+)\.", prose)) else 0)
    for title, message, prose in re.findall(
        r"^### (.+)\n\n```text\n((?:.+\n)+)```\n\n(.+)$", PAGE.read_text(), re.MULTILINE
    )
}
SMALL = "--model.bottom 8 --model.top 8 --batch-size 32 --baseline none"
SCHEMA = """
format = "parquet"
[label]
column = "clicked"
[[dense]]
column = "price"
"""
_FOLDER = re.compile(r"\S*/(?=run/)")
_VARIES = re.compile(r"criteo-[0-9a-f]{16}|[-+]?\d[\d,.]*(?:e[-+]?\d+)?")

REFUSED = {
    "The file is not found": "prepare --data-path nope.txt",
    "The file is parquet": "prepare --data-path c.parquet",
    "The text has commas": "prepare --data-path comma.csv",
    "A line is bad": "prepare --data-path bad.txt",
    "Too many lines are bad": "prepare --data-path manybad.txt --bad-rows quarantine",
    "There are too few samples": "prepare --data-path train.txt --rows 5",
    "A column is missing": "prepare --data-path c.parquet --schema prise.toml",
    "A label is neither 0 nor 1": "prepare --data-path l.parquet --schema clicks.toml",
    "Samples are not in time order": "prepare --data-path t.parquet --schema time.toml",
    "A compressed file ends early": "prepare --data-path cut.gz",
    "A flag or preset is misspelled": "train --optimzer adam",
    "The model has no exact curvature": "train --data-path train.txt --model dcnv2 --curvature exact",
    "There is no GPU": "train --data-path train.txt --device cuda",
    "The output folder already has a run": "train --data-path train.txt --out run",
    "The output folder is not writable": "train --data-path train.txt --out /proc/x",
    "A resumed run has other settings": "train --out run --resume --lr 0.5",
    "The folder is not a run": "evaluate --run nope --data-path train.txt",
    "Training diverges": f"train --data-path train.txt {SMALL} --out other --optimizer sgd --lr 1e9 --rows-lr 1e9",
    "Figures are too good": "evaluate --run run --data-path train.txt",
    "A checkpoint is damaged": "evaluate --run damaged/run --data-path train.txt",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run, and with data of each kind that is refused."""
    here = tmp_path_factory.mktemp("folder")
    good = "".join(f"{n % 2}" + "\t1" * 13 + "\t68fd1e64" * 26 + "\n" for n in range(300))
    (here / "train.txt").write_text(good)
    (here / "comma.csv").write_text(good.replace("\t", ","))
    (here / "bad.txt").write_text(good + "1\t2\t3\n")
    (here / "manybad.txt").write_text(good + "1\t2\t3\n" * 100)
    (here / "cut.gz").write_bytes(gzip.compress(good.encode())[:-20])
    clicks = pd.DataFrame({"clicked": [0, 1] * 50, "price": range(100), "ts": [*range(98), 5, 4]})
    clicks.to_parquet(here / "c.parquet")
    clicks.to_parquet(here / "t.parquet")
    clicks.assign(clicked=clicks.clicked + 1).to_parquet(here / "l.parquet")
    (here / "clicks.toml").write_text(SCHEMA)
    (here / "prise.toml").write_text(SCHEMA.replace("price", "prise"))
    (here / "time.toml").write_text(SCHEMA + '[time]\ncolumn = "ts"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert main(["train", "--data-path", "train.txt", "--out", "run", *SMALL.split()]) == 0
    shutil.copytree(here / "run", here / "damaged" / "run")
    weights = next((here / "damaged" / "run").glob("checkpoints/step-*/dense.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    return here


def test_every_entry_is_provoked_but_those_that_need_a_machine_of_their_own():
    assert ENTRIES.keys() - REFUSED.keys() == {
        "Another process uses the folder",
        "Another rank is gone",
        "Memory runs out",
        "The model does not learn",
        "Training is slow",
    }
    assert REFUSED.keys() <= ENTRIES.keys()


@pytest.mark.parametrize("title", REFUSED)
def test_a_message_is_the_one_that_is_printed(title, folder, monkeypatch, capsys, caplog):
    if title == "There is no GPU" and torch.cuda.is_available():
        pytest.skip("has a GPU")
    monkeypatch.chdir(folder)
    shown, code = ENTRIES[title]
    assert main(REFUSED[title].split()) == code
    logged = "".join(f"{record.levelname.lower()}: {record.getMessage()}\n" for record in caplog.records)
    assert _words(shown) in _words(logged + capsys.readouterr().err)


def _words(message):
    """Return a message on one line, without numbers and the folders before `run`."""
    return _VARIES.sub("#", _FOLDER.sub("", " ".join(message.split())))
