"""Malicious files, archives, settings, and names: they must be rejected, run no code, and stay in their folder."""

import ast
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dlrm_adahessian.runs.sealed import MANIFEST
from tests.data.text.test_archive import ARCHIVE, HOSTILE, bomb, member, sparse, tar
from tests.hostile import Bomb, reseal
from tests.processes.program import Command
from tests.reliability.campaigns.lines import Case, prepared
from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import ROOT, job, uninterrupted

_REFUSALS = {3, 64, 65, 66}
_CHECKPOINT = ("dense.safetensors", "tables-00000.safetensors", "state.json", MANIFEST, "../latest")
_RUN = ("config.json", "vocabulary/manifest.json", "vocabulary/vocabulary_tokens.npy")
_CACHE = ("labels.npy", "dense.npy", "ids.npy", "truth.npy", "vocabulary_tokens.npy", MANIFEST)


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Try all of them once, or none if `times` is 0."""
    if not times:
        return
    yield _pickles(folder / "pickles")
    yield source()
    yield _configs(folder / "configs")
    yield _run_folders(folder / "runs of others")
    yield _parquet(folder / "parquet")
    yield _archives(folder / "archives")
    yield _names(folder / "names")


def _pickles(folder: Path) -> Outcome:
    """Put a pickle wherever a reader might unpickle, and read it."""
    folder.mkdir()
    whole = uninterrupted(folder, 1)
    cache = next(folder.glob("cache/synthetic-*[0-9a-f]"))
    (checkpoint,) = whole.glob("checkpoints/step-*120")
    places = [
        *(checkpoint / name for name in _CHECKPOINT),
        *(whole / name for name in _RUN),
        *(cache / name for name in _CACHE),
    ]
    canary = folder / "canary"
    with counting(15, "pickles in checkpoints, prepared rows, settings and input", 2 * len(places) + 4) as (
        outcome,
        show,
    ):
        for make in (_plain, _library):
            for place in places:
                good = place.read_bytes()
                manifest = place.parent / MANIFEST
                sealed = manifest.read_bytes() if manifest.exists() else None
                make(Bomb(canary), place)
                if sealed is not None and place != manifest and place.name != "latest":
                    reseal(place.parent)
                out = folder / "scores.parquet"
                flags = ["--run", str(whole), "--data-path", str(cache), "--part", "test", "--out", str(out)]
                _use(["evaluate", *flags], place, canary, outcome, folder)
                place.write_bytes(good)
                if sealed is not None:
                    manifest.write_bytes(sealed)
                show()
            for command in (["prepare", "--data-path"], ["train", "--config"]):
                make(Bomb(canary), folder / "input.npy")
                _use([*command, str(folder / "input.npy")], folder / "input.npy", canary, outcome, folder)
                show()
        pickle.loads(pickle.dumps(Bomb(canary)))
        if not canary.exists():
            outcome.lose("the pickle does not run code even when loaded")
    return outcome


def _plain(bomb: Bomb, place: Path) -> None:
    place.write_bytes(pickle.dumps(bomb))


def _library(bomb: Bomb, place: Path) -> None:
    """Write the pickle in the format of numpy or torch."""
    if place.suffix == ".npy":
        np.save(place, np.array([bomb, None], dtype=object), allow_pickle=True)
    else:
        torch.save(bomb, place)


def _use(command: list[str], place: Path, canary: Path, outcome: Outcome, folder: Path) -> None:
    process = Command(*command, log=folder / "log")
    code, printed = process.wait(), process.printed()
    # A warning and an older checkpoint are fine, and so is damage to `latest`, which is only a hint.
    passed = code == 0 and ("Skipped a checkpoint" in printed or place.name == "latest")
    right = (code in _REFUSALS or passed) and "Traceback" not in printed
    outcome.expect(right, f"{place.name}: exit {code}: {printed[-400:]}")
    if canary.exists():
        outcome.miss(f"{place.name}: the pickle ran")
        canary.unlink()


_FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
}
_FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "extractall", "extract", "system", "popen"}
_METHODS = {"eval", "compile"}  # allowed as methods of torch modules and regular expressions


def forbidden(source: str) -> list[str]:
    """Return constructs of a source text that could execute data, with their lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            names = [name for name in modules if name.split(".")[0] in _FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            names = _forbidden_in_call(node)
        found += [f"line {node.lineno}: {name}" for name in names]
    return found


def _forbidden_in_call(node: ast.Call) -> list[str]:
    function = ast.unparse(node.func)
    last = function.rpartition(".")[2]
    names = [function] if last in _FORBIDDEN_CALLS and not ("." in function and last in _METHODS) else []
    names += [function] if function in ("torch.load", "torch.save") else []
    for argument in node.keywords:
        text = ast.unparse(argument.value)
        if (argument.arg == "allow_pickle" and text != "False") or (
            argument.arg == "shell" and text != "False"
        ):
            names.append(f"{argument.arg}={text}")
    if function == "np.load" and not any(argument.arg == "allow_pickle" for argument in node.keywords):
        names.append("np.load without allow_pickle=False")
    return names


def source() -> Outcome:
    """Search the source of the program."""
    files = [*sorted((ROOT / "dlrm_adahessian").rglob("*.py")), ROOT / "train.py"]
    with counting(
        15, "the source has no pickle, eval, exec, extractall, allow_pickle, torch.load, shell", len(files)
    ) as (
        outcome,
        show,
    ):
        for path in files:
            found = forbidden(path.read_text(encoding="utf-8"))
            outcome.expect(not found, f"{path.relative_to(ROOT)}: {', '.join(found)}")
            show()
    return outcome


# A file, and what the message must name: the key, or the most similar one.
CONFIGS: dict[str, tuple[bytes, str]] = {
    "unknown key": (b"batch_sise = 3", "batch_size"),
    "unknown key in a table": (b"[optim.dense]\nlearning_rate = 3", "learning_rate"),
    "unknown table": (b"[optimm]\nx = 1", "optim"),
    "key twice": (b"seed = 1\nseed = 2", "seed|Cannot overwrite"),
    "table twice": (b"[model]\n[model]\n", "model"),
    "word for a number": (b'batch_size = "many"', "batch_size"),
    "table for a number": (b"[batch_size]\nx = 1", "batch_size"),
    "number for a table": (b"model = 3", "model"),
    "out of range": (b"batch_size = 0", "batch_size"),
    "not a number": (b"[optim.dense]\nlr = nan", "lr"),
    "infinite": (b"timeout = -inf", "timeout"),
    "unknown name": (b'optimizer = "adagard"', "adagrad"),
    "name of a path": (b'optimizer = "../../etc/passwd"', "optimizer"),
    "over 1 MB": (b"#" * (1 << 20) + b"\nseed = 1\n", "bytes"),
    "10,000 levels of arrays": (b"seed = " + b"[" * 10_000 + b"]" * 10_000, "TOML"),
    "10,000 levels of tables": (b"[" + b".".join([b"a"] * 10_000) + b"]\nx = 1", "a|TOML"),
    "10,000 digits": (b"seed = " + b"9" * 10_000, "seed|TOML"),
    "not UTF-8": (b'optimizer = "\xff"', "TOML"),
    "NUL": (b"seed = 1\x00", "TOML"),
    "YAML": (b"!!python/object/apply:os.system ['true']", "TOML"),
}


def _configs(folder: Path) -> Outcome:
    """Measure CPU time, because other processes share the machine."""
    folder.mkdir()
    with counting(
        16, "settings that are hostile or wrong: exit 64, named, in under a second", len(CONFIGS)
    ) as (
        outcome,
        show,
    ):
        slowest = 0.0
        for kind, (text, named) in CONFIGS.items():
            path = folder / "config.toml"
            path.write_bytes(text)
            before = _seconds_of_children()
            done = subprocess.run(
                [sys.executable, str(ROOT / "train.py"), "--config", str(path), "--out", str(folder / "out")],
                capture_output=True,
                text=True,
                check=False,
            )
            seconds = _seconds_of_children() - before
            slowest = max(slowest, seconds)
            names = any(name in done.stderr for name in named.split("|"))
            right = done.returncode == 64 and names and "Traceback" not in done.stderr
            outcome.expect(
                right and seconds < 1,
                f"{kind}: exit {done.returncode}, {seconds:.2f} s: {done.stderr[-300:]}",
            )
            show()
        outcome.figures["slowest_cpu_seconds"] = round(slowest, 2)
    return outcome


# JSON that is not a run's configuration: wrong types in place of objects.
_OF_OTHERS = (
    b"3",
    b"[]",
    b"{}",
    b'{"prepared": 3}',
    b'{"prepared": {"fingerprint": 3}}',
    b'{"prepared": [[]]}',
)


def _run_folders(folder: Path) -> Outcome:
    folder.mkdir()
    with counting(15, "run folders whose config.json is hostile: refused", len(_OF_OTHERS)) as (
        outcome,
        show,
    ):
        for text in _OF_OTHERS:
            (folder / "config.json").write_bytes(text)
            flags = ["--run", str(folder), "--data-path", str(ROOT / "README.md")]
            process = Command("evaluate", *flags, log=folder / "log")
            code, printed = process.wait(), process.printed()
            right = code in _REFUSALS and "config.json" in printed and "Traceback" not in printed
            outcome.expect(right, f"{text!r}: exit {code}: {printed[-300:]}")
            show()
    return outcome


def _parquet(folder: Path) -> Outcome:
    """Evaluate malicious predictions: a pickle as in CVE-2023-47248, a truncated file, and a wrong number of rows."""
    folder.mkdir()
    path, canary = folder / "predictions.parquet", folder / "canary"
    pickled = {"ARROW:extension:name": "arrow.py_extension_type"}
    pickled |= {"ARROW:extension:metadata": pickle.dumps(Bomb(canary))}
    columns = {
        "row": pa.array([0, 1], pa.int64()),
        "label": pa.array([0, 1], pa.int8()),
        "probability": pa.array([0.2, 0.7], pa.float32()),
    }
    fields = [pa.field(name, column.type, metadata=pickled) for name, column in columns.items()]
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), path)
    extension = path.read_bytes()
    pq.write_table(pa.table(columns), path)
    whole = path.read_bytes()
    footer = whole[-8 - int.from_bytes(whole[-8:-4], "little") :]
    # Field 3 of the footer has the number of rows as a varint; 2 is 0x04 in zigzag encoding.
    many = footer.replace(b"\x16\x04", b"\x16\x80\xa8\xd6\xb9\x07")[:-8]
    inflated = whole[: -len(footer)] + many + len(many).to_bytes(4, "little") + b"PAR1"
    cases = {"pickle of an extension type": extension, "cut": whole[:-20], "10^9 rows": inflated}
    with counting(15, "hostile predictions: refused or harmless, none ran", len(cases)) as (outcome, show):
        for kind, data in cases.items():
            path.write_bytes(data)
            process = Command("evaluate", "--data-path", str(path), log=folder / "log")
            code, printed = process.wait(), process.printed()
            right = code in _REFUSALS or (code == 0 and kind != "cut")
            outcome.expect(right and "Traceback" not in printed, f"{kind}: exit {code}: {printed[-300:]}")
            if canary.exists():
                outcome.miss(f"{kind}: the pickle ran")
            show()
    return outcome


