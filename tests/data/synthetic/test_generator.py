"""Compare generated samples with the published figures, which are repeated here, and with a slow oracle."""

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import rankdata

from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.criteo.columns import COLUMN_NAMES, NUM_INTEGERS, CriteoBlock
from dlrm_adahessian.data.synthetic import generator, marginals
from dlrm_adahessian.data.synthetic.generator import row_blocks, write_tsv
from dlrm_adahessian.errors import StorageError
from tests.data.synthetic.test_marginals import INTEGER_MEAN_SD, TAILS

SCALE = 0.01
ROWS = 458_406  # SCALE times the 45,840,617 published samples, so that tail counts scale equally
FIELDS = COLUMN_NAMES[1:]
CLICK_RATE = 0.25622
CALIBRATION_ERROR = 0.0003  # standard error of the planted click rate
MISSING_TOGETHER = {
    "I1 I10": 20_793_556,
    "I3": 9_839_447,
    "I4 I13": 9_937_369,
    "I5": 1_183_117,
    "I6": 10_252_328,
    "I7 I9 I11": 1_982_866,
    "I8": 22_773,
    "I12": 35_071_652,
    "C3 C4 C12 C16 C21 C24": 1_559_473,
    "C6": 5_540_625,
    "C19 C20 C25 C26": 20_172_858,
    "C22": 34_955_073,
}
# fmt: off
DISTINCT_TOKENS = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
    27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)
# fmt: on
DISTINCT = dict(zip(FIELDS[NUM_INTEGERS:], DISTINCT_TOKENS, strict=True))
INTEGER_RANGE = dict(
    zip(
        FIELDS[:NUM_INTEGERS],
        itertools.product(
            (0,), (5775, 257675, 65535, 969, 23159456, 431037, 56311, 6047, 29019, 11, 231, 4008, 7393)
        ),
        strict=True,
    )
) | {"I2": (-3, 257_675)}


def generate(config: SyntheticConfig, rows: int, block_rows: int = 65536) -> CriteoBlock:
    blocks = list(row_blocks(config, rows, block_rows=block_rows))
    names = ("labels", "integers", "tokens", "missing", "probability")
    return CriteoBlock(**{name: np.concatenate([getattr(block, name) for block in blocks]) for name in names})


@pytest.fixture(scope="module")
def block() -> CriteoBlock:
    return generate(SyntheticConfig(seed=0, cardinality_scale=SCALE), ROWS)


@pytest.fixture(scope="module")
def token_counts(block: CriteoBlock) -> dict[str, npt.NDArray[np.int64]]:
    """Return the counts of the tokens of a feature, in descending order."""
    counts = {}
    for j, name in enumerate(FIELDS[NUM_INTEGERS:]):
        present = ~is_missing(block, name)
        counts[name] = np.sort(np.unique(block.tokens[present, j], return_counts=True)[1])[::-1]
    return counts


def is_missing(block: CriteoBlock, name: str) -> npt.NDArray[np.bool_]:
    return (block.missing >> np.uint64(FIELDS.index(name)) & np.uint64(1)).astype(bool)


def test_fields_are_missing_as_often_as_published_and_together(block: CriteoBlock) -> None:
    for together, count in MISSING_TOGETHER.items():
        first, *others = together.split()
        rate = count / 45_840_617
        error = (rate * (1 - rate) / ROWS) ** 0.5
        assert abs(is_missing(block, first).mean() - rate) <= 5 * error, first
        for other in others:
            assert (is_missing(block, first) == is_missing(block, other)).all(), (first, other)
    named = {name for together in MISSING_TOGETHER for name in together.split()}
    assert not any(is_missing(block, name).any() for name in set(FIELDS) - named)


def test_other_fields_are_missing_independently(block: CriteoBlock) -> None:
    first_of_groups = [together.split()[0] for together in MISSING_TOGETHER]
    missing = {name: is_missing(block, name) for name in first_of_groups}
    for one, two in itertools.combinations(first_of_groups, 2):
        a, b = missing[one], missing[two]
        product = a.mean() * b.mean()
        assert abs((a & b).mean() - product) <= 5 * (product / ROWS) ** 0.5, (one, two)


def test_missing_values_are_zero(block: CriteoBlock) -> None:
    for i, name in enumerate(FIELDS):
        column = block.integers[:, i] if i < NUM_INTEGERS else block.tokens[:, i - NUM_INTEGERS]
        assert not column[is_missing(block, name)].any(), name


def test_click_rate_is_the_published_one(block: CriteoBlock) -> None:
    assert block.probability is not None
    error = (block.probability.var(dtype=np.float64) / ROWS + CALIBRATION_ERROR**2) ** 0.5
    assert abs(block.probability.mean(dtype=np.float64) - CLICK_RATE) <= 5 * error


