"""The dense head as a program of torch.export, for runtimes that read one.

It is checked here as it would be read again. Nothing of ours reads the file: torch unpickles parts of it (ADR 9).
"""

import copy
import io

import torch

from dlrm_adahessian.data.schema import NUM_INTEGERS
from dlrm_adahessian.errors import CheckpointError
from dlrm_adahessian.metrics.binary import probability_from_logit
from dlrm_adahessian.model.dlrm import Head

BOUND = 1e-6
"""How far two float32 computations of a probability may be apart."""


def head_program(head: Head, *, features: int, dim: int) -> bytes:
    """Return the file: (B, 13) dense inputs and (B, F, D) pooled rows to (B,) logits, for any B.

    Args:
        head: float32, on the CPU.
        features: F.
        dim: D.

    Returns:
        What `torch.export.save` writes.

    Raises:
        CheckpointError: read again, it predicts something else than `head`.
    """
    generator = torch.Generator().manual_seed(0)

    def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        dense = torch.rand(rows, NUM_INTEGERS, generator=generator)
        return 10 * dense, torch.randn(rows, features, dim, generator=generator)

    alone = copy.deepcopy(head)
    for parameter in alone.parameters():
        parameter.data = (
            parameter.data.clone()
        )  # in training they are parts of one vector, which torch warns of
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(alone, inputs(3), dynamic_shapes=({0: batch}, {0: batch}))
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        buffer.seek(0)
        again = torch.export.load(buffer).module()  # bytes that this process made: their pickles are ours
        for given in (inputs(1), inputs(100)):
            ours, theirs = (probability_from_logit(f(*given).numpy()) for f in (head, again))
            if abs(ours - theirs).max() > BOUND:
                raise CheckpointError(
                    f"an exported head must predict as the checkpoint's to {BOUND}, and is off by "
                    f"{abs(ours - theirs).max():.1e}; install the version of torch that the program asks for"
                )
    return buffer.getvalue()
