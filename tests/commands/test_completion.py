"""Test completion in bash itself."""

import re
import shlex
import subprocess

import pytest

from dlrm_adahessian.cli import main
from dlrm_adahessian.commands import NAMES


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "script"
    with path.open("w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", file)
        assert main(["completion", "bash"]) == 0
    return path


def completed(script, *words):
    """Return what bash offers for the last word when a user presses Tab."""
    ask = f"""
        source {shlex.quote(str(script))}
        COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}
        "$(complete -p dlrm-adahessian | sed -E 's/.*-F (\\S+).*/\\1/')"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    answer = subprocess.run(["bash", "-euc", ask], capture_output=True, text=True, check=True)
    return set(answer.stdout.splitlines())


def test_a_prefix_of_a_command_and_of_a_flag(script):
    assert completed(script, "dlrm-adahessian", "pre") == {"prepare"}
    assert completed(script, "dlrm-adahessian", "evaluate", "--ru") == {"--run"}
    assert completed(script, "dlrm-adahessian", "train", "--bad-rows", "q") == {"quarantine"}
    assert completed(script, "dlrm-adahessian", "schema", "ch") == {"check"}
    assert completed(script, "dlrm-adahessian", "schema", "infer", "--o") == {"--out"}


def test_all_commands(script):
    assert completed(script, "dlrm-adahessian", "") - {"-h", "--help"} == set(NAMES)


@pytest.mark.parametrize("command", NAMES)
def test_the_flags_of_a_command_are_those_of_its_help(command, script, capsys):
    assert main([command, "--help-all" if command in ("train", "compare", "daily") else "--help"]) == 0
    told = set(re.findall(r"(?<![\w-])--[\w.-]+\b", capsys.readouterr().out))
    offered = completed(script, "dlrm-adahessian", command, "--")
    assert offered - {"-h", "--config"} <= told, "flags that the command does not have"
    assert told - {"--rows", "--seeds", "--trials", "--data-path"} <= offered, "flags that are missing"


def test_zsh_gets_a_script_of_its_own(capsys):
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef dlrm-adahessian")


def test_another_shell_is_a_usage_error():
    assert main(["completion", "csh"]) == 64


@pytest.mark.parametrize("asked", [["--version"], ["train", "--version"]])
def test_version(asked, capsys):
    assert main(asked) == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)