def test_c1_has_the_published_top_shares() -> None:
    rows = generate(SyntheticConfig(), 200_000)
    share = np.sort(np.unique(rows.tokens[:, 0], return_counts=True)[1])[::-1].cumsum() / len(rows)
    for tokens, published in ((1, 0.5011), (2, 0.6679), (5, 0.8334), (10, 0.9091)):
        assert abs(share[tokens - 1] - published) <= 5 * (published * (1 - published) / len(rows)) ** 0.5


def test_cardinality_is_the_published_one_times_the_scale(
    token_counts: dict[str, npt.NDArray[np.int64]],
) -> None:
    # All tokens of a small vocabulary occur. Of millions that mostly occur once in the source, Poisson draws miss some.
    for name, published in DISTINCT.items():
        cardinality = max(3, round(published * SCALE))
        assert 0.75 * cardinality <= len(token_counts[name]) <= cardinality, name


def test_tail_counts_are_the_published_ones_times_the_scale(
    token_counts: dict[str, npt.NDArray[np.int64]],
) -> None:
    for name, tail in TAILS.items():
        for at_least, published in zip((10, 100, 1000), tail, strict=True):
            expected, seen = published * SCALE, (token_counts[name] >= at_least).sum()
            # Within a fifth, because Poisson draws lift tokens over the lowest count, plus the sampling error.
            assert abs(seen - expected) <= 0.2 * expected + 2 * expected**0.5, (name, at_least)


def test_integers_have_the_published_range_and_mean(block: CriteoBlock) -> None:
    for i, name in enumerate(FIELDS[:NUM_INTEGERS]):
        values = block.integers[~is_missing(block, name), i]
        low, high = INTEGER_RANGE[name]
        mean, sd = INTEGER_MEAN_SD[name]
        assert values.min() == low or name in ("I5", "I9"), name  # their smallest values are rare
        assert values.min() >= low
        assert values.max() <= high
        assert abs(values.mean() - mean) <= 5 * sd / len(values) ** 0.5, name


def test_drawn_integers_follow_the_fit_range_by_range(block: CriteoBlock) -> None:
    for i, marginal in enumerate(marginals.INTEGERS):
        fitted = marginals.fit_integer(marginal)
        values = block.integers[~is_missing(block, FIELDS[i]), i]
        seen = np.bincount(np.searchsorted(fitted.low, values, side="right") - 1, minlength=len(fitted.low))
        expected = fitted.mass * len(values)
        # Six standard errors, for about 5,000 ranges at once, plus one sample for nearly empty ranges.
        assert (np.abs(seen - expected) <= 6 * np.sqrt(expected) + 1).all(), FIELDS[i]


def test_features_depend_on_each_other(block: CriteoBlock) -> None:
    # If two low-cardinality features were independent, joint counts would be products of shares.
    first, second = (np.unique(block.tokens[:, j], return_inverse=True)[1] for j in (8, 16))
    table = np.bincount(3 * first + second).reshape(3, 3)
    independent = table.sum(1, keepdims=True) * table.sum(0) / ROWS
    assert ((table - independent) ** 2 / independent).sum() > 100  # 4 degrees of freedom


def test_labels_are_drawn_from_the_probability(block: CriteoBlock) -> None:
    assert block.probability is not None
    probability = block.probability.astype(np.float64)
    groups = {
        "probability": np.digitize(probability, np.linspace(0.05, 0.95, 19)),
        "missing": np.unique(block.missing & np.uint64(0b1000_0000_1001), return_inverse=True)[1],
        "token": np.unique(block.tokens[:, 8], return_inverse=True)[1],
        "time": np.arange(ROWS) * 10 // ROWS,
    }
    for name, group in groups.items():
        variance = np.bincount(group, probability * (1 - probability))
        excess = np.bincount(group, block.labels - probability)
        assert (np.abs(excess) <= 5 * np.sqrt(variance)).all(), name


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_task_is_about_as_hard_whatever_the_seed(seed: int) -> None:
    rows = generate(SyntheticConfig(seed=seed), 100_000)
    clicked = rows.labels == 1
    ranks = rankdata(rows.probability)
    clicks = clicked.sum()
    auc = (ranks[clicked].sum() - clicks * (clicks + 1) / 2) / (clicks * (len(rows) - clicks))
    assert 0.815 < auc < 0.84


@pytest.mark.parametrize("block_rows", [1, 333, 1000, 5000])
def test_rows_do_not_depend_on_the_block_size_or_the_number_asked_for(block_rows: int) -> None:
    config = SyntheticConfig(seed=3)
    expected = generate(config, 1000)
    rows = generate(config, 1000 if block_rows <= 1000 else 4000, block_rows)
    for name in ("labels", "integers", "tokens", "missing", "probability"):
        np.testing.assert_array_equal(getattr(rows, name)[:1000], getattr(expected, name), err_msg=name)


