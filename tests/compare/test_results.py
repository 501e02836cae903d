"""Test the JSON values of a comparison."""

import json
from dataclasses import replace

from dlrm_adahessian.compare.results import TimeToTarget
from dlrm_adahessian.compare.summary import summarize


def test_summary_json_holds_what_was_found(study):
    found = summarize(study)
    values = json.loads(json.dumps(found.asdict(), allow_nan=False))
    assert list(values["optimizers"]) == ["adagrad", "rowwise_adagrad"]
    assert (values["seeds"], values["trials"]) == (1, 2)
    progressive, test = values["differences"]
    assert (progressive["rows"], test["rows"]) == ("progressive", "test")
    assert progressive["row_count"] == found.differences[0].difference.rows
    assert progressive["logloss"] == found.differences[0].difference.logloss.estimate
    assert (
        values["bands"]["rowwise_adagrad"][0]["logloss"] == found.bands.logloss["rowwise_adagrad"][0].estimate
    )
    assert values["best_draw_logloss"] == min(
        each["draws"]["best_logloss"] for each in values["optimizers"].values()
    )


def test_what_is_compared_is_called_by_what_differs(study, models):
    found, of_models = summarize(study), summarize(models)
    assert (found.compared, of_models.compared) == ("optimizer", "model")
    both = replace(of_models, config=replace(models.config, optimizers="adagrad,hybrid"))
    assert both.compared == "entrant"
    assert not {"models", "reference"} & found.asdict().keys(), "only a comparison of models has these keys"
    assert not {"model", "optimizer"} & found.optimizers["adagrad"].settings.keys()


def test_a_target_that_no_run_reaches_has_no_time():
    assert TimeToTarget(reached=0, of=3).asdict() == {"reached": 0, "of": 3}
    reached = TimeToTarget(reached=1, of=3, samples=0, seconds=0.0)
    assert reached.asdict() == {"reached": 1, "of": 3, "samples": 0, "seconds": 0.0}
