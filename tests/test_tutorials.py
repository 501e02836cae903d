"""Run the tutorials as written, and compare their output with the pages.

Each page is one session: its `sh` blocks run in order in an empty folder. A `text` block after one is its output.
Figures may differ from it, but lines and words may not. Blocks in other languages, such as `shell`, do not run.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted((ROOT / "docs" / "tutorials").glob("*.md")), ROOT / "docs" / "own-data.md"]
LONGEST = ("evaluate", "laptop", "read-only-data")
_BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_VARIES = re.compile(r"no significant difference|better|worse|criteo-[0-9a-f]{16}|[-+]?\d[\d,.]*(?:e-?\d+)?")
_VERDICT = re.compile(r"^(\S+) (?:beats|loses to|vs\.) (\w+).* in (\w+ log loss).*$")
_END = "--- end of a block"


def blocks(page):
    """Return (commands, expected output or None) of each `sh` block."""
    found = []
    for language, text in _BLOCK.findall(page.read_text()):
        if language == "sh":
            found.append([text, None])
        else:
            found[-1][1] = text
    return found


def shape(text):
    """Return lines without figures, verdicts and the width of columns."""
    lines = (_VERDICT.sub(r"\1 # \2 in \3", line) for line in text.strip().splitlines())
    return [re.sub(r"\s+", " ", _VARIES.sub("#", line)).strip() for line in lines]


def session(page, folder):
    """Run all blocks of a page in one shell, and return the standard output of each."""
    script = "".join(f"{commands}\necho {shlex.quote(_END)}\n" for commands, _ in blocks(page))
    tools = Path(sys.executable).parent  # dlrm-adahessian and python of this environment
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_WAIT_POLICY": "passive",  # other tests may run at the same time
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout.split(f"{_END}\n")[:-1]


def test_a_figure_may_differ_and_a_word_may_not():
    assert shape("auc   0.71  better\n") == shape("auc 0.8  worse")
    better, equal = (
        "a beats b in test log loss by 0.1, 2 seeds.",
        "a vs. b: no significant difference in test log loss.",
    )
    assert shape(better) == shape(equal) != shape(better.replace("test", "progressive"))
    assert shape("auc 0.71") != shape("accuracy 0.71")
    assert shape("auc 0.71\n") != shape("auc 0.71\nlog loss 0.5\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    # The longest two take half of the total time.
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.campaign] * (page.stem in LONGEST))
        for page in PAGES
    ],
)
def test_a_tutorial_does_and_shows_what_it_says(page, tmp_path):
    printed = session(page, tmp_path)
    shown = [text for _, text in blocks(page)]
    assert any(shown), "a tutorial must show output"
    for expected, found in zip(shown, printed, strict=True):
        if expected is not None:
            assert shape(found) == shape(expected)
