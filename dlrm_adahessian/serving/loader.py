"""Predict clicks with an exported model. Needs Python 3.11, torch and safetensors, and nothing else.

    from loader import load

    model = load("FOLDER")
    model.probabilities([[1, None, ...]], [["68fd1e64", None, ...]])  # 13 integers and 26 tokens a row

    python FOLDER/loader.py < rows.txt  # a probability a line, for tab-separated rows with or without a label

Every byte is compared with the manifest first, so damage is refused, and nothing is unpickled. The manifest bears no
signature: who can write to the folder can put another model there. The steps are those of the program that trained it, in
float32, 8,192 rows at a time as it scores: a row's last bits depend on the rows that are computed with it.
"""

import hashlib
import json
import signal
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

FORMAT, MANIFEST = 1, "manifest.json"
TENSORS = ("head.safetensors", "tables.safetensors", "vocabulary.safetensors")
FILES = ("head.pt2", "loader.py", "vocabulary.parquet", *TENSORS)
INTEGERS, TOKENS, BATCH = 13, 26, 8192
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
_MAX_MANIFEST, _MAX_LINE = 1 << 20, 1 << 12  # bytes
_MARK = b"\xef\xbb\xbf"  # of the byte order, as some programs begin a file
_SIGN = -(1 << 31)  # adding it keeps the order of uint32 within int32
_RULE = "a row has 13 integers of 64 bits with a sign and 26 tokens of 8 hexadecimal digits, each of which may be missing"
_DIGITS = frozenset("0123456789abcdefABCDEF")
_Row = tuple[list[int], list[int]]
_Integers = Iterable[Sequence[int | None]] | Tensor
_Tokens = Iterable[Sequence[str | None]] | Tensor


class BadFolderError(Exception):
    """A folder is not what was exported."""


def load(folder: str | Path) -> "Model":
    """Verify a folder and map its tables; `BadFolderError` when it is not what was exported."""
    try:
        return Model(_verified(Path(folder)), *(load_file(Path(folder) / name) for name in TENSORS))
    except OSError as error:
        raise BadFolderError(f"{error.filename or folder} cannot be read: {error.strerror}") from error
    except (LookupError, RecursionError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise BadFolderError(f"{folder} holds no model: {error!r}; export it again") from error


class Model:
    """The tables, the vocabulary and the dense head."""

    def __init__(self, manifest: dict[str, Any], head: Any, tables: Any, words: Any) -> None:
        """Take the tensors by name; others than the manifest tells of raise an error of some kind."""
        sizes, dim = manifest["model"], manifest["model"]["embedding_dim"]
        names = manifest["features"]["tokens"]
        self._widths = dense, num_tokens = len(manifest["features"]["integers"]), len(names)
        vectors = num_tokens + (dense > 0)
        first, second = torch.tril_indices(vectors, vectors, 0 if sizes["self_interaction"] else -1)
        self._picked = first * vectors + second
        activation = _ACTIVATIONS[sizes["activation"]]()
        self._bottom = _mlp([dense, *sizes["bottom"], dim] if dense else [], activation)
        read = dim if dense else num_tokens * dim
        self._top = _mlp([read + len(first), *sizes["top"], 1], activation)[:-1]
        nn.ModuleDict({"bottom": self._bottom, "top": self._top}).load_state_dict(head, assign=True)
        kind, heights = _TYPES[manifest["tables"]["type"]], manifest["tables"]["rows"]
        self._features = [
            _Feature(name, (rows, dim), kind, tables, words)
            for name, rows in zip(names, heights, strict=True)
        ]

    @torch.no_grad()
    def probabilities(self, integers: _Integers, tokens: _Tokens) -> Tensor:
        """Predict raw rows.

        Args:
            integers: 13 a row, None where missing; or (N, 13) int64, 0 where missing.
            tokens: 26 a row of 8 hexadecimal digits, None where missing; or (N, 26) int64, -1 where missing.

        Returns:
            (N,) float32 probabilities of a click, in (0, 1).

        Raises:
            ValueError: a row has too few or too many values, or a value is out of range.
        """
        if isinstance(integers, Tensor) or isinstance(tokens, Tensor):
            numbers, words = torch.as_tensor(integers), torch.as_tensor(tokens)
        else:
            numbers, words = _tensors([_row(*row) for row in zip(integers, tokens, strict=True)])
        shapes, (dense, num_tokens) = ((*numbers.shape,), (*words.shape,)), self._widths
        if shapes != ((len(words), dense), (len(words), num_tokens)):
            raise ValueError(f"rows are (N, {dense}) integers and (N, {num_tokens}) tokens, got {shapes}")
        if bool(((words < -1) | (words >> 32 > 0)).any()):
            raise ValueError("a token is -1 or in [0, 2**32), and one is not")
        parts = zip(numbers.split(BATCH), words.split(BATCH), strict=True)
        z = torch.cat([self._logits(*part) for part in parts]).double()
        decay = (-z.abs()).exp()
        sigmoid = torch.where(z >= 0, 1.0, decay) / (1.0 + decay)
        return sigmoid.float().clamp(2**-126, 1 - 2**-24)

    def _logits(self, integers: Tensor, tokens: Tensor) -> Tensor:
        read = rows = list(map(_Feature.rows, self._features, tokens.T.contiguous()))
        if self._bottom:
            read = [self._bottom(integers.clamp(min=0).double().log1p().float())]
            rows = [*read, *rows]
        vectors = torch.stack(rows, 1)
        products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1).index_select(1, self._picked)
        return self._top(torch.cat([*read, products], 1)).squeeze(1)


