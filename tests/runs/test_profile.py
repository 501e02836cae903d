"""Traces contain each named part as often as it ran, and are written only on request."""

import gzip
import json
from collections import Counter
from contextlib import nullcontext

import torch

from dlrm_adahessian.runs.profile import named, named_each, profiled


def run(file, steps, of=16):
    """Run steps of two parts. The second part contains the first one again."""
    with profiled(file, steps) as traced:
        for _ in named_each("feed", range(of)):
            with named("first"):
                torch.ones(3).sum()
            with named("second"), named("first"):
                torch.ones(3).sum()
            traced()


def test_each_part_is_there_as_often_as_the_traced_steps_ran_it(tmp_path, caplog):
    caplog.set_level("INFO")
    file = tmp_path / "run" / "profile" / "rank-0.json.gz"
    run(file, 3)
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    names = Counter(event["name"] for event in events if event.get("cat") == "user_annotation")
    assert {part: names[part] for part in ("feed", "first", "second")} == {"feed": 3, "first": 6, "second": 3}
    assert caplog.messages == [f"trace of 3 steps written to {file}; open it at https://ui.perfetto.dev"]


def test_a_run_that_ends_in_the_warm_up_says_so(tmp_path, caplog):
    run(tmp_path / "trace.json.gz", 3, of=5)
    assert caplog.messages == [
        "no trace was written: it begins after 10 steps, and this run made only 5; use more data or more epochs"
    ]
    assert not list(tmp_path.iterdir())


def test_without_a_profiler_names_do_nothing(tmp_path):
    run(tmp_path / "trace.json.gz", 0)
    assert not list(tmp_path.iterdir())
    assert isinstance(named("part"), nullcontext)
    assert list(named_each("part", "abc")) == ["a", "b", "c"]