def _seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _archives(folder: Path) -> Outcome:
    inside = folder / "inside"
    inside.mkdir(parents=True)
    cases = {kind: tar(member("readme.txt", b"x"), bad) for kind, (bad, _) in HOSTILE.items()}
    cases |= {f"header of 8 GiB, type {kind!r}": bomb(kind) for kind in (b"x", b"g", b"L", b"K", b"X")}
    cases |= {"sparse": sparse(), "1,500 members": tar(*(member(f"{n}.txt") for n in range(1500)), *ARCHIVE)}
    with counting(17, "hostile archives: refused, nothing is extracted", len(cases)) as (outcome, show):
        for kind, data in cases.items():
            code, _, printed, _ = prepared(inside, Case(data), "strict", 1 << 20)
            outcome.expect(
                code == 65 and "Traceback" not in printed, f"{kind}: exit {code}: {printed[-300:]}"
            )
            left = {path.name for path in folder.rglob("*")} - {"inside", "train.txt", "cache"}
            if any(not name.endswith(".lock") for name in left):
                outcome.miss(f"{kind}: created {left}")
            show()
    return outcome


_NAMES = (
    "<script>alert(1)<script>",
    "a b",
    "ü日本",
    "\x1b[31mred",
    "$(touch canary)",
    "';--",
    "-rf",
    "%s%n",
)


def _names(folder: Path) -> Outcome:
    """Use odd names of runs, then paths as names of optimizers."""
    folder.mkdir()
    wrong = ("../x", "..", "/etc/passwd", "a/../../x", "<script>", "\x1b[31m", "x" * 5000)
    with counting(18, "odd names of runs, and paths for names", len(_NAMES) + len(wrong)) as (outcome, show):
        for name in _NAMES:
            out = folder / "runs" / name
            process = Command("train", *job(out, "--epochs", 1), log=folder / "log")
            code = process.wait()
            strange = [path.name for path in (folder / "runs").iterdir() if path.name not in (name, "cache")]
            outcome.expect(
                code == 0 and not strange,
                f"{name!r}: exit {code}, left {strange}: {process.printed()[-300:]}",
            )
            shutil.rmtree(out, ignore_errors=True)
            show()
        for name in wrong:
            process = Command(
                "train", "--optimizer", name, "--out", str(folder / "wrong"), log=folder / "log"
            )
            code = process.wait()
            right = code == 64 and "Traceback" not in process.printed() and not (folder / "wrong").exists()
            outcome.expect(right, f"{name!r}: exit {code}: {process.printed()[-300:]}")
            show()
    return outcome
