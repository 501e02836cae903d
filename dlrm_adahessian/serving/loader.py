"""Predict clicks with an exported model. One file to copy, which needs only Python 3.11, torch, and safetensors.

    from loader import load

    model = load("FOLDER")
    model.predict([{"price": 2.5, "site": "news", "genres": ["a", "b"]}])  # samples by column name
    model.probabilities([[2.5]], [["news"]], [[["a", "b"]]])  # the same in the order of the schema

    python FOLDER/loader.py < samples.jsonl  # one probability per line: JSON objects, or text for Criteo

Loading verifies every byte with the manifest, so it detects damage, and unpickles nothing. The manifest has no signature:
whoever can write to the folder can replace the model. Predictions take the same float32 steps as training, in batches of
8,192 samples, because the last bits of a prediction depend on the batch.
"""

import hashlib
import json
import math
import signal
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

FORMAT, MANIFEST = 2, "manifest.json"
CALIBRATED = 3  # the format with a calibration, which older loaders would ignore
TENSORS = ("head.safetensors", "tables.safetensors", "vocabulary.safetensors")
FILES = ("head.pt2", "loader.py", "vocabulary.parquet", *TENSORS)
ONNX = "head.onnx"  # optional
BATCH = 8192
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
_MAX_MANIFEST, _MAX_LINE = 1 << 20, 1 << 16  # bytes
_MARK = b"\xef\xbb\xbf"  # byte order mark, with which some programs begin a file
_LARGEST = 1e6  # of any number in a calibration
_SIGN = -(1 << 31)  # maps uint32 to int32 in the same order
_DIGITS = frozenset("0123456789abcdefABCDEF")
# Criteo text: the value of each byte as a digit or separator, and the base and longest value of each column, label first.
_OTHER, _MINUS, _RETURN, _TAB, _NEWLINE = range(16, 21)
_SIGNS = {"-": _MINUS, "\r": _RETURN, "\t": _TAB, "\n": _NEWLINE}
_WORTH = torch.tensor(
    [int(char, 16) if char in _DIGITS else _SIGNS.get(char, _OTHER) for char in map(chr, range(256))],
    dtype=torch.uint8,
)
_LONGEST = 16  # decimal digits read at once
_BASES = torch.tensor([2] + [10] * 13 + [16] * 26)
_WIDEST = torch.tensor([1] + [_LONGEST] * 13 + [8] * 26)
_BASIS, _PRIME, _BITS = (
    0xCBF29CE484222325,
    0x100000001B3,
    (1 << 63) - 1,
)  # 63 bits of the 64-bit FNV-1a (RFC 9923)
# What a forged manifest can raise on its way to a model.
_FORGED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)
_Value = Any  # a number, text, or a list of texts; None if missing
_Row = tuple[list[float], list[int], list[list[int]]]
_Bag = tuple[Tensor, Tensor]


class BadFolderError(Exception):
    """A folder is not an intact export."""


def load(folder: str | Path) -> "Model":
    """Verify a folder and map its tables. Raises `BadFolderError` if it is not an intact export."""
    try:
        return Model(_verified(Path(folder)), *(load_file(Path(folder) / name) for name in TENSORS))
    except OSError as error:
        raise BadFolderError(f"Cannot read {error.filename or folder}: {error.strerror}.") from error
    except _FORGED as error:
        raise BadFolderError(f"{folder} is not a valid model: {error!r}. Export it again.") from error


