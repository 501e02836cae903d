"""Compare a vocabulary that extends an earlier one with a count in plain Python."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.data.raw import prepare_raw
from dlrm_adahessian.data.schema import from_dict
from dlrm_adahessian.errors import UsageError
from tests.data.bags import lists_of
from tests.data.columnar.slow import fnv, write_text

ROWS, TRAIN, MIN_COUNT = 140, 120, 3
SCHEMA: dict[str, Any] = {
    "format": "csv",
    "label": {"column": "y"},
    "dense": [{"column": "x", "transform": "standardize"}],
    "tokens": [{"column": "site"}, {"column": "site", "name": "shared", "buckets": 5}],
    "bags": [{"column": "genres", "separator": "|"}],
}


def day(number: int, *, missing: bool) -> dict[str, list[Any]]:
    """Return the columns of one day, with new tokens and some of the day before."""
    rng = np.random.default_rng(number)
    sites: list[str | None] = [f"site-{n}" for n in rng.integers(20 * number, 20 * number + 40, ROWS)]
    genres = [
        "|".join(f"genre-{n}" for n in rng.integers(5 * number, 5 * number + 12, rng.integers(0, 4)))
        for _ in range(ROWS)
    ]
    return {
        "y": [n % 2 for n in range(ROWS)],
        "x": rng.normal(3 * number, 2, ROWS).tolist(),
        "site": [None if missing and n % 5 == 0 else site for n, site in enumerate(sites)],
        "genres": genres,
    }


def kept(values: Sequence[Hashable | None]) -> list[Hashable | None]:
    """Return the frequent tokens by descending count, then by hash; None is the missing token."""
    counts = Counter(values)
    return sorted(
        (token for token, count in counts.items() if count >= MIN_COUNT),
        key=lambda token: (-counts[token], -1 if token is None else fnv(str(token))),
    )


def grown(days: Sequence[dict[str, list[Any]]], feature: str) -> list[Hashable | None]:
    """Return the tokens of a table after some days, row 1 first."""
    rows: list[Hashable | None] = []
    for columns in days:
        values = columns[feature][:TRAIN]
        if feature == "genres":
            values = [genre for genres in values for genre in genres.split("|") if genre]
        rows += [token for token in kept(values) if token not in rows]
    return rows


def prepared(folder: Path, days: Sequence[dict[str, list[Any]]]) -> list[PreparedData]:
    """Return the prepared data of each day, which extends that of the day before."""
    found: list[PreparedData] = []
    for number, columns in enumerate(days):
        path = write_text(folder / f"day_{number}.csv", columns)
        cfg = DataConfig(cache_dir=folder / "cache", min_count=MIN_COUNT)
        extends = found[-1].preprocessing if found else None
        schema = from_dict(SCHEMA)
        found.append(
            prepare_raw("own", schema, str(path), cfg, rows=None, bad_rows="strict", extends=extends)
        )
    return found


@pytest.mark.parametrize("missing", [[0, 0, 1], [0, 1, 0], [1, 1, 1]])
def test_tokens_keep_their_rows_and_new_ones_follow(missing: list[int], tmp_path: Path) -> None:
    days = [day(number, missing=bool(some)) for number, some in enumerate(missing)]
    for number, data in enumerate(prepared(tmp_path, days)):
        sites, genres = (grown(days[: number + 1], feature) for feature in ("site", "genres"))
        columns, about = days[number], data.preprocessing
        rows = {token: row for row, token in enumerate(sites, 1)}
        assert data.features.ids[:, 0].tolist() == [rows.get(site, 0) for site in columns["site"]]
        assert about.num_rows == (len(sites) + 1, 6, len(genres) + 1)
        rows = {token: row for row, token in enumerate(genres, 1)}
        values = [[genre for genre in text.split("|") if genre] for text in columns["genres"]]
        assert lists_of(data.features.bags[0]) == [[rows.get(genre, 0) for genre in bag] for bag in values]
        assert about.texts is not None
        assert about.texts.column(0).to_pylist() == sites
        assert about.texts.column(2).to_pylist() == genres


def test_scales_stay_those_of_the_first_day(tmp_path: Path) -> None:
    days = [day(number, missing=False) for number in range(2)]
    first = np.array(days[0]["x"][:TRAIN])
    _, data = prepared(tmp_path, days)
    expected = (np.array(days[1]["x"]) - first.mean()) / first.std()
    np.testing.assert_allclose(data.features.dense[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_rows_are_found_again_by_what_they_extend(tmp_path: Path) -> None:
    days = [day(number, missing=False) for number in range(2)]
    first, second = prepared(tmp_path, days)
    assert [data.folder for data in prepared(tmp_path, days)] == [first.folder, second.folder]
    alone = prepared(tmp_path, days[1:])  # the same data, not extended
    assert alone[0].folder != second.folder


def test_other_columns_cannot_extend(tmp_path: Path) -> None:
    (first,) = prepared(tmp_path, [day(0, missing=False)])
    tokens = [SCHEMA["tokens"][0], {**SCHEMA["tokens"][1], "buckets": 6}]
    for change in ({"dense": [{"column": "x"}]}, {"tokens": tokens}, {"tokens": tokens[:1]}):
        with pytest.raises(UsageError, match="with the same columns"):
            first.preprocessing.require_extendable(from_dict(SCHEMA | change))
    fewer = {"tokens": [{"column": "site", "min_count": 7}, SCHEMA["tokens"][1]], "split": {"train": 0.5}}
    first.preprocessing.require_extendable(from_dict(SCHEMA | fewer))


def test_prepared_rows_and_generated_ones_extend_nothing_else(tmp_path: Path) -> None:
    first, second = prepared(tmp_path, [day(number, missing=False) for number in range(2)])
    cfg = DataConfig(cache_dir=tmp_path / "cache")
    for about, accepted in ((first, True), (second, False)):
        options: dict[str, Any] = {"rows": None, "bad_rows": "strict", "extends": about.preprocessing}
        if accepted:
            found = open_dataset("criteo", str(second.folder), cfg, **options)
            assert found.fingerprint == second.fingerprint
            continue
        with pytest.raises(UsageError, match="Pass the raw data"):
            open_dataset("criteo", str(second.folder), cfg, **options)
        with pytest.raises(UsageError, match="the same every time"):
            open_dataset("synthetic", None, replace(cfg), **options)
