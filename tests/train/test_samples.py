"""A run on weighted samples, against scikit-learn on its predictions."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from dlrm_adahessian.config import RunConfig, from_dict
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import DataError
from dlrm_adahessian.presets import optimizer_preset
from dlrm_adahessian.runs.finished import FinishedRun
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.train.loop import fit
from dlrm_adahessian.train.run_cache import finished
from dlrm_adahessian.train.samples import require_weight

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    values = {
        **optimizer_preset("rowwise_adagrad"),
        "dataset": "synthetic",
        "rows": 3000,
        "batch_size": 128,
        "model": {"bottom": [8], "top": [8]},
        "data": {"cache_dir": str(tmp_path_factory.mktemp("cache"))},
    }
    config: RunConfig = from_dict({**values, "optimizer": "rowwise_adagrad"})
    data = open_dataset(
        config.dataset, config.data_path, config.data, rows=config.rows, bad_rows=config.bad_rows
    )
    return config, data


@pytest.mark.oracle
def test_all_metrics_of_a_run_count_samples_by_their_weights(prepared, tmp_path):
    config, data = prepared
    weights = np.random.default_rng(0).integers(0, 4, len(data.labels)).astype(np.float32)
    weighted = replace(data, weights=weights)
    folder = RunDirectory(tmp_path)
    with init_process_group(CPU):
        found = fit(config, weighted, folder, CPU, title=None)
        FinishedRun.seal(tmp_path, config.fingerprint(weighted.fingerprint), found.summary.asdict())
        again = finished(config, weighted, folder)
    test, train, second = data.split.test, data.split.train, data.split.days[1]
    for part, metrics, rows in (
        (found.test, found.summary.test, np.arange(test.start, test.stop)),
        (found.progressive, found.summary.progressive, np.arange(second, train.stop)),
    ):
        np.testing.assert_array_equal(part.weights, weights[rows])
        truth, wide = data.labels[rows], part.probability.astype(np.float64)
        assert metrics.logloss == pytest.approx(log_loss(truth, wide, sample_weight=weights[rows]), abs=1e-9)
        assert metrics.auc == pytest.approx(roc_auc_score(truth, wide, sample_weight=weights[rows]), abs=1e-9)
        assert metrics.weight == weights[rows].sum()
    assert found.summary.val.weight == weights[data.split.val.start : data.split.val.stop].sum()
    assert again.summary == found.summary
    np.testing.assert_array_equal(again.test.weights, found.test.weights)


def test_samples_without_weights_leave_no_word_of_them(prepared, tmp_path):
    config, data = prepared
    with init_process_group(CPU):
        found = fit(config, data, RunDirectory(tmp_path), CPU, title=None)
    assert (found.test.weights, found.progressive.weights) == (None, None)
    values = found.summary.asdict()
    assert all("weight" not in values[part] for part in ("progressive", "val", "test", "bayes"))


@pytest.mark.oracle
def test_a_log_that_lacks_rows_trains_as_it_is_and_is_judged_as_the_population(prepared, tmp_path):
    config, data = prepared
    schema = data.preprocessing.schema
    sampled = replace(schema, label=replace(schema.label, negative_rate=0.2))
    weights = np.random.default_rng(1).integers(1, 3, len(data.labels)).astype(np.float32)
    weighted = replace(data, weights=weights)
    log = replace(weighted, preprocessing=replace(data.preprocessing, schema=sampled))
    runs = []
    for name, each in (("plain", weighted), ("log", log)):
        (tmp_path / name).mkdir()
        with init_process_group(CPU):
            runs.append(fit(config, each, RunDirectory(tmp_path / name), CPU, title=None))
    plain, found = runs
    test, train, second = data.split.test, data.split.train, data.split.days[1]
    rows = {"test": np.arange(test.start, test.stop), "progressive": np.arange(second, train.stop)}
    for part, places in rows.items():
        ours, before = getattr(found, part), getattr(plain, part)
        p, labels = before.probability.astype(np.float64), data.labels[places]
        np.testing.assert_allclose(ours.probability, p / (p + (1 - p) / 0.2), rtol=1e-5)
        counted = weights[places] * np.where(labels == 0, 5, 1)
        np.testing.assert_array_equal(ours.weights, counted)
        metrics, wide = getattr(found.summary, part), ours.probability.astype(np.float64)
        assert metrics.logloss == pytest.approx(log_loss(labels, wide, sample_weight=counted), abs=1e-9)
        assert metrics.auc == pytest.approx(roc_auc_score(labels, wide, sample_weight=counted), abs=1e-9)
        assert metrics.weight == counted.sum()
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("plain", "log")]
    steps = [list(map(json.loads, lines)) for lines in logs]
    assert [step.get("loss") for step in steps[0]] == [step.get("loss") for step in steps[1]]
    size = config.batch_size
    labels = data.labels[:size]
    first = np.fromfile(tmp_path / "log" / "progressive.f32", np.float32)[:size].astype(np.float64)
    counted = weights[:size] * np.where(labels == 0, 5, 1)
    judged = log_loss(labels, first, sample_weight=counted)
    assert steps[1][0]["window_logloss"] == pytest.approx(judged, abs=1e-9)
    truth, labels = data.truth[rows["test"]].astype(np.float64), data.labels[rows["test"]]
    best = log_loss(labels, truth / (truth + (1 - truth) / 0.2), sample_weight=found.test.weights)
    assert found.summary.bayes.logloss == pytest.approx(best, rel=1e-6)


def test_validation_needs_a_sample_with_weight(prepared):
    _, data = prepared
    weights = np.ones(len(data.labels), np.float32)
    require_weight(data)
    require_weight(replace(data, weights=weights))
    weights[data.split.val.start : data.split.val.stop] = 0
    with pytest.raises(DataError, match="All .* validation samples have weight 0"):
        require_weight(replace(data, weights=weights))