class Model:
    """The tables, the vocabulary, and the dense head."""

    def __init__(self, manifest: dict[str, Any], head: Any, tables: Any, words: Any) -> None:
        """Take the tensors by name. Any that do not fit the manifest raise an error."""
        sizes, dim = manifest["model"], manifest["model"]["embedding_dim"]
        self.schema = _Schema(manifest["schema"], words.get("scales"))
        columns = [*self.schema.tokens, *self.schema.bags]
        self._dim = dim
        kind, heights = _TYPES[manifest["tables"]["type"]], manifest["tables"]["rows"]
        self._features = [
            _Feature(column, (rows, dim), kind, tables, words)
            for column, rows in zip(columns, heights, strict=True)
        ]
        # After the tables, which must exist: a forged manifest alone allocates nothing large.
        self._head = _filled_head(sizes, len(self.schema.dense), len(columns), head)
        self._calibrated = None
        if "calibration" in manifest:
            self._calibrated = _MAPS[manifest["calibration"]["method"]](manifest["calibration"])

    def predict(self, rows: Iterable[Mapping[str, _Value]]) -> Tensor:
        """Predict samples by column name. Columns that are absent or None are missing.

        Args:
            rows: numbers, text or integers, and lists of these or text with the schema's separator.

        Returns:
            (N,) float32 click probabilities. Raises a ValueError if a value does not fit its column.
        """
        return self.of_parsed([self.schema.row(row) for row in rows])

    @torch.no_grad()
    def probabilities(self, values: Any, tokens: Any, bags: Any = ()) -> Tensor:
        """Predict samples with values in the order of the schema.

        Args:
            values: K numbers per sample, None if missing; or (N, K) float64, NaN if missing.
            tokens: T per sample, None if missing; or (N, T) int64 hashes, -1 if missing.
            bags: one list per sample and bag column; or per column, values (V,) int64 and offsets (N + 1,).

        Returns:
            (N,) float32 click probabilities, in (0, 1).

        Raises:
            ValueError: a sample has too few or too many values, or a value is out of range.
        """
        if not isinstance(tokens, Tensor):
            empty: list[Any] = [[]] * max(len(values), len(tokens))
            rows = zip(values or empty, tokens or empty, bags or empty, strict=True)
            return self.of_parsed([self.schema.ordered(*row) for row in rows])
        values, (dense, width) = torch.as_tensor(values), (len(self.schema.dense), len(self.schema.tokens))
        shapes = (*values.shape,), (*tokens.shape,)
        if shapes != ((len(tokens), dense), (len(tokens), width)) or len(bags) != len(self.schema.bags):
            raise ValueError(
                f"Expected (N, {dense}) values, (N, {width}) tokens, and {len(self.schema.bags)} bags, found {shapes} and "
                f"{len(bags)}."
            )
        largest = (1 << self.schema.bits) - 1
        if bool(((tokens < -1) | (tokens > largest)).any()):
            raise ValueError(f"Tokens must be -1 or in [0, 2**{self.schema.bits}).")
        starts = range(0, len(tokens), BATCH)
        parts = [self._logits(*_cut(values, tokens, bags, slice(at, at + BATCH))) for at in starts]
        z = torch.cat([torch.empty(0), *parts]).double()
        if not bool(z.isfinite().all()):
            raise ValueError("A sample has a number too large for a finite prediction.")
        z = self._calibrated(z) if self._calibrated else z
        decay = (-z.abs()).exp()
        sigmoid = torch.where(z >= 0, 1.0, decay) / (1.0 + decay)
        return sigmoid.float().clamp(2**-126, 1 - 2**-24)

    def predict_lines(self, lines: Iterable[bytes]) -> Iterator[Tensor]:
        """Predict lines in the format of the command line, 8,192 at a time.

        Args:
            lines: with or without line ends; JSON objects by column name, or text for Criteo.

        Yields:
            (N,) float32 click probabilities, as from `predict`. A ValueError names the first invalid line.
        """
        given, read, columns = iter(lines), 0, 0
        while some := list(islice(given, BATCH)):
            columns = columns or some[0].count(b"\t") + 1
            parsed = _plain_text(some, columns) if self.schema.criteo else None
            if parsed is None:
                yield self.of_parsed(list(_rows(self.schema, some, read + 1, columns)))
            else:
                yield self.probabilities(*parsed)
            read += len(some)

    def of_parsed(self, rows: Sequence[_Row]) -> Tensor:
        """Predict parsed samples of `_Schema`."""
        schema = self.schema
        bags = [_bag([row[2][place] for row in rows]) for place in range(len(schema.bags))]
        values = torch.tensor([row[0] for row in rows], dtype=torch.float64).view(-1, len(schema.dense))
        tokens = torch.tensor([row[1] for row in rows], dtype=torch.int64).view(-1, len(schema.tokens))
        if not len(schema.dense):
            values = torch.empty(len(rows), 0, dtype=torch.float64)
        if not len(schema.tokens):
            tokens = torch.empty(len(rows), 0, dtype=torch.int64)
        return self.probabilities(values, tokens, bags)

    def _logits(self, values: Tensor, tokens: Tensor, bags: Sequence[_Bag]) -> Tensor:
        return self._head(*self.head_inputs(values, tokens, bags)).squeeze(1)

    def head_inputs(self, values: Tensor, tokens: Tensor, bags: Sequence[_Bag]) -> tuple[Tensor, Tensor]:
        """Return dense inputs (B, K) and pooled embeddings (B, F, D), float32, from tensors as in `probabilities`."""
        looked_up = [*tokens.T.contiguous(), *bags]
        rows = [
            feature.pooled(*found) if isinstance(found, tuple) else feature.rows(found)
            for feature, found in zip(self._features, looked_up, strict=True)
        ]
        dense = self.schema.transformed(values) if len(self.schema.dense) else values.float()
        return dense, torch.stack(rows, 1) if rows else dense.new_empty(len(dense), 0, self._dim)


