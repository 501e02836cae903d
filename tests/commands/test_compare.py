"""Test `compare` with a report that fails, and with finished runs."""

from pathlib import Path

import pandas as pd
import pytest
from jinja2 import TemplateSyntaxError

from dlrm_adahessian.commands.compare import report
from dlrm_adahessian.compare import worker
from dlrm_adahessian.compare.study import Study
from dlrm_adahessian.errors import StorageError
from dlrm_adahessian.report import comparison
from tests.compare.studies import models, run_here

__all__ = ["models"]


def broken(*_: object) -> str:
    raise TemplateSyntaxError("unexpected '}'", 7)


def test_a_report_that_fails_leaves_the_results_and_says_how_to_write_it_again(
    models: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(models, tmp_path)
    pages = {name: (tmp_path / name).read_bytes() for name in ("report.html", "report.md")}
    figures = pd.read_csv(tmp_path / "results.csv")
    for module, name in ((comparison, "render"), (comparison, "verdicts"), (comparison.plots, "quality")):
        (tmp_path / "report.html").write_text("of other figures")
        with monkeypatch.context() as patch:
            patch.setattr(module, name, broken)
            with pytest.raises(StorageError) as error:
                report(models, tmp_path)
        assert f"Cannot write the report of {tmp_path} because of a bug" in str(error.value)
        assert "(TemplateSyntaxError: unexpected '}' line 7). All runs are finished" in str(error.value)
        assert "run the same command again: it writes the report without training." in str(error.value)
        assert not (tmp_path / "report.html").exists()
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "results.csv"), figures)
    report(models, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in pages} == pages


def test_a_finished_study_is_taken_again_and_nothing_is_trained(
    models: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlrm_adahessian.train.run_cache.fit", broken)
    monkeypatch.setattr(worker, "curvature_by_band", broken)
    again = run_here(models.config)
    assert [run.summary for each in again.contenders for run in each.finals] == [
        run.summary for each in models.contenders for run in each.finals
    ]
