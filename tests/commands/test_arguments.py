"""Test the parsing of flags, and the errors of wrong ones."""

import pytest

from dlrm_adahessian import config
from dlrm_adahessian.cli import main
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
def test_flags_are_those_of_the_architecture_and_others_are_refused(named):
    base, told = config.load(None, "adagrad", model_name(named)), {"prog": "train", "description": ""}
    read = ("--config", "--model")
    found = parsed(base, ["--model.deep", "8", *named, "--model.rank", "2"], read=read, **told)
    assert (found.model.name, found.model.deep, found.model.rank) == ("dcnv2", (8,), 2)
    with pytest.raises(UsageError, match=r"^Unknown flag: --model\.bottom\."):
        parsed(base, [*named, "--model.bottom", "8"], read=read, **told)


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


@pytest.mark.parametrize(("command", "told"), [
    ("train --learning-rate .01", "Unknown flag: --learning-rate. Did you mean --lr?"),
    ("train --epoch=2", "Unknown flag: --epoch. Did you mean --epochs?"),
    ("train --model.bottm 8", "Unknown flag: --model.bottm. Did you mean --model.bottom?"),
    ("train --zzz 1", "Unknown flag: --zzz. See --help-all for all flags."),
    # `compare` has no --lr, because it searches the rates.
    ("compare --learning-rate 1", "Unknown flag: --learning-rate. See --help-all for all flags."),
    ("export --rnu x --out y", "Unknown flag: --rnu. Did you mean --run?"),
    ("prepare --data.min_cuont 3", "Unknown flag: --data.min-cuont. Did you mean --data.min-count?"),
    ("doctor --all", "Unknown flag: --all. See --help for all flags."),
    ("train rows.txt", "Unrecognized options: rows.txt. See --help."),
    ("train --device tpu", "invalid choice 'tpu' for argument '--device'"),
    ("train --epochs x", "Error parsing --epochs: invalid literal for int() with base 10: 'x'. See --help."),
    ("schema", "schema requires an action (infer or check), but got none."),
    ("schema infr x.csv", "schema requires an action (infer or check), but got infr. Did you mean 'infer'?"),
    ("schema infer x.csv --row 5", "Unknown flag: --row. Did you mean --rows?"),
    ("schema check --rows 0", "Required, but not given: --schema PATH, --data-path STR. See --help."),
    ("launch --ranks 0", "ranks must be greater than or equal to 1, got 0"),
    ("launch --ranks", "--ranks requires a value, but none was given."),
    ("launch --epochs 1", "Required, but not given: --ranks INT. See --help."),
    ("export --out y", "Required, but not given: --run PATH. See --help."),
])  # fmt: skip
def test_what_is_wrong_with_a_flag_is_one_line_and_names_the_nearest(command, told, capsys):
    assert main(command.split()) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {told}")
    assert err.count("\n") == 1


def test_tables_that_a_file_names_are_flags():
    base = config.composed({"distributed": {"tables": {"C3": "row", "ad_id": "row"}}})
    given = ["--distributed.tables.C3", "column", "--distributed.tables.ad_id", "replicate"]
    found = parsed(base, given, prog="train", description="")
    assert found.distributed.tables == {"C3": "column", "ad_id": "replicate"}


def test_switches_can_be_turned_off_and_words_be_joined_by_either_dash():
    base = config.load(None, "hybrid")
    given = ["--no-checkpoint-in-background", "--optim.rows.no-rowwise", "--batch_size", "8"]
    found = parsed(base, given, prog="train", description="")
    assert (found.checkpoint_in_background, found.optim.rows.rowwise, found.batch_size) == (False, False, 8)
