"""Check what the program's models declare about their parts, and the table in docs/mathematics.md.

`python -m tests.curvature.test_models` prints the table.
"""

from pathlib import Path

import pytest
import torch

from dlrm_adahessian.curvature.check import measured
from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.model.config import DCNv2Config, DeepFMConfig, DLRMConfig, ModelConfig
from dlrm_adahessian.model.registry import new_head
from tests.curvature.heads import (
    BATCH,
    DENSE,
    FEATURES,
    WIDTH,
    batch,
    gauss_newton_diagonals,
    hessian_diagonals,
)

pytestmark = pytest.mark.oracle
MODELS: dict[str, ModelConfig] = {
    "DLRM (ReLU)": DLRMConfig(embedding_dim=WIDTH, bottom=(4,), top=(4,)),
    "DLRM, GELU": DLRMConfig(embedding_dim=WIDTH, bottom=(4,), top=(4,), activation="gelu"),
    "DLRM, SiLU": DLRMConfig(embedding_dim=WIDTH, bottom=(4,), top=(4,), activation="silu"),
    "DLRM, self-interaction": DLRMConfig(embedding_dim=WIDTH, bottom=(4,), top=(4,), self_interaction=True),
    "DeepFM (ReLU)": DeepFMConfig(embedding_dim=WIDTH, deep=(4,)),
    "DCN V2 (ReLU)": DCNv2Config(embedding_dim=WIDTH, deep=(4,)),
    "DCN V2, rank 2, parallel": DCNv2Config(embedding_dim=WIDTH, deep=(4,), rank=2, structure="parallel"),
}
"""Models by their name in the table."""
PARTS = ("weights", "pooled")
PAGE = Path(__file__).parents[2] / "docs" / "mathematics.md"


def small(cfg: ModelConfig):
    generator = torch.Generator().manual_seed(2)
    return new_head(cfg, num_dense=DENSE, num_features=FEATURES, generator=generator, dtype=torch.float64)


def relative(found, expected) -> float:
    return float((found - expected).norm() / expected.norm())


def rows() -> dict[str, dict[str, tuple[str, float]]]:
    """Return, by model and part, the matrix and the relative distance of its diagonal from the Hessian's."""
    found = {}
    for name, cfg in MODELS.items():
        head, (dense, pooled, labels) = small(cfg), batch()
        estimator = ExactDiagonal(kind="gauss_newton", parts=head.parts)
        derivatives = estimator(head, dense, pooled, labels, curvature_samples=BATCH)
        of_pass = derivatives.curvature, derivatives.pooled_curvature
        of_hessian = hessian_diagonals(head, dense, pooled, labels)
        of_gauss_newton = gauss_newton_diagonals(head, dense, pooled)
        for mine, expected in zip(of_pass, of_gauss_newton, strict=True):
            assert relative(mine, expected) < 1e-12, name
        distances = map(relative, of_pass, of_hessian)
        found[name] = {
            part: (getattr(head.parts, part), distance)
            for part, distance in zip(PARTS, distances, strict=True)
        }
    return found


def cell(kind: str, distance: float) -> str:
    return (
        f"Hessian, {distance:.0e}"
        if kind == "hessian"
        else f"Gauss-Newton; the Hessian's is {distance:.0%} away"
    )


@pytest.mark.parametrize("cfg", MODELS.values(), ids=MODELS)
def test_a_models_parts_are_what_is_measured(cfg):
    head, (dense, pooled, _) = small(cfg), batch()
    assert measured(head, dense, pooled).parts == head.parts


def test_the_table_of_the_docs_is_what_the_models_are():
    lines = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("| D")]
    told = {line[0].strip(): [part.strip() for part in line[1:]] for line in lines}
    assert told.keys() == MODELS.keys()
    for name, parts in rows().items():
        for said, (kind, distance) in zip(told[name], parts.values(), strict=True):
            if kind == "hessian":  # rounding errors depend on the machine
                of_docs = float(said.removeprefix("Hessian, "))
                assert distance < 10 * of_docs < 1e-12, name
            else:
                assert said == cell(kind, distance), name


if __name__ == "__main__":
    print("| model | weights and biases | pooled embeddings |\n|---|---|---|")
    for name, parts in rows().items():
        print(f"| {name} | {' | '.join(cell(*parts[part]) for part in PARTS)} |")