class _Feature:
    """The tokens of one feature, and their rows; row 0 is that of unknown tokens."""

    def __init__(self, name: str, shape: tuple[int, int], kind: torch.dtype, tables: Any, words: Any) -> None:
        self._weight = tables[f"{name}/weight"]
        self._code = [tables[f"{name}/{part}"] for part in ("scale", "offset") if kind == torch.int8]
        self._missing = words[f"{name}/missing"]
        # One more at the end, so that every search ends at a token.
        self._known = F.pad(words[f"{name}/tokens"].long().add_(_SIGN).int(), (0, 1), value=~_SIGN)
        self._rows = F.pad(words[f"{name}/rows"], (0, 1))
        used = torch.cat([self._rows, self._missing]).aminmax()
        shapes = (self._weight.shape, self._rows.shape, *(part.shape for part in self._code))
        if self._weight.dtype != kind or shapes != (shape, self._known.shape, *[shape[:1]] * len(self._code)):
            raise ValueError(f"the table of {name} is {self._weight.dtype} {shapes}, not {kind} {shape}")
        if not 0 <= int(used.min) <= int(used.max) < shape[0]:
            raise ValueError(f"the tokens of {name} must have rows in [0, {shape[0]})")

    def rows(self, tokens: Tensor) -> Tensor:
        """Return the rows (B, D) float32 of tokens (B,) int64."""
        signed = (tokens + _SIGN).int()
        place = torch.searchsorted(self._known, signed)
        row = torch.where(self._known[place] == signed, self._rows[place], 0)
        row = row.where(tokens >= 0, self._missing)
        found = self._weight.index_select(0, row).float()
        if self._code:
            scale, offset = (part[row].unsqueeze(1) for part in self._code)
            found = found * scale + offset
        return found


def _mlp(widths: Sequence[int], activation: nn.Module) -> nn.Sequential:
    """Return linear layers that wait for their values, each with the activation after it."""
    layers = [(nn.Linear(*shape, device="meta"), activation) for shape in pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in layer])


def digest(manifest: dict[str, Any]) -> str:
    """Return the sha256 of what a manifest says beside its digest."""
    said = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _verified(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder whose files are those that it lists."""
    for path in (folder / name for name in (MANIFEST, *FILES)):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BadFolderError(f"{path} must be a plain file, not a link, a folder or a device")
    with (folder / MANIFEST).open("rb") as file:
        manifest = json.loads(file.read(_MAX_MANIFEST))
    files = manifest["files"]
    if manifest["format"] != FORMAT:
        raise BadFolderError(
            f"{folder} must have format {FORMAT}, not {manifest['format']!r}; use its loader"
        )
    if sorted(files) != sorted(FILES):  # no other name is ever opened, so none leads out of the folder
        raise BadFolderError(f"{folder} must list {sorted(FILES)}, not {sorted(files)}; export it again")
    if manifest["digest"] != digest(manifest):
        raise BadFolderError(f"{folder / MANIFEST} changed since it was exported; copy the folder again")
    for path in (folder / name for name in FILES):
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if files[path.name] != {"bytes": path.stat().st_size, "sha256": found}:
            raise BadFolderError(f"{path} changed since it was exported; copy the folder again")
    return manifest


def _row(integers: Sequence[int | None], tokens: Sequence[str | None]) -> _Row:
    """Check a row, and return it as a row of tensors has it."""
    numbers = [value or 0 for value in integers]
    words = [token for token in tokens if token is not None]
    right = (len(numbers), len(tokens)) == (INTEGERS, TOKENS) and not {len(word) for word in words} - {8}
    if not right or not _DIGITS.issuperset("".join(words)) or {value >> 63 for value in numbers} - {0, -1}:
        raise ValueError(f"{_RULE}, got {integers} and {tokens}")
    return numbers, [-1 if token is None else int(token, 16) for token in tokens]


def _tensors(rows: Sequence[_Row]) -> Iterator[Tensor]:
    for part, width in enumerate((INTEGERS, TOKENS)):
        yield torch.tensor([row[part] for row in rows], dtype=torch.int64).view(-1, width)


def _rows(lines: Iterable[bytes]) -> Iterator[_Row]:
    """Parse lines; all have as many columns as the first, and a `ValueError` names the one that is no row."""
    columns = 0
    for number, line in enumerate(lines, 1):
        if len(line) >= _MAX_LINE and not line.endswith(
            b"\n"
        ):  # what follows it would be read as another row
            raise ValueError(
                f"line {number}: a line has fewer than {_MAX_LINE:,} bytes, and this one has more"
            )
        if number == 1 and line == _MARK:
            return
        text = line.removeprefix(_MARK) if number == 1 else line
        fields = text.removesuffix(b"\n").removesuffix(b"\r").decode("latin-1").split("\t")
        columns = columns or len(fields)
        label, values, tokens = fields[:-39], fields[-39:-26], fields[-26:]
        try:
            whole = all(value.removeprefix("-").isdigit() for value in values if value)
            if len(fields) != columns or label not in ([], [""], ["0"], ["1"]) or not whole:
                raise ValueError(f"{_RULE}, after a label if the first line has one, got {fields}")
            row = _row([int(v) if v else None for v in values], [token or None for token in tokens])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        yield row


def _main() -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader of the output may leave early
    try:
        model = load(Path(__file__).parent)
        rows = _rows(iter(lambda: sys.stdin.buffer.readline(_MAX_LINE), b""))
        while batch := list(islice(rows, BATCH)):
            found = model.probabilities(*_tensors(batch))
            sys.stdout.writelines(f"{value:.9g}\n" for value in found.tolist())
    except (BadFolderError, ValueError) as error:
        sys.stdout.flush()
        sys.stderr.write(f"{error}\n")
        return 3 if isinstance(error, BadFolderError) else 65
    return 0


if __name__ == "__main__":
    sys.exit(_main())
