"""Test which optimizers, estimators and models work together."""

from dataclasses import replace

import pytest

from dlrm_adahessian.config import asdict, baseline_of, composed, from_dict
from dlrm_adahessian.errors import NoInputError, UsageError
from dlrm_adahessian.presets import optimizer_preset
from dlrm_adahessian.runs.sealed import fingerprint


def test_an_optimizer_that_reads_curvature_needs_an_estimator():
    with pytest.raises(
        UsageError,
        match="sophia/sophia needs curvature, but curvature is none. Choose one of exact, gauss_newton, hutchinson, "
        "gauss_newton_bartlett",
    ):
        from_dict({**optimizer_preset("sophia"), "curvature": "none"})


def test_an_optimizer_without_curvature_refuses_an_estimator():
    with pytest.raises(
        UsageError, match="muon/adagrad uses no curvature, but curvature is gauss_newton_bartlett"
    ):
        from_dict({**optimizer_preset("muon"), "curvature": "gauss_newton_bartlett"})


@pytest.mark.parametrize("model", [{"activation": "gelu"}, {"self_interaction": True}])
def test_a_curved_model_takes_any_estimator_but_the_exact_one(model):
    with pytest.raises(UsageError, match="Use curvature gauss_newton, hutchinson, or gauss_newton_bartlett"):
        from_dict({**optimizer_preset("adahessian_exact"), "model": model})
    for curvature in ("gauss_newton", "hutchinson", "gauss_newton_bartlett"):
        assert (
            from_dict({**optimizer_preset("sophia"), "curvature": curvature, "model": model}).curvature
            == curvature
        )


def test_checkpoints_of_constant_rates_are_the_same_whatever_the_number_of_epochs():
    one = composed({"optim": {"schedule": {"warmup": 0, "decay": "none"}}})
    three = replace(one, epochs=3)
    assert one.checkpoint_fingerprints("rows")[0] == three.checkpoint_fingerprints("rows")[0]
    assert three.fingerprint("rows") in three.checkpoint_fingerprints("rows"), "as saved by earlier versions"
    assert one.fingerprint("rows") != three.fingerprint("rows"), "results differ"
    others = (replace(one, seed=1).checkpoint_fingerprints("rows"), one.checkpoint_fingerprints("others"))
    assert all({*one.checkpoint_fingerprints("rows")}.isdisjoint(other) for other in others)


def test_checkpoints_of_rates_that_depend_on_all_steps_are_of_one_number_of_epochs():
    one = composed({"optim": {"schedule": {"decay": "linear"}}})
    assert {*one.checkpoint_fingerprints("rows")}.isdisjoint(
        replace(one, epochs=2).checkpoint_fingerprints("rows")
    )


def test_settings_without_a_name_of_the_model_are_those_of_dlrm_and_keep_their_fingerprint():
    """Runs and checkpoints from before there were several architectures can resume."""
    now = composed({"model": {"bottom": [8]}}, "adagrad")
    values = asdict(now)
    assert values["model"].pop("name") == "dlrm"
    assert from_dict(values) == now
    left_out = {
        *("out", "resume", "baseline", "data_path", "schema", "log_every", "bad_rows", "device", "timeout"),
        *(
            "checkpoint_every",
            "checkpoint_keep",
            "checkpoint_in_background",
            "distributed",
            "data",
            "profile",
        ),
        *("curvature_precision", "exchange_precision", "init_from", "init_checkpoint", "init_row_decay"),
    }
    settings = {key: value for key, value in values.items() if key not in left_out}
    settings["data"] = {"order": values["data"]["order"], "train_rows": None}
    assert [settings["model"].pop(name) for name in ("dropout", "l2_weights", "l2_rows")] == [0, 0, 0]
    assert settings["model"].pop("initial_rows") is None
    assert now.fingerprint("rows") == fingerprint({"rows": "rows", "settings": settings})
    for name in ("deepfm", "dcnv2"):
        assert composed({}, "adagrad", name).fingerprint("rows") != composed({}, "adagrad").fingerprint(
            "rows"
        )


@pytest.mark.parametrize("name", ["dropout", "l2_weights", "l2_rows"])
def test_dropout_and_penalties_make_other_results_and_are_the_baselines_too(name):
    plain, other = composed({}, "hybrid"), composed({"model": {name: 0.1}}, "hybrid")
    assert plain.fingerprint("rows") != other.fingerprint("rows")
    assert getattr(baseline_of(other).model, name) == 0.1
    with pytest.raises(UsageError, match=f"model.dlrm.{name} must be greater than or equal to 0, got -0.1"):
        composed({"model": {name: -0.1}}, "hybrid")


