"""A resume continues the run in config.json, and its errors name every difference."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dlrm_adahessian.config import RunConfig, asdict, composed
from dlrm_adahessian.errors import CheckpointError
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.train.recorded import RecordedRun

CONSTANT = {"optim": {"schedule": {"warmup": 0, "decay": "none"}}}
BEGUN = composed({"optimizer": "hybrid", "data_path": "train.txt", **CONSTANT})


def recorded(config: RunConfig = BEGUN) -> RecordedRun:
    return RecordedRun(folder=Path("run"), config=config, rows="a" * 16, prepared={})


def told_of(config: RunConfig, begun: RunConfig = BEGUN) -> str:
    with pytest.raises(CheckpointError) as refused:
        recorded(begun).require_settings(config)
    return str(refused.value)


def test_what_config_json_says_is_read_back(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert RecordedRun.find(run) is None
    prepared = {"folder": "cache/criteo-a", "fingerprint": "a" * 16}
    (tmp_path / "config.json").write_text(json.dumps({**asdict(BEGUN), "prepared": prepared}))
    assert RecordedRun.find(run) == RecordedRun(
        folder=tmp_path, config=BEGUN, rows="a" * 16, prepared=prepared
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 2**70}, "seed"),
        ({"model": {"bottom": [-3]}}, "bottom"),
        ({"batch_sise": 3}, "batch_size"),
        ({"optim": 3}, "optim"),
    ],
)
def test_settings_that_no_run_has_are_refused_as_damage(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    values = {**asdict(BEGUN), **change, "prepared": {"fingerprint": "a" * 16}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=rf"Invalid settings in .*config.json. Restore .*{told}"):
        RecordedRun.read(RunDirectory(tmp_path))


def test_each_setting_that_differs_is_told_with_both_values() -> None:
    changed = replace(BEGUN, seed=3, model=replace(BEGUN.model, embedding_dim=8))
    dim = BEGUN.model.embedding_dim
    told = f"these settings of run differ: model.embedding_dim {dim} -> 8, seed 0 -> 3. Leave out these flags"
    assert told in told_of(changed)


def test_settings_that_move_no_result_may_differ() -> None:
    moved = replace(BEGUN, data_path="copy.txt", checkpoint_every=5, device="cpu", out=Path("elsewhere"))
    recorded().require_settings(moved)


def test_more_epochs_are_allowed_where_no_rate_depends_on_their_number() -> None:
    recorded().require_settings(replace(BEGUN, epochs=2))
    assert "seed 0 -> 1. Leave" in told_of(replace(BEGUN, epochs=2, seed=1))


def test_fewer_epochs_are_refused() -> None:
    assert "epochs 2 -> 1. Leave" in told_of(BEGUN, begun=replace(BEGUN, epochs=2))


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ({"warmup": 0, "decay": "linear"}, "it depends on optim.schedule.decay linear)"),
        ({"warmup": 0.1, "decay": "none"}, "it depends on optim.schedule.warmup 0.1)"),
        ({"warmup": 0.1, "decay": "inverse_sqrt"}, "warmup 0.1, optim.schedule.decay inverse_sqrt)"),
    ],
)
def test_more_epochs_are_refused_with_the_reason_where_rates_depend_on_their_number(
    schedule: dict[str, object], why: str
) -> None:
    begun = composed({"optimizer": "hybrid", "optim": {"schedule": schedule}})
    told = told_of(replace(begun, epochs=2), begun=begun)
    assert "epochs 1 -> 2 (more epochs change the rate of every step, " in told
    assert why in told


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (BEGUN, "the settings are the same, but the content differs"),
        (replace(BEGUN, data=replace(BEGUN.data, min_count=3)), "data.min_count 10 -> 3"),
        (replace(BEGUN, bad_rows="quarantine"), "bad_rows strict -> quarantine"),
    ],
)
def test_other_rows_are_refused_with_what_may_be_why(changed: RunConfig, told: str) -> None:
    recorded().require_rows(changed, "a" * 16)
    with pytest.raises(CheckpointError, match=f"the data of train.txt and of run differ: {told}. Pass"):
        recorded().require_rows(changed, "b" * 16)


@pytest.mark.parametrize(
    ("patience", "eval_every", "step", "refused"),
    [(2, 7, 40, True), (0, 7, 40, False), (2, 8, 40, False), (2, 0, 40, False), (2, 7, 35, False)],
)
def test_an_evaluation_that_a_longer_plan_lacks_is_refused_where_it_counts(
    patience: int, eval_every: int, step: int, refused: bool
) -> None:
    begun = replace(BEGUN, patience=patience, eval_every=eval_every)
    longer = replace(begun, epochs=2)
    recorded(begun).require_regular_end(begun, steps_per_epoch=40, step=step)
    if not refused:
        recorded(begun).require_regular_end(longer, steps_per_epoch=40, step=step)
        return
    with pytest.raises(
        CheckpointError, match="evaluated at its last step, 40, .* 2 epochs with eval_every 7"
    ):
        recorded(begun).require_regular_end(longer, steps_per_epoch=40, step=step)
