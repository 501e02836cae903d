"""Flags that are needed before the others can be read."""

import pytest

from dlrm_adahessian import config
from dlrm_adahessian.commands.arguments import model_name, parsed, spelled_out
from dlrm_adahessian.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], None),
        (["--model", "dcnv2"], "dcnv2"),
        (["--seed", "1", "--model=deepfm"], "deepfm"),
        (["--model.name", "dcnv2"], "dcnv2"),
        (["--model.bottom", "8"], None),
    ],
)
def test_the_architecture_is_named_in_either_way(arguments, name):
    assert model_name(arguments) == name


@pytest.mark.parametrize("named", [["--model", "dcnv2"], ["--model.name", "dcnv2"], ["--model=dcnv2"]])
def test_flags_are_those_of_the_architecture_and_others_are_refused(named, capsys):
    base, told = config.load(None, "adagrad", model_name(named)), {"prog": "train", "description": ""}
    read = ("--config", "--model")
    found = parsed(base, ["--model.deep", "8", *named, "--model.rank", "2"], read=read, **told)
    assert (found.model.name, found.model.deep, found.model.rank) == ("dcnv2", (8,), 2)
    with pytest.raises(SystemExit):
        parsed(base, [*named, "--model.bottom", "8"], read=read, **told)
    assert "--model.bottom" in capsys.readouterr().err


def test_learning_rates_have_short_names():
    base = config.load(None, "hybrid")
    given = spelled_out(["--lr", "0.5", "--rows-lr=0.25", "--seed", "1"])
    optim = parsed(base, given, prog="train", description="").optim
    assert (optim.dense.lr, optim.rows.lr) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--batch-size", "0"], "batch_size must be greater than or equal to 1, got 0"),
        (["--optim.dense.lr", "-1"], r"lr must be greater than 0, got -1\.0"),
        (["--patience", "1", "--eval-every", "-1"], "eval_every must be greater than or equal to 0, got -1"),
    ],
)
def test_a_value_that_a_setting_refuses_is_one_sentence(arguments, told):
    with pytest.raises(UsageError, match=rf"^{told}$"):
        parsed(config.load(None, "adagrad"), arguments, prog="train", description="")