def test_seeds_share_tokens_but_not_rows_or_effects() -> None:
    one, two = (generate(SyntheticConfig(seed=seed), 20_000) for seed in (1, 2))
    assert not (one.integers == two.integers).all(axis=1).any()
    assert set(one.tokens[:, 8]) == set(two.tokens[:, 8])
    effects = [generator._plant(SyntheticConfig(seed=seed)).tables.effect[20] for seed in (1, 2)]
    assert abs(np.corrcoef(effects)[0, 1]) < 0.5


def test_a_huge_seed_is_a_seed() -> None:
    assert len(generate(SyntheticConfig(seed=2**63 - 1), 10)) == 10


def test_no_token_stands_for_two() -> None:
    ranks = range(0, 10_131_227, 4999)
    tokens = {int(generator._token_value(np.uint32(j), np.uint32(rank))) for j in range(26) for rank in ranks}
    assert tokens == {python_token(j, rank) for j in range(26) for rank in ranks}
    assert len(tokens) == 26 * len(ranks)


def python_token(feature: int, rank: int) -> int:
    x = feature << 27 | rank
    x = (x ^ x >> 16) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ x >> 15) * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


def python_mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


@pytest.mark.oracle
def test_probability_is_that_of_the_planted_model_at_the_emitted_row() -> None:
    """Compute the logit from the sample alone: invert the hash with a table, and sum over pairs in float64."""
    config = SyntheticConfig(seed=5, cardinality_scale=0.0005)
    planted = generator._plant(config)
    rows = generate(config, 60)
    fields = marginals.fit_fields(config.cardinality_scale)
    rank_of = [
        {python_token(j, rank): rank for rank in range(field.low[-1] + field.width[-1])}
        for j, field in enumerate(fields[NUM_INTEGERS:])
    ]

    def code(n: int, f: int) -> int:
        if int(rows.missing[n]) >> f & 1:
            return 511
        token = int(rows.tokens[n, f - NUM_INTEGERS]) if f >= NUM_INTEGERS else 0
        value = rank_of[f - NUM_INTEGERS][token] if f >= NUM_INTEGERS else rows.integers[n, f]
        bin_ = int(np.searchsorted(fields[f].low, value, side="right")) - 1
        if f >= NUM_INTEGERS and fields[f].width[bin_] > 1:
            return 512 + python_mix((int(planted.tables.token_key) + token) % 2**64) % 256
        return bin_

    effect, latent = planted.tables.effect.astype(float), planted.tables.latent.astype(float)
    for n in range(len(rows)):
        codes = [code(n, f) for f in range(len(fields))]
        pairs = itertools.combinations([latent[f, c] for f, c in enumerate(codes)], 2)
        effects = [effect[f, c] for f, c in enumerate(codes)]
        parts = (sum(effects[:NUM_INTEGERS]), sum(effects[NUM_INTEGERS:]), sum(a @ b for a, b in pairs))
        logit = float(np.dot(parts, planted.logit.scale)) + planted.logit.intercept
        # float32 sums of 39 terms whose magnitudes add up to a few hundred
        assert rows.probability[n] == pytest.approx(1 / (1 + np.exp(-logit)), abs=2e-5)


def test_raw_file_holds_the_rows(tmp_path: Path) -> None:
    config = SyntheticConfig(seed=0)
    write_tsv(config, 50, tmp_path / "rows.tsv")
    rows = generate(config, 50)
    lines = (tmp_path / "rows.tsv").read_text().splitlines()
    assert len(lines) == 50
    for n, line in enumerate(lines):
        label, *values = line.split("\t")
        assert int(label) == rows.labels[n]
        for i, text in enumerate(values):
            assert (text == "") == bool(int(rows.missing[n]) >> i & 1)
            if text and i < NUM_INTEGERS:
                assert int(text) == rows.integers[n, i]
            elif text:
                assert int(text, 16) == rows.tokens[n, i - NUM_INTEGERS]


def test_unwritable_raw_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent/rows\.tsv"):
        write_tsv(SyntheticConfig(), 1, tmp_path / "absent" / "rows.tsv")


@pytest.mark.parametrize(("rows", "block_rows"), [(-1, 10), (10, 0)])
def test_counts_out_of_range_are_refused(rows: int, block_rows: int) -> None:
    with pytest.raises(ValueError, match=f"rows {rows} must be at least 0 and block_rows {block_rows}"):
        next(row_blocks(SyntheticConfig(), rows, block_rows=block_rows))


def test_no_rows_make_no_block() -> None:
    assert list(row_blocks(SyntheticConfig(), 0)) == []
