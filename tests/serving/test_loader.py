"""The loader needs only torch and safetensors, and rejects every invalid folder and line."""

import hashlib
import io
import json
import math
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.synthetic.generator import write_tsv
from dlrm_adahessian.serving import loader

NUMBERS, WORDS = [1] * 13, ["00000001"] * 26
SCHEMA = loader._Schema(CRITEO.asdict(), None)
LINE = b"\t".join([b"7"] * 13 + [b"0000000a"] * 26)
# Block all imports except the standard library, torch, safetensors, and their dependencies.
ALONE = """
import importlib.metadata, re, runpy, sys
named = importlib.metadata.requires("torch")
allowed = {re.match("[A-Za-z0-9_.]+", name)[0].lower().replace("-", "_") for name in named}
allowed |= {"torch", "torchgen", "functorch", "safetensors", "typing_extensions", "mpmath", "markupsafe", "isympy"}
class Blocked:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
sys.path[:] = [path for path in sys.path if path != sys.argv[2]]
for name in ("numpy", "pyarrow", "torchrec", "dlrm_adahessian"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} is not blocked")
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.fixture
def copied(exact, tmp_path) -> Path:
    return Path(shutil.copytree(exact, tmp_path / "folder"))


def resealed(folder: Path, **changes: object) -> None:
    """Make the manifest consistent with the files and itself, as an attacker would."""
    manifest = {**json.loads((folder / "manifest.json").read_text()), **changes}
    if "files" not in changes:
        for name, entry in manifest["files"].items():
            data = (folder / name).read_bytes()
            entry |= {"bytes": len(data), "sha256": loader.hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "digest": loader.digest(manifest)}))


def call(folder: Path, text: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", ALONE, str(folder / "loader.py"), str(Path.cwd())],
        input=text,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_it_is_one_source(exact):
    assert (exact / "loader.py").read_bytes() == Path(loader.__file__).read_bytes()


def test_it_predicts_lines_where_nothing_but_torch_and_safetensors_can_be_imported(exact, tmp_path):
    write_tsv(SyntheticConfig(), 40, tmp_path / "rows.txt")
    lines = (tmp_path / "rows.txt").read_bytes()
    done = call(exact, lines)
    assert done.returncode == 0, done.stderr
    model = loader.load(exact)
    expected = model.of_parsed(list(loader._rows(model.schema, lines.splitlines()))).tolist()
    assert [np.float32(line) for line in done.stdout.split()] == [np.float32(value) for value in expected]


def test_a_bad_line_ends_it_with_65_and_a_bad_folder_with_3(copied, monkeypatch, capsys):
    monkeypatch.setattr(loader, "__file__", str(copied / "loader.py"))
    monkeypatch.setattr(loader.signal, "signal", lambda *_: None)
    monkeypatch.setattr(loader, "BATCH", 2)
    text = b"\n".join([LINE, LINE, LINE, b"x", LINE])
    monkeypatch.setattr(loader.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    assert loader._main() == 65
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 2  # predictions of the complete batches before it
    assert re.match(r"Line 4: Expected 13 integers .* found \['x'\]\.\n$", shown.err)
    (copied / "head.safetensors").unlink()
    assert loader._main() == 3
    assert re.match(
        r"Cannot read .*/head.safetensors: No such file or directory\.\n$", capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\t" + LINE + b"\t",
        LINE[:-1],
        LINE[:-1] + b"g",
        LINE[:-3] + b" 0a",
        LINE.replace(b"7", b"+7", 1),
        LINE.replace(b"7", b"1_7", 1),
        LINE.replace(b"7", b"1.5", 1),
        LINE.replace(b"7", b"--7", 1),
        LINE.replace(b"7", b"-", 1),
        LINE.replace(b"7", b" 7", 1),
        LINE.replace(b"7", b"\xb2", 1),
        LINE.replace(b"7", b"9223372036854775808", 1),
        LINE.replace(b"7", b"-9223372036854775809", 1),
        b"2\t" + LINE,
        LINE + b"\r\r",
        b"\xef\xbb\xbf" + LINE,
        b"7\t" * 20000,
    ],
)
def test_a_line_that_is_no_row_is_named(line):
    first = b"1\t" + LINE if line.startswith(b"2") or line.endswith(b"\t") else LINE
    lines = [first + b"\n", line + b"\n"]
    rows = loader._rows(SCHEMA, lines)
    next(rows)
    with pytest.raises(ValueError, match="Line 2: Expected 13|Line 2: invalid literal"):
        next(rows)
    assert loader._plain_text(lines, first.count(b"\t") + 1) is None


NUMBER = [
    "",
    "0",
    "-0",
    "7",
    "-7",
    "00000012",
    "-00000012",
    "123456789",
    "-9999999999999999",
    "0000000000000001",
]
TOKEN = ["", "00000000", "ffffffff", "FFFFFFFF", "80000000", "0123abCD"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("labels", [[], ["0", "1", ""]])
def test_lines_that_are_read_at_once_hold_what_python_reads_in_them(labels, end):
    draw = random.Random(0)
    fields = [
        ([draw.choice(NUMBER) for _ in range(13)], [draw.choice(TOKEN) for _ in range(26)])
        for _ in range(200)
    ]
    lines = ["\t".join([*draw.choices(labels, k=1 if labels else 0), *n, *t]) + end for n, t in fields]
    found = loader._plain_text([line.encode() for line in lines], 39 + bool(labels))
    assert found is not None
    numbers = torch.tensor([[float(n or "nan") for n in row] for row, _ in fields], dtype=torch.float64)
    torch.testing.assert_close(found[0], numbers, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(found[0].signbit(), numbers.signbit())
    assert found[1].tolist() == [[int(t or "-1", 16) for t in row] for _, row in fields]


def test_a_line_that_is_read_at_once_is_a_row_with_the_same_values():
    """With changed, added, and removed bytes, parsing at once must equal parsing field by field."""
    draw = random.Random(1)
    taken = refused = 0
    for _ in range(600):
        line = bytearray(b"1\t" + LINE + b"\n")
        for _ in range(draw.randrange(4)):
            at = draw.randrange(len(line))
            line[at : at + draw.randrange(2)] = bytes(draw.choices(b"\t\t0012a-\r\xff", k=draw.randrange(2)))
        columns = line.count(b"\t") + 1
        found = loader._plain_text([line], columns)
        if found is None:
            refused += 1
            continue
        taken += 1
        ((numbers, words, _),) = loader._rows(SCHEMA, [line])
        assert found[0].nan_to_num(nan=0.5).tolist() == [[0.5 if n != n else n for n in numbers]]
        assert found[1].tolist() == [words]
    assert min(taken, refused) > 120


def test_a_field_too_many_is_not_read_as_the_next_line_s_first(exact):
    lines = [LINE + b"\n", LINE + b"\t00000007\n", LINE[2:] + b"\n"]
    assert loader._plain_text(lines, 39) is None
    with pytest.raises(ValueError, match="Line 2: Expected 13"):
        list(loader.load(exact).predict_lines(lines))


def test_a_number_that_is_too_long_to_be_read_at_once_is_a_row(exact):
    model = loader.load(exact)
    line = LINE.replace(b"7", b"12345678901234567", 1)
    assert loader._plain_text([line], 39) is None
    (found,) = model.predict_lines([LINE, line])
    values = [[7] * 13, [12345678901234567] + [7] * 12]
    assert torch.equal(found, model.probabilities(values, [["0000000a"] * 26] * 2))


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        (
            b"7".zfill(65536 - len(LINE) + 1) + LINE[1:] + LINE + b"\n",
            65,
            "Line 1 has 65,536 bytes or more",
        ),
        (b"\xef\xbb\xbf", 0, ""),
        (b"\xef\xbb\xbf\n", 65, "Line 1: Expected 13"),
    ],
    ids=["two samples that would be cut apart", "byte order mark alone", "byte order mark and a blank line"],
)
def test_what_is_no_line_of_its_own_gives_no_prediction(exact, monkeypatch, capsys, text, code, told):
    monkeypatch.setattr(loader, "__file__", str(exact / "loader.py"))
    monkeypatch.setattr(loader.signal, "signal", lambda *_: None)
    monkeypatch.setattr(loader.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    assert loader._main() == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(told)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("label", [b"", b"\t", b"0\t", b"1\t"])
def test_what_the_program_takes_for_a_row_is_one(label, end):
    line = b"\xef\xbb\xbf" + label + b"-9223372036854775808\t\t" + LINE[4:-8].upper() + end
    ((numbers, words, bags),) = loader._rows(SCHEMA, [line])
    assert numbers[0] == -(2**63)
    assert math.isnan(numbers[1])
    assert numbers[2:] == [7] * 11
    assert (words, bags) == ([10] * 25 + [-1], [])


@pytest.mark.parametrize(
    ("integers", "tokens"),
    [
        ([NUMBERS[1:]], [WORDS]),
        ([NUMBERS], [WORDS[1:]]),
        ([NUMBERS], [["0x000001", *WORDS[1:]]]),
        ([NUMBERS], [["0000001 ", *WORDS[1:]]]),
        ([[2**63, *NUMBERS[1:]]], [WORDS]),
        ([NUMBERS], [WORDS, WORDS]),
        (torch.zeros(2, 13, dtype=torch.int64), torch.zeros(1, 26, dtype=torch.int64)),
        (torch.zeros(26, 13, dtype=torch.int64), torch.zeros(13, 52, dtype=torch.int64)),
        (torch.zeros(1, 13, dtype=torch.int64), torch.full((1, 26), -2)),
        (torch.zeros(1, 13, dtype=torch.int64), torch.full((1, 26), 2**32)),
    ],
)
def test_values_that_are_no_rows_are_refused(exact, integers, tokens):
    with pytest.raises(
        ValueError, match=r"Expected 13|Expected \(N, 13\)|Tokens must be -1|argument 2 is longer"
    ):
        loader.load(exact).probabilities(integers, tokens)


def test_damage_is_refused_60_times_of_60(copied):
    draw = random.Random(0)
    files = sorted(path for path in copied.iterdir())
    good = {path: path.read_bytes() for path in files}
    refused = 0

    def attempt() -> None:
        nonlocal refused
        with pytest.raises(loader.BadFolderError, match=re.escape(str(copied))):
            loader.load(copied)
        refused += 1
        for path, data in good.items():
            path.write_bytes(data)

    for n in range(40):
        path = files[n % len(files)]
        data = bytearray(good[path])
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        attempt()
    for path in files:
        path.unlink()
        attempt()
        path.write_bytes(good[path][: draw.randrange(len(good[path]))])
        attempt()
    for _ in range(6):
        one, other = draw.sample(files, 2)
        one.write_bytes(good[other])
        other.write_bytes(good[one])
        attempt()
    assert refused == 60
    loader.load(copied)


def test_a_manifest_whose_words_changed_is_refused(copied):
    manifest = copied / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"step": ', '"step": 1'))
    with pytest.raises(
        loader.BadFolderError, match="manifest.json changed since the export. Copy the folder"
    ):
        loader.load(copied)


def test_a_name_that_leaves_the_folder_is_refused_unopened(copied):
    files = json.loads((copied / "manifest.json").read_text())["files"]
    entry = files.pop("head.pt2")
    (copied.parent / "head.pt2").write_bytes((copied / "head.pt2").read_bytes())
    for name in ("../head.pt2", str(copied.parent / "head.pt2")):
        resealed(copied, files={**files, name: entry})
        with pytest.raises(loader.BadFolderError, match=f"must list .*, not .*{re.escape(name)}"):
            loader.load(copied)


@pytest.mark.parametrize("name", ["tables.safetensors", "manifest.json"])
def test_links_and_devices_are_refused(copied, name):
    moved = (copied / name).rename(copied.parent / name)
    (copied / name).symlink_to(moved)
    with pytest.raises(loader.BadFolderError, match=f"{name} must be a plain file"):
        loader.load(copied)
    (copied / name).unlink()
    (copied / name).symlink_to("/dev/zero")
    with pytest.raises(loader.BadFolderError, match=f"{name} must be a plain file"):
        loader.load(copied)


@pytest.mark.parametrize("change", ["damage", "link", "missing", "not listed"])
def test_a_head_as_onnx_is_verified_as_the_other_files_are(copied, change):
    path = copied / "head.onnx"
    path.write_bytes(b"a head")
    files = json.loads((copied / "manifest.json").read_text())["files"]
    entry = {"bytes": 6, "sha256": hashlib.sha256(b"a head").hexdigest()}
    resealed(copied, files={**files, "head.onnx": entry})
    loader.load(copied)
    if change == "damage":
        path.write_bytes(b"a heap")
    elif change == "not listed":
        resealed(copied, files=files)
    else:
        moved = path.rename(copied.parent / "moved")
        if change == "link":
            path.symlink_to(moved)
    with pytest.raises(loader.BadFolderError, match="changed since|must be a plain file|must list"):
        loader.load(copied)


def test_another_format_is_told_from_damage(copied):
    resealed(copied, format=3)
    with pytest.raises(loader.BadFolderError, match="must have format 2, not 3. Use its loader"):
        loader.load(copied)


PLATT = {"method": "platt", "slope": 0.5, "intercept": 0.0}
ISOTONIC = {"method": "isotonic", "thresholds": [0.0, 1.0], "values": [0.0, 1.0]}


def test_a_calibration_that_rises_is_used(copied):
    numbers, words = [NUMBERS] * 2, [WORDS] * 2
    plain = loader.load(copied).probabilities(numbers, words).double().logit()
    resealed(copied, format=3, calibration=PLATT)
    found = loader.load(copied).probabilities(numbers, words).double().logit()
    torch.testing.assert_close(found, plain / 2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "calibration",
    [
        {**PLATT, "slope": math.nan},
        {**PLATT, "slope": 0.0},
        {**PLATT, "slope": -1.0},
        {**PLATT, "slope": math.inf},
        {**PLATT, "slope": "1"},
        {**PLATT, "intercept": math.nan},
        {**PLATT, "intercept": 1e9},
        {"method": "platt"},
        {"method": "pickle"},
        {},
        [],
        None,
        1,
        {**ISOTONIC, "thresholds": [1.0, 0.0]},
        {**ISOTONIC, "thresholds": [0.0, 0.0]},
        {**ISOTONIC, "values": [1.0, 0.0]},
        {**ISOTONIC, "values": [0.0, math.nan]},
        {**ISOTONIC, "values": [0.0, 1e300]},
        {**ISOTONIC, "values": [0.0, 0.5, 1.0]},
        {**ISOTONIC, "thresholds": [], "values": []},
        {**ISOTONIC, "thresholds": [0.0], "values": [0.0]},
        {**ISOTONIC, "thresholds": 0.0, "values": 0.0},
    ],
)
def test_a_calibration_that_is_none_is_refused_within_a_second(copied, calibration):
    resealed(copied, format=3, calibration=calibration)
    began = time.process_time()
    with pytest.raises(loader.BadFolderError, match="is not a valid model"):
        loader.load(copied)
    assert time.process_time() - began < 1


def test_a_calibration_has_a_format_of_its_own(copied):
    """An older loader would ignore the calibration."""
    resealed(copied, calibration=PLATT)
    with pytest.raises(loader.BadFolderError, match="must have format 3, not 2. Use its loader"):
        loader.load(copied)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"format": 2}',
        "[" * 100_000,
        " " * (2 << 20) + "{}",
        '{"files": 3, "format": 2}',
    ],
)
def test_what_is_no_manifest_is_refused(copied, text):
    (copied / "manifest.json").write_text(text)
    with pytest.raises(loader.BadFolderError, match="is not a valid model: .*\\. Export it again"):
        loader.load(copied)


@pytest.mark.parametrize(
    ("file", "name", "change"),
    [
        ("head", "bottom.0.weight", lambda t: t[:, 1:].contiguous()),
        ("head", "top.4.bias", lambda t: None),
        ("tables", "C4/weight", lambda t: t[1:].contiguous()),
        ("tables", "C4/weight", lambda t: t.half()),
        ("tables", "C5/weight", lambda t: None),
        ("vocabulary", "C6/rows", lambda t: t[1:].contiguous()),
        ("vocabulary", "C6/rows", lambda t: t + 10_000),
        ("vocabulary", "C6/rows", lambda t: t - 2),
        ("vocabulary", "C7/missing", lambda t: t + 10_000),
        ("vocabulary", "C7/missing", lambda t: t.repeat(2)),
        ("vocabulary", "C7/missing", lambda t: t.long()),
        ("vocabulary", "C6/rows", lambda t: t.float()),
        ("vocabulary", "C6/tokens", lambda t: t.double()),
        ("head", "bottom.0.weight", lambda t: t.double()),
        ("head", "bottom.0.weight", lambda t: t.half()),
        ("head", "bottom.0.weight", lambda t: t.to(torch.complex64)),
        ("head", "top.4.bias", lambda t: t * math.nan),
        ("tables", "C4/weight", lambda t: t.index_fill(0, torch.tensor([1]), math.nan)),
        ("tables", "C4/weight", lambda t: t.index_fill(0, torch.tensor([1]), -math.inf)),
    ],
)
def test_tensors_that_do_not_go_together_are_refused(copied, file, name, change):
    path = copied / f"{file}.safetensors"
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    changed = change(tensors.pop(name))
    save_file(tensors if changed is None else {**tensors, name: changed}, path)
    resealed(copied)
    with pytest.raises(loader.BadFolderError, match="is not a valid model: .*\\. Export it again"):
        loader.load(copied)


@pytest.mark.parametrize("part", ["scale", "offset"])
@pytest.mark.parametrize("change", [lambda t: t * math.inf, lambda t: t.double(), lambda t: t[1:].clone()])
def test_the_code_of_rounded_rows_is_finite_and_of_one_type(exported, tmp_path, part, change):
    folder = Path(shutil.copytree(exported["int8"][0], tmp_path / "folder"))
    path = folder / "tables.safetensors"
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    save_file({**tensors, f"C4/{part}": change(tensors[f"C4/{part}"])}, path)
    resealed(folder)
    with pytest.raises(loader.BadFolderError, match="is not a valid model: .*\\. Export it again"):
        loader.load(folder)


@pytest.mark.parametrize(
    "scales",
    [
        None,
        torch.zeros(2, 2, dtype=torch.float64),
        torch.zeros(2, 1),
        torch.tensor([[math.inf], [1.0]], dtype=torch.float64),
        torch.tensor([[0.0], [math.nan]], dtype=torch.float64),
    ],
)
def test_scales_that_are_not_those_of_the_columns_are_refused(scales):
    column = {"column": "x", "transform": "standardize"}
    schema = {"format": "csv", "dense": [column], "tokens": [], "bags": []}
    loader._Schema(schema, torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    with pytest.raises(ValueError, match="scales"):
        loader._Schema(schema, scales)


@pytest.mark.parametrize(
    "change",
    [
        {"bottom": [8] * 100_000},
        {"top": [10**9, 10**9]},
        {"top": [2**70]},
        {"embedding_dim": 10**7},
        {"name": "dcnv2", "crosses": 10**9, "rank": None, "structure": "stacked", "deep": []},
        {"name": "dcnv2", "crosses": 1, "rank": 10**9, "structure": "stacked", "deep": []},
    ],
)
def test_sizes_that_no_memory_holds_are_refused_at_once(copied, change):
    """Memory is bounded by the tensors in the files, not by the sizes that a manifest claims."""
    model = json.loads((copied / "manifest.json").read_text())["model"]
    resealed(copied, model={**model, **change})
    began = time.process_time()
    with pytest.raises(loader.BadFolderError, match="is not a valid model: .*\\. Export it again"):
        loader.load(copied)
    assert time.process_time() - began < 1


def test_a_number_beyond_float32_is_told_and_not_predicted_as_nan(exact):
    model = loader.load(exact)
    model._head.bottom[0].weight.data.fill_(1e38)
    with pytest.raises(ValueError, match="too large for a finite prediction"):
        model.probabilities([[2**62] * 13], [[None] * 26])


def test_a_folder_of_before_architectures_had_names_is_one_of_dlrm(copied):
    model = json.loads((copied / "manifest.json").read_text())["model"]
    expected = loader.load(copied).probabilities([[1] * 13], [[None] * 26])
    assert model.pop("name") == "dlrm"
    resealed(copied, model=model)
    assert torch.equal(loader.load(copied).probabilities([[1] * 13], [[None] * 26]), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"embedding_dim": 5},
        {"bottom": 8},
        {"top": [8]},
        {"activation": "tanh"},
        {"self_interaction": True},
        {"name": "dcnv2"},
        {"name": "dlrm2"},
    ],
)
def test_sizes_that_the_tensors_do_not_have_are_refused(copied, change):
    model = json.loads((copied / "manifest.json").read_text())["model"]
    resealed(copied, model={**model, **change})
    with pytest.raises(loader.BadFolderError, match="is not a valid model: .*\\. Export it again"):
        loader.load(copied)