class _Platt:
    """A linear map of logits. Like all calibrations here, it maps (N,) float64."""

    def __init__(self, said: dict[str, Any]) -> None:
        self._slope, self._intercept = said["slope"], said["intercept"]
        if not (0 < self._slope <= _LARGEST and abs(self._intercept) <= _LARGEST):  # fails for NaN too
            raise ValueError(f"a calibration must rise, found {self._slope} z + {self._intercept}")

    def __call__(self, logits: Tensor) -> Tensor:
        return self._slope * logits + self._intercept


class _Isotonic:
    """Linear interpolation between points, constant beyond the first and the last."""

    def __init__(self, said: dict[str, Any]) -> None:
        self._at, self._values = (
            torch.tensor(said[name], dtype=torch.float64) for name in ("thresholds", "values")
        )
        points = torch.stack([self._at, self._values])
        rises = bool((self._at.diff() > 0).all() and (self._values.diff() >= 0).all())
        if (
            points.dim() != 2
            or points.shape[1] < 2
            or not rises
            or not bool((points.abs() <= _LARGEST).all())
        ):
            raise ValueError("a calibration must rise from point to point")

    def __call__(self, logits: Tensor) -> Tensor:
        after = torch.searchsorted(self._at, logits).clamp(1, len(self._at) - 1)
        before = after - 1
        share = (logits - self._at[before]) / (self._at[after] - self._at[before])
        return torch.lerp(self._values[before], self._values[after], share.clamp(0, 1))


_MAPS: dict[str, Any] = {"platt": _Platt, "isotonic": _Isotonic}


class _DLRM(nn.Module):
    """Map dense inputs (B, K) and pooled embeddings (B, F, D) to logits (B, 1), like all heads here."""

    def __init__(self, sizes: Any, dense: int, features: int) -> None:
        super().__init__()
        dim, vectors = sizes["embedding_dim"], features + (dense > 0)
        self._vectors, self._diagonal = vectors, 0 if sizes["self_interaction"] else -1
        pairs = vectors * (vectors + 1 + 2 * self._diagonal) // 2
        self.bottom = _hidden([dense, *sizes["bottom"], dim] if dense else [], sizes)
        read = dim if dense else features * dim
        self.top = _mlp([read + pairs, *sizes["top"]], sizes)

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        read, vectors = pooled.flatten(1), pooled
        if self.bottom:
            read = self.bottom(dense)
            vectors = torch.cat([read.unsqueeze(1), pooled], 1)
        first, second = torch.tril_indices(self._vectors, self._vectors, self._diagonal)
        products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
        products = products.index_select(1, first * self._vectors + second)
        return self.top(torch.cat([read, products], 1))


class _DeepFM(nn.Module):
    def __init__(self, sizes: Any, dense: int, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dense, 1, bias=False, device="meta") if dense else None
        self.deep = _mlp([dense + features * sizes["embedding_dim"], *sizes["deep"]], sizes)

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        factors, weights = pooled[..., :-1], pooled[..., -1]
        pairs = (factors.sum(1).square() - factors.square().sum(1)).sum(1) / 2
        logits = self.deep(torch.cat([dense, pooled.flatten(1)], 1)) + (pairs + weights.sum(1)).unsqueeze(1)
        return logits if self.linear is None else logits + self.linear(dense)


