"""Links planted in place of output files: their targets must stay unchanged. Also checks the source for writes."""

import ast
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.synthetic.generator import write_tsv
from tests.data.download.mirror import FILE, archive
from tests.processes.program import Command
from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import ROOT, job, uninterrupted

_LINE = 28
_ENDS = {0, 64, 74}
_FILES_OF_A_RUN = (
    *("lock", "config.json", "environment.json", "plan.json", "metrics.jsonl", "progressive.f32", "test.f32"),
    *("summary.json", "diverged.json"),
)
_FOLDERS_OF_A_RUN = ("checkpoints", "best", "vocabulary", "tensorboard")
_PIDS = 3_000  # processes that may start before the attacked one


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Try all of them once, or none if `times` is 0."""
    if not times:
        return
    yield source()
    yield _planted(folder)


@dataclass(frozen=True)
class _Attack:
    """A link, and the command that encounters it.

    Attributes:
        place: where the link is planted.
        command: arguments of the command.
        prepare: creates what the command needs besides the link.
        leads: target of the link: a file, a folder, or nothing.
    """

    place: Path
    command: list[str]
    prepare: Callable[[], object] = lambda: None
    leads: Literal["file", "folder", "absent"] = "file"


def _planted(folder: Path) -> Outcome:
    whole = uninterrupted(folder, 1)
    rows = folder / "rows.txt"
    write_tsv(SyntheticConfig(), 300, rows)
    attacks = [
        *_on_training(folder / "runs", whole),
        *_on_evaluation(folder / "evaluations", whole, rows),
        *_on_preparation(folder, rows),
        *_on_comparison(folder),
        *_on_download(folder),
        _Attack(folder / "exported", ["export", "--run", str(whole), "--out", str(folder / "exported")]),
        _Attack(folder / "own.toml", ["schema", "infer", str(folder / "own.csv"), "--out", str(folder / "own.toml")],
                lambda: (folder / "own.csv").write_text("click,site\n" + "0,a\n1,b\n" * 50)),
    ]  # fmt: skip
    with counting(_LINE, "links planted where commands write: their targets are unchanged", len(attacks)) as (
        outcome,
        show,
    ):
        for attack in attacks:
            _try(attack, folder / "victim", outcome, folder / "log")
            show()
    return outcome


def _try(attack: _Attack, victim: Path, outcome: Outcome, log: Path) -> None:
    shutil.rmtree(victim, ignore_errors=True)
    (victim / "folder").mkdir(parents=True)
    for name in ("file", "folder/inside"):
        (victim / name).write_bytes(b"theirs")
    before = _contents(victim)
    attack.prepare()
    attack.place.parent.mkdir(parents=True, exist_ok=True)
    attack.place.symlink_to(victim / attack.leads)
    process = Command(*attack.command, log=log)
    code, printed = process.wait(), process.printed()
    what = f"{attack.command[0]}, {attack.place.name} to {attack.leads}: exit {code}: {printed[-300:]}"
    outcome.expect(code in _ENDS and "Traceback" not in printed, what)
    if _contents(victim) != before:
        outcome.miss(what)
    if attack.place.is_symlink():
        attack.place.unlink()


def _contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def _emptied(folder: Path) -> Callable[[], None]:
    def empty() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    return empty


def _on_training(folder: Path, whole: Path) -> Iterator[_Attack]:
    """Yield attacks on a new run and on a resumed one."""
    new, old = folder / "new", folder / "old"
    cache = ["--data.cache-dir", str(whole.parent / "cache")]
    command = ["train", *job(new, *cache)]
    for name in _FILES_OF_A_RUN:
        yield _Attack(new / name, command, _emptied(new))
    for name in _FOLDERS_OF_A_RUN:
        yield _Attack(new / name, command, _emptied(new), "folder")
    yield _Attack(new / "progressive.f32", command, _emptied(new), "absent")

    def copy() -> None:
        shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(whole, old)
        (old / "summary.json").unlink()
        (old / "metrics.jsonl").unlink()

    yield _Attack(old / "metrics.jsonl", ["train", *job(old, "--resume", *cache)], copy)


def _on_evaluation(folder: Path, whole: Path, rows: Path) -> Iterator[_Attack]:
    out, report = folder / "scores.parquet", folder / "report.html"
    command = ["evaluate", "--run", str(whole), "--data-path", str(rows), "--out", str(out), "--report", str(report),
               "--bad-rows", "quarantine"]  # fmt: skip
    for name in ("scores.parquet", "report.html", "scores.parquet.rejects.tsv"):
        yield _Attack(folder / name, command, _emptied(folder))
        yield _Attack(folder / name, command, _emptied(folder), "absent")
    for path in (out, report):
        yield _Attack(folder / "of every process", command, lambda path=path: _guess(path, folder))


def _guess(path: Path, folder: Path) -> None:
    """Plant links under the names of temporary files that contain a process id."""
    _emptied(folder)()
    victim = folder.parent / "victim" / "file"
    for pid in range(os.getpid(), os.getpid() + _PIDS):
        path.with_name(f".{path.name}.{pid}.tmp").symlink_to(victim)


def _on_preparation(folder: Path, rows: Path) -> Iterator[_Attack]:
    """Yield attacks on each name in the cache, as created by an undisturbed preparation."""

    def command(cache: Path) -> list[str]:
        return ["prepare", "--data-path", str(rows), "--data.cache-dir", str(cache)]

    known, cache = folder / "known", folder / "attacked"
    Command(*command(known), log=folder / "log").wait()
    for path in sorted(known.iterdir()):
        leads = "folder" if path.is_dir() else "file"
        yield _Attack(cache / path.name, command(cache), _emptied(cache), leads)


def _on_comparison(folder: Path) -> Iterator[_Attack]:
    def command(study: Path) -> list[str]:
        flags = [
            "--optimizers",
            "adagrad,rowwise_adagrad",
            "--seeds",
            "1",
            "--rows",
            "7000",
            "--dataset",
            "synthetic",
        ]
        small = [
            "--batch-size",
            "512",
            "--model.bottom",
            "16",
            "--model.top",
            "16",
            "--model.embedding-dim",
            "4",
        ]
        return ["compare", *flags, *small, "--data.cache-dir", str(folder / "cache"), "--out", str(study)]

    known, study = folder / "known study", folder / "study"
    Command(*command(known), log=folder / "log").wait()
    for path in (*known.iterdir(), *(known / "runs").iterdir()):
        leads = "folder" if path.is_dir() else "file"
        yield _Attack(study / path.relative_to(known), command(study), _emptied(study), leads)


def _on_download(folder: Path) -> Iterator[_Attack]:
    mirror, out = folder / "mirror.tar.gz", folder / "downloads"
    mirror.write_bytes(FILE)
    told = archive(mirror.as_uri())
    config = folder / "mirror.toml"
    config.write_text(f'url = "{told.url}"\nsha256 = "{told.sha256}"\nbytes = {told.bytes}\n')
    for suffix in ("", ".part", ".lock"):
        yield _Attack(
            out / f"{told.name}{suffix}",
            ["download", "--config", str(config), "--out", str(out)],
            _emptied(out),
        )


_OPENERS = {"new_file", "replacing", "continued", "StringIO", "BytesIO"}
"""Ways to get a writable file: functions of runs/files.py, and memory."""
_TAKE_A_FILE = {"ParquetWriter", "CSVWriter", "pq.write_table", "new_stream", "ipc.new_file", "savefig"}
"""Functions of libraries that also write to paths, but may write to open files here."""
_FORBIDDEN = {
    *("os.link", "os.symlink", "os.mkfifo", "os.fdopen", "os.open", "os.mknod", "np.save", "np.savez", "np.savetxt"),
    *("shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "shutil.move", "logging.FileHandler"),
    *("tempfile.mkstemp", "tempfile.NamedTemporaryFile", "tempfile.TemporaryFile"),
}  # fmt: skip
_FORBIDDEN_METHODS = {
    *("write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "tofile", "savez_compressed", "open_memmap"),
    *("save_file", "to_parquet", "to_pickle", "to_feather", "write_feather", "write_csv", "write_dataset"),
}  # fmt: skip
_MODE = re.compile("[rwxabt+]{1,3}")


def other_ways(text: str) -> list[str]:
    """Return places where a source text writes files without runs/files.py, with their lines."""
    tree = ast.parse(text)
    files = _opened_names(tree)
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [f"line {call.lineno}: {ast.unparse(call.func)}" for call in calls if _writes(call, files)]


def _writes(call: ast.Call, files: set[str]) -> bool:
    function, arguments = ast.unparse(call.func), [ast.unparse(argument) for argument in call.args]
    last = function.rpartition(".")[2]
    if "os.devnull" in ast.unparse(call):
        return False
    if last == "open":
        modes = [*call.args, *(named.value for named in call.keywords if named.arg == "mode")]
        texts = [str(mode.value) for mode in modes if isinstance(mode, ast.Constant)]
        return function in _FORBIDDEN or any(
            _MODE.fullmatch(mode) and set(mode) & set("wxa+") for mode in texts
        )
    if last == "to_csv":
        return bool(arguments) or any(named.arg == "path_or_buf" for named in call.keywords)
    if _TAKE_A_FILE & {last, function}:
        return not (
            arguments and (arguments[0] in files or any(f"{opener}(" in arguments[0] for opener in _OPENERS))
        )
    return function in _FORBIDDEN or (last != function and last in _FORBIDDEN_METHODS)


def _opened_names(tree: ast.AST) -> set[str]:
    """Return names of open files: results of `_OPENERS`, or parameters annotated as files."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and isinstance(node.context_expr, ast.Call) and node.optional_vars:
            given, name = node.context_expr, node.optional_vars
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            given, name = node.value, node.targets[0]
        elif isinstance(node, ast.arg) and node.annotation and ast.unparse(node.annotation) == "BinaryIO":
            names.add(node.arg)
            continue
        else:
            continue
        if ast.unparse(given.func).rpartition(".")[2] in _OPENERS:
            names.add(ast.unparse(name))
    return names


def source() -> Outcome:
    """Search the source of the program."""
    way = ROOT / "dlrm_adahessian" / "runs" / "files.py"
    files = [path for path in sorted((ROOT / "dlrm_adahessian").rglob("*.py")) if path != way]
    with counting(_LINE, "the source has one way to write a file", len(files)) as (outcome, show):
        for path in files:
            found = other_ways(path.read_text(encoding="utf-8"))
            outcome.expect(not found, f"{path.relative_to(ROOT)}: {', '.join(found)}")
            show()
    return outcome
