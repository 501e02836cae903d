"""Test the names and models of entrants."""

import pytest

from dlrm_adahessian.compare.config import run_config
from dlrm_adahessian.compare.entrants import Entrant
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.model.config import DCNv2Config, DeepFMConfig, DLRMConfig
from tests.compare.studies import small


@pytest.mark.parametrize(
    ("models", "optimizers", "names"),
    [
        (None, "adagrad, hybrid", ["adagrad", "hybrid"]),
        ("deepfm, dlrm", "adagrad", ["deepfm", "dlrm"]),
        (
            "dlrm,dcnv2",
            "adagrad,hybrid",
            ["dlrm/adagrad", "dlrm/hybrid", "dcnv2/adagrad", "dcnv2/hybrid"],
        ),
    ],
)
def test_entrants_are_named_by_what_differs_and_the_first_of_both_is_first(
    models, optimizers, names, tmp_path
):
    study = small(tmp_path, models=models, optimizers=optimizers)
    assert list(study.entrants) == names


def test_one_model_is_that_of_all_with_all_its_settings(tmp_path):
    model = DCNv2Config(crosses=2)
    entrants = small(tmp_path, optimizers="adagrad,hybrid", model=model).entrants
    assert entrants == {name: Entrant(model=model, optimizer=name) for name in ("adagrad", "hybrid")}


def test_settings_that_all_architectures_have_hold_for_all_and_others_for_their_own(tmp_path):
    model = DLRMConfig(embedding_dim=8, activation="gelu", bottom=(3,), top=(5,))
    entrants = small(tmp_path, optimizers="adagrad", models="dcnv2,dlrm,deepfm", model=model).entrants
    assert [entrant.model for entrant in entrants.values()] == [
        DCNv2Config(embedding_dim=8, activation="gelu"),
        model,
        DeepFMConfig(embedding_dim=8, activation="gelu"),
    ]
    assert {entrant.optimizer for entrant in entrants.values()} == {"adagrad"}


def test_a_setting_that_one_architecture_refuses_is_refused(tmp_path):
    study = small(tmp_path, models="dlrm,deepfm", model=DLRMConfig(embedding_dim=1))
    with pytest.raises(UsageError, match=r"deepfm\.embedding_dim must be greater than or equal to 2, got 1"):
        _ = study.entrants


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": "dlrm"}, "at least two architectures without repetition, got 'dlrm'. To use one"),
        ({"models": "dlrm,dcnv2,dlrm"}, "architectures without repetition, got 'dlrm,dcnv2,dlrm'"),
        ({"models": "dlrm,dcn"}, "--models accepts dlrm, deepfm, dcnv2, got 'dcn'. Did you mean 'dcnv2'"),
        ({"models": "dlrm,dcnv2", "optimizers": "adam,adam"}, "at least one optimizer without repetition"),
        ({"optimizers": "adam"}, "at least two optimizers without repetition, got 'adam'"),
        (
            {"models": "deepfm,dcnv2"},  # `small` sets layers of DLRM
            "does not include dlrm, but some of its settings are given: model.bottom, model.top. "
            "Pass --models dlrm,deepfm,dcnv2",
        ),
        (
            {"models": "dlrm,dcnv2", "model": DeepFMConfig()},
            "does not include deepfm, .* given: model.name. ",
        ),
    ],
)
def test_names_that_are_no_comparison_and_settings_of_no_entrant_are_refused(changes, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        small(tmp_path, **changes)


def test_each_entrant_trains_its_model_with_the_curvature_that_this_has(tmp_path):
    study = small(tmp_path, models="dlrm,dcnv2", optimizers="adagrad,hybrid")
    configs = {name: run_config(study, name, seed=1) for name in study.entrants}
    assert [config.model.name for config in configs.values()] == ["dlrm", "dlrm", "dcnv2", "dcnv2"]
    assert {name: config.curvature for name, config in configs.items()} == {
        "dlrm/adagrad": "none",
        "dlrm/hybrid": "exact",
        "dcnv2/adagrad": "none",
        "dcnv2/hybrid": "gauss_newton",
    }


def test_a_run_is_that_of_a_comparison_of_this_model_alone(tmp_path):
    """A comparison therefore reuses finished runs, whatever the other entrants are."""
    model = DCNv2Config(embedding_dim=8, crosses=2)
    alone = small(tmp_path, optimizers="adagrad,hybrid", model=model)
    beside = small(tmp_path, optimizers="hybrid", models="dlrm,dcnv2", model=model)
    drawn = {"rows.lr": 0.5}
    assert run_config(beside, "dcnv2", seed=3, drawn=drawn) == run_config(
        alone, "hybrid", seed=3, drawn=drawn
    )


def test_a_preset_of_the_users_own_enters_under_the_stem_of_its_file(tmp_path):
    (tmp_path / "slow.toml").write_text(
        'curvature = "none"\n[optim]\ndense = {name = "adam", lr = 0.1}\nrows = {name = "adagrad"}\n'
    )
    study = small(tmp_path, optimizers=f"adagrad,{tmp_path}/slow.toml")
    assert list(study.entrants) == ["adagrad", "slow"]
    config = run_config(study, "slow", seed=3)
    assert (config.optimizer, config.curvature, config.optim.dense.lr) == ("slow", "none", 0.1)
    with pytest.raises(UsageError, match="without repetition"):
        small(tmp_path, optimizers=f"{tmp_path}/slow.toml,{tmp_path}/other/slow.toml")