class _DCNv2(nn.Module):
    def __init__(self, sizes: Any, dense: int, features: int) -> None:
        super().__init__()
        width, rank = dense + features * sizes["embedding_dim"], sizes["rank"]
        ends = [(width, width, True)] if rank is None else [(width, rank, False), (rank, width, True)]
        self.crosses = nn.ModuleList(
            nn.Sequential(*(nn.Linear(*end, device="meta") for end in ends)) for _ in range(sizes["crosses"])
        )
        self._parallel, widths = sizes["structure"] == "parallel", [width, *sizes["deep"]]
        self.deep = _hidden(widths, sizes)
        self.last = nn.Linear(widths[-1] + width * self._parallel, 1, device="meta")

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        first = crossed = torch.cat([dense, pooled.flatten(1)], 1)
        for products in self.crosses:
            crossed = first * products(crossed) + crossed
        if self._parallel:
            return self.last(torch.cat([crossed, self.deep(first)], 1))
        return self.last(self.deep(crossed))


_HEADS: dict[str, Any] = {"dlrm": _DLRM, "deepfm": _DeepFM, "dcnv2": _DCNv2}


def _filled_head(sizes: Any, dense: int, features: int, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the head of these sizes with these parameters. Raises an error if they do not fit."""
    layers = sum(len(sizes.get(part, ())) for part in ("bottom", "top", "deep")) + sizes.get("crosses", 0)
    if layers > len(tensors):
        raise ValueError(f"{layers:,} layers cannot have {len(tensors)} tensors")
    for name, tensor in tensors.items():
        _require_finite(name, tensor, torch.float32)
    head = _HEADS[sizes.get("name", "dlrm")](sizes, dense, features)
    head.load_state_dict(tensors, assign=True)
    return head


def _require_finite(name: str, tensor: Tensor, kind: torch.dtype) -> None:
    if tensor.dtype != kind:
        raise ValueError(f"{name} is {tensor.dtype}, not {kind}")
    if kind.is_floating_point and tensor.numel() and not all(map(math.isfinite, tensor.aminmax())):
        raise ValueError(f"{name} has values that are not finite")


def _hidden(widths: Sequence[int], sizes: Any) -> nn.Sequential:
    """Return linear layers without values, each followed by the activation."""
    activation = _ACTIVATIONS[sizes["activation"]]()
    layers = [(nn.Linear(*shape, device="meta"), activation) for shape in pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in layer])


def _mlp(widths: Sequence[int], sizes: Any) -> nn.Sequential:
    """Return the same, with a last layer to one number."""
    return _hidden(widths, sizes).append(nn.Linear(widths[-1], 1, device="meta"))


class _Schema:
    """The columns of a sample, and how each becomes numbers."""

    def __init__(self, schema: dict[str, Any], scales: Tensor | None) -> None:
        self.criteo = schema["format"] == "criteo"
        self.bits = 32 if self.criteo else 63
        self.dense, self.tokens, self.bags = schema["dense"], schema["tokens"], schema["bags"]
        standardized = sum(column["transform"] == "standardize" for column in self.dense)
        self._scales = torch.empty(2, 0, dtype=torch.float64) if scales is None else scales
        _require_finite("scales", self._scales, torch.float64)
        if self._scales.shape != (2, standardized):
            raise ValueError(f"scales have shape {tuple(self._scales.shape)}, not (2, {standardized})")

    def row(self, row: Mapping[str, _Value]) -> _Row:
        """Parse a sample by column name."""
        values, tokens, bags = (
            [row.get(column["column"]) for column in columns]
            for columns in (self.dense, self.tokens, self.bags)
        )
        return self.ordered(values, tokens, bags)

    def ordered(self, values: Sequence[_Value], tokens: Sequence[_Value], bags: Sequence[_Value]) -> _Row:
        """Parse a sample with values in the order of the columns."""
        try:
            return (
                [_number(value, whole=self.criteo) for _, value in zip(self.dense, values, strict=True)],
                [self._token(value, column) for column, value in zip(self.tokens, tokens, strict=True)],
                [self._values(value, column) for column, value in zip(self.bags, bags, strict=True)],
            )
        except (TypeError, ValueError, OverflowError) as error:
            counts = ", ".join(map(str, (len(self.dense), len(self.tokens), len(self.bags))))
            raise ValueError(
                f"Expected {counts} numbers, tokens, and bags: {error}; found {values}, {tokens}, and {bags}."
            ) from error

    def transformed(self, values: Tensor) -> Tensor:
        """Return the dense inputs (N, K) float32 of values (N, K), NaN if missing."""
        found, standardized = [], 0
        for column, given in zip(self.dense, values.double().T, strict=True):
            if column["transform"] == "standardize":
                mean, deviation = self._scales[:, standardized]
                given, standardized = (given - mean) / deviation, standardized + 1
            given = given.nan_to_num(nan=0.0)
            found.append(given.clamp(min=0).log1p() if column["transform"] == "log1p" else given)
        return torch.stack(found, 1).float()

    def _token(self, value: _Value, column: dict[str, Any]) -> int:
        if value is None or value == "":
            return -1
        if self.criteo:
            if len(value) != 8 or not _DIGITS.issuperset(value):
                raise ValueError(f"a Criteo token must have 8 hexadecimal digits, found {value!r}")
            return int(value, 16)
        if isinstance(value, float) and not value.is_integer():
            raise ValueError(f"{column['column']} must be text or an integer, found {value!r}")
        text = (
            str(value).lower()
            if isinstance(value, bool)
            else str(int(value) if isinstance(value, float) else value)
        )
        return _hash(text[slice(*column["characters"])] if column.get("characters") else text)

    def _values(self, value: _Value, column: dict[str, Any]) -> list[int]:
        if isinstance(value, str) and column.get("separator"):
            value = value.split(column["separator"])
        found = [self._token(each, column) for each in value or ()]
        return [token for token in found if token >= 0][: column.get("max_length")]


class _Feature:
    """The tokens of one feature, and their embedding rows. Unknown tokens have row 0."""

    def __init__(
        self, column: dict[str, Any], shape: tuple[int, int], kind: torch.dtype, tables: Any, words: Any
    ) -> None:
        name = column.get("name") or column["column"]
        self._weight = tables[f"{name}/weight"]
        self._code = [tables[f"{name}/{part}"] for part in ("scale", "offset") if kind == torch.int8]
        self._missing, self._buckets = words[f"{name}/missing"], column.get("buckets")
        known = words[f"{name}/tokens"]
        # 32-bit tokens use 32 bits.
        self._narrow = known.dtype == torch.uint32
        for part in ("rows", "missing"):
            _require_finite(f"{name}/{part}", words[f"{name}/{part}"], torch.int32)
        _require_finite(f"{name}/tokens", known, torch.uint32 if self._narrow else torch.int64)
        _require_finite(f"{name}/weight", self._weight, kind)
        for code in self._code:
            _require_finite(f"the code of {name}", code, torch.float32)
        known = known.long().add_(_SIGN).int() if self._narrow else known
        # A last entry, so that every search ends at a token.
        self._known = torch.cat([known, known.new_tensor([torch.iinfo(known.dtype).max])])
        self._rows = F.pad(words[f"{name}/rows"], (0, 1))
        used = torch.cat([self._rows, self._missing]).aminmax()
        shapes = (
            self._weight.shape,
            self._rows.shape,
            self._missing.shape,
            *(part.shape for part in self._code),
        )
        if shapes != (shape, self._known.shape, (1,), *[shape[:1]] * len(self._code)):
            raise ValueError(f"the table of {name} has shape {shapes}, not {shape}")
        if not 0 <= int(used.min) <= int(used.max) < shape[0] or (self._buckets or 1) >= shape[0] + (
            not self._buckets
        ):
            raise ValueError(f"the tokens of {name} must have rows in [0, {shape[0]})")

    def rows(self, tokens: Tensor) -> Tensor:
        """Return the embedding rows (B, D) float32 of tokens (B,) int64."""
        if self._buckets:
            row = torch.where(tokens >= 0, tokens % self._buckets + 1, 0)
        else:
            sought = (tokens + _SIGN).int() if self._narrow else tokens
            place = torch.searchsorted(self._known, sought)
            row = torch.where(self._known[place] == sought, self._rows[place], 0)
            row = row.where(tokens >= 0, self._missing)
        found = self._weight.index_select(0, row).float()
        if self._code:
            scale, offset = (part[row].unsqueeze(1) for part in self._code)
            found = found * scale + offset
        return found

    def pooled(self, values: Tensor, offsets: Tensor) -> Tensor:
        """Return the sums (B, D) of the embedding rows of bags: values (V,) int64, offsets (B + 1,) int64."""
        rows = self.rows(values)
        bag = torch.arange(len(offsets) - 1).repeat_interleave(offsets.diff())
        return torch.zeros(len(offsets) - 1, rows.shape[1]).index_add_(0, bag, rows)


def digest(manifest: dict[str, Any]) -> str:
    """Return the sha256 of a manifest without its digest."""
    said = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _verified(folder: Path) -> dict[str, Any]:
    """Verify a folder, and return its manifest."""
    asked_for = (folder / ONNX).is_symlink() or (folder / ONNX).exists()
    names = (*FILES, ONNX) if asked_for else FILES
    for path in (folder / name for name in (MANIFEST, *names)):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BadFolderError(f"{path} must be a plain file, not a link, a folder, or a device.")
    with (folder / MANIFEST).open("rb") as file:
        manifest = json.loads(file.read(_MAX_MANIFEST))
    files, known = manifest["files"], CALIBRATED if "calibration" in manifest else FORMAT
    if manifest["format"] != known:
        raise BadFolderError(
            f"{folder} must have format {known}, not {manifest['format']!r}. Use its loader."
        )
    if sorted(files) != sorted(names):  # no other name is opened, so none leads out of the folder
        raise BadFolderError(f"{folder} must list {sorted(names)}, not {sorted(files)}. Export it again.")
    if manifest["digest"] != digest(manifest):
        raise BadFolderError(f"{folder / MANIFEST} changed since the export. Copy the folder again.")
    for path in (folder / name for name in names):
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if files[path.name] != {"bytes": path.stat().st_size, "sha256": found}:
            raise BadFolderError(f"{path} changed since the export. Copy the folder again.")
    return manifest


def _hash(text: str) -> int:
    value = _BASIS
    for byte in text.encode():
        value = (value ^ byte) * _PRIME % (1 << 64)
    return value & _BITS


def _number(value: _Value, *, whole: bool) -> float:
    if value is None or value == "":
        return math.nan
    if whole and int(value) >> 63 not in (0, -1):
        raise ValueError(f"integers must fit into 64 bits with a sign, found {value}")
    if not math.isfinite(found := float(value)):
        raise ValueError(f"numbers must be finite, found {value!r}")
    return found


def _bag(rows: Sequence[Sequence[int]]) -> _Bag:
    lengths = torch.tensor([0, *map(len, rows)])
    return torch.tensor([token for row in rows for token in row], dtype=torch.int64), lengths.cumsum(0)


def _cut(
    values: Tensor, tokens: Tensor, bags: Sequence[_Bag], rows: slice
) -> tuple[Tensor, Tensor, list[_Bag]]:
    """Return some of the samples."""
    ends = slice(rows.start, rows.stop + 1)
    cut = [
        (each[offsets[ends][0] : offsets[ends][-1]], offsets[ends] - offsets[ends][0])
        for each, offsets in bags
    ]
    return values[rows], tokens[rows], cut


def _plain_text(lines: Sequence[bytes], columns: int) -> tuple[Tensor, Tensor] | None:
    """Parse lines of Criteo text at once; None if a line needs a closer look by `_rows`, which reports errors.

    Returns:
        Values (N, 13) float64, NaN if missing, and tokens (N, 26) int64, -1 if missing.
    """
    # Padding, because the first field is read together with the bytes before it, which are ignored.
    text = bytearray(_LONGEST) + b"".join(lines).removesuffix(b"\n") + b"\n"
    worth = _WORTH.index_select(0, torch.frombuffer(text, dtype=torch.uint8).int())
    ends = (worth >= _TAB).nonzero().squeeze(1)
    if columns not in (39, 40) or len(ends) != columns * len(lines) or sys.byteorder != "little":
        return None
    breaks = worth.index_select(0, ends).view(-1, columns) == _NEWLINE
    starts, ends = F.pad(ends[:-1] + 1, (1, 0), value=_LONGEST).view(-1, columns), ends.view(-1, columns)
    ends[:, -1] -= (worth[ends[:, -1] - 1] == _RETURN).long()
    base, widest = _BASES[-columns:], _WIDEST[-columns:]
    minus = (worth.index_select(0, starts.flatten()).view_as(starts) == _MINUS) & (base == 10)
    present, digits = ends > starts, ends - starts - minus.long()
    low = _of_digits(worth, ends, digits, base)
    high = _of_digits(worth, ends[:, -39:-26] - 8, digits[:, -39:-26] - 8, base[-39:-26])
    plain = (low >= 0) & (digits <= widest) & ((digits > 0) | ~present) & ((digits % 8 == 0) | (base < 16))
    if not bool((plain & (breaks == (torch.arange(columns) == columns - 1))).all()) or bool((high < 0).any()):
        return None
    values = (high * 10**8 + low[:, -39:-26]).double().where(present[:, -39:-26], math.nan)
    return values.where(~minus[:, -39:-26], -values), low.where(present, -1)[:, -26:]


def _of_digits(worth: Tensor, ends: Tensor, digits: Tensor, base: Tensor) -> Tensor:
    """Return the int64 value of the last 8 or fewer digits before each end; 0 for none, -1 if one is not a digit.

    Eight bytes form one int64. Three steps join its neighbors: to pairs, to fours, to one number.
    """
    words = worth.unfold(0, 8, 1).index_select(0, ends.flatten() - 8).view(torch.int64).view_as(ends)
    others = (64 - 8 * digits).clamp(0, 56)
    words = torch.where(digits > 0, words >> others << others, 0)
    wrong = (words + (128 - base) * 0x0101010101010101) & -0x7F7F7F7F7F7F7F80
    for step, kept in (1, 0x00FF00FF00FF00FF), (2, 0x0000FFFF0000FFFF), (4, 0xFFFFFFFF):
        words = (words * base**step + (words >> 8 * step)) & kept
    return words.where(wrong == 0, -1)


def _lines(lines: Iterable[bytes], first: int) -> Iterator[str]:
    """Yield lines without line ends. A `ValueError` names a line that is too long."""
    for number, line in enumerate(lines, first):
        if len(line) >= _MAX_LINE and not line.endswith(b"\n"):  # the rest of it would count as another line
            raise ValueError(f"Line {number} has {_MAX_LINE:,} bytes or more.")
        if number == 1 and line == _MARK:
            return
        text = line.removeprefix(_MARK) if number == 1 else line
        yield text.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "replace")


def _rows(schema: _Schema, lines: Iterable[bytes], first: int = 1, columns: int = 0) -> Iterator[_Row]:
    """Parse lines: JSON objects, or Criteo text. A `ValueError` names the first invalid line.

    Args:
        schema: schema of the samples.
        lines: some lines of a file.
        first: number of the first one.
        columns: number of columns in Criteo text; 0 for that of the first line.

    Yields:
        The samples.

    Raises:
        ValueError: a line is not a sample.
    """
    for number, line in enumerate(_lines(lines, first), first):
        try:
            if not schema.criteo:
                found = json.loads(line)
                if not isinstance(found, dict):
                    raise ValueError(f"Expected a JSON object by column name, found {found!r:.60}.")
                yield schema.row(found)
                continue
            fields = line.split("\t")
            columns = columns or len(fields)
            label, values, tokens = fields[:-39], fields[-39:-26], fields[-26:]
            whole = all(value.removeprefix("-").isdigit() for value in values if value)
            if len(fields) != columns or label not in ([], [""], ["0"], ["1"]) or not whole:
                raise ValueError(
                    "Expected 13 integers of 64 bits with a sign and 26 tokens of 8 hexadecimal digits, each possibly "
                    f"empty, after a label if the first line has one, found {fields}."
                )
            yield schema.ordered(values, tokens, [])
        except ValueError as error:
            raise ValueError(f"Line {number}: {error}") from error


def _main() -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the reader of the output may exit early
    try:
        model = load(Path(__file__).parent)
        lines = iter(lambda: sys.stdin.buffer.readline(_MAX_LINE), b"")
        for found in model.predict_lines(lines):
            sys.stdout.writelines(f"{value:.9g}\n" for value in found.tolist())
    except (BadFolderError, ValueError) as error:
        sys.stdout.flush()
        sys.stderr.write(f"{error}\n")
        return 3 if isinstance(error, BadFolderError) else 65
    return 0


if __name__ == "__main__":
    sys.exit(_main())