def test_dropout_of_all_outputs_is_refused():
    with pytest.raises(UsageError, match="model.deepfm.dropout must be less than 1, got 1.0"):
        composed({"model": {"dropout": 1.0}}, "hybrid", "deepfm")


def test_an_architecture_is_chosen_by_name_with_the_settings_of_its_table():
    table = {"model": {"embedding_dim": 8, "activation": "relu"}}
    found = composed(table, "adagrad", "dcnv2").model
    assert (found.name, found.embedding_dim) == ("dcnv2", 8)
    assert composed({"model": {"name": "deepfm", "deep": [4]}}).model.deep == (4,)
    with pytest.raises(
        UsageError, match="Unknown setting 'model.dcnv2.bottom': 'bottom' belongs to other parts. Remove"
    ):
        composed({"model": {"bottom": [8]}}, "adagrad", "dcnv2")
    with pytest.raises(UsageError, match="model.name must be one of dlrm, deepfm, dcnv2, got 'dcn'"):
        composed({}, "adagrad", "dcn")
    with pytest.raises(
        UsageError, match="model.deepfm.embedding_dim must be greater than or equal to 2, got 1"
    ):
        composed({"model": {"embedding_dim": 1}}, "adagrad", "deepfm")


def test_deepfm_takes_a_fifth_of_the_presets_rate_at_the_rows_its_baseline_too():
    for name in ("hybrid", "adam", "adagrad"):
        dlrm, deepfm = (composed({}, name, model) for model in ("dlrm", "deepfm"))
        assert deepfm.optim.rows.lr == pytest.approx(dlrm.optim.rows.lr / 5, rel=1e-15)
        assert deepfm.optim.dense.lr == dlrm.optim.dense.lr
    given = composed({"optim": {"rows": {"lr": 0.3}}}, "hybrid", "deepfm")
    assert given.optim.rows.lr == 0.3
    assert baseline_of(given).optim.rows.lr == composed({}, "adagrad", "deepfm").optim.rows.lr


def test_presets_take_the_one_pass_by_its_right_name_and_an_explicit_exact_is_refused():
    assert composed({}, "hybrid", "dcnv2").curvature == "gauss_newton"
    assert composed({}, "sophia", "dcnv2").curvature == "gauss_newton_bartlett"
    assert composed({}, "adagrad", "dcnv2").curvature == "none"
    assert [composed({}, "hybrid", name).curvature for name in ("dlrm", "deepfm")] == ["exact", "exact"]
    assert baseline_of(composed({}, "hybrid", "dcnv2")).model.name == "dcnv2"
    with pytest.raises(
        UsageError,
        match="Hessian of dcnv2 .* not piecewise linear in its pooled embeddings .* Use curvature gauss_newton",
    ):
        composed({"curvature": "exact"}, "hybrid", "dcnv2")
    with pytest.raises(
        UsageError, match="deepfm .* not piecewise linear in its weights and pooled embeddings"
    ):
        composed({"model": {"activation": "silu"}}, "hybrid", "deepfm")


def test_all_settings_but_paths_are_those_of_all_ranks():
    values = asdict(composed({}))
    for path in ("out", "data_path", "schema", "init_from"):
        del values[path]
    del values["data"]["cache_dir"]
    assert composed({}).of_all_ranks == values
    elsewhere = {"out": "/a", "data_path": "/b", "schema": "/c", "data": {"cache_dir": "/d"}}
    assert composed(elsewhere).of_all_ranks == values


@pytest.fixture
def own_preset(tmp_path):
    path = tmp_path / "gentle.toml"
    path.write_text('curvature_every = 4\n[optim.dense]\nname = "adahessian"\nlr = 0.002\n')
    return path


def test_an_optimizer_of_the_users_own_is_called_by_the_stem_of_its_file(own_preset):
    found = composed({}, str(own_preset))
    assert (found.optimizer, found.curvature_every, found.optim.dense.lr) == ("gentle", 4, 0.002)
    assert (
        found.optim.rows == composed({"optim": {"dense": {"name": "adahessian"}}}, str(own_preset)).optim.rows
    )
    assert replace(found, optimizer=str(own_preset)) == found, "as if given by a flag"
    assert from_dict(asdict(found)) == found, "no longer needs the file"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("hybrid.toml", "", "hybrid is the name of a built-in preset"),
        ("large.toml", "batch_size = 9\n", "has batch_size. Move these"),
    ],
)
def test_what_is_no_preset_of_an_optimizer_is_refused(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=words):
        composed({}, str(tmp_path / name))
    with pytest.raises(NoInputError, match="none.toml"):
        composed({}, str(tmp_path / "none.toml"))
