"""Coverage-guided fuzzing of the Criteo parser against a pure-Python oracle.

    python -m tests.reliability.fuzz [--seconds N] [--corpus DIR]

Requires the extra `fuzz`. The kernels run as Python, so that coverage is visible, at only a hundred files per second. The
corpus keeps inputs that reach new code. At the end, the compiled kernels also process the whole corpus. An input on which
parser and oracle differ is written to the corpus folder as crash-*, and the exit code is nonzero.
"""

import argparse
import os
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

_CORPUS = Path("runs/fuzz")
_SEEDS = 200
_BLOCKS = (64, 97, 1024, 1 << 20)
_LONGEST = 4096  # bytes per input
_FUZZ = "import sys; from tests.reliability.fuzz import fuzz; fuzz(sys.argv[1], int(sys.argv[2]))"
_REPLAY = "import sys; from tests.reliability.fuzz import replay; replay(sys.argv[1])"


def check(data: bytes) -> None:
    """Compare the parser with the oracle. The first byte selects block size and labels.

    Args:
        data: any bytes.

    Raises:
        AssertionError: samples, rejected bytes, or their number differ.
    """
    from dlrm_adahessian.data.criteo.reader import read_rows
    from dlrm_adahessian.data.text.bad_lines import BadLines
    from dlrm_adahessian.errors import DataError
    from tests.data.oracle import may_be_refused, parse, rows_of, source_of

    choice, text = (data[0], data[1:]) if data else (0, b"")
    labels = "optional" if choice & 1 else "required"
    must, may = may_be_refused(text, labels)
    with TemporaryDirectory() as folder:
        rejects = Path(folder) / "rejects.tsv"
        aside = BadLines(rejects)
        try:
            rows = rows_of(
                read_rows(source_of(text), aside, labels=labels, block_bytes=_BLOCKS[choice >> 1 & 3])
            )
        except DataError as error:
            if not may:
                raise AssertionError(f"unexpected error: {error}") from error
            return
        finally:
            aside.close()
        kept = rejects.read_bytes() if rejects.exists() else b""
    expected, bad = parse(text, labels)
    if must or rows != expected or kept != b"".join(bad) or aside.count != len(bad):
        raise AssertionError(f"parser and oracle differ on {data[:200]!r}")


def replay(folder: str) -> None:
    """Check all inputs of a corpus."""
    for path in sorted(Path(folder).iterdir()):
        check(path.read_bytes())


def begin(corpus: Path) -> None:
    """Write the first inputs, which are random files."""
    from tests.data.oracle import random_file

    corpus.mkdir(parents=True, exist_ok=True)
    for number in range(_SEEDS):
        rng = random.Random(number)
        (corpus / f"seed-{number}").write_bytes(bytes([number & 7]) + random_file(rng)[:_LONGEST])


def fuzz(corpus: str, seconds: int) -> None:
    """Fuzz in this process, which libFuzzer ends. numba must not be imported before."""
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    import atheris

    with atheris.instrument_imports(include=["dlrm_adahessian.data"]):
        from dlrm_adahessian.data.criteo import faults, reader, text  # noqa: F401 -- instrumented as they are imported
    flags = [
        f"-max_total_time={seconds}",
        f"-max_len={_LONGEST}",
        f"-artifact_prefix={corpus}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *flags, corpus], check)
    atheris.Fuzz()


def main() -> int:
    """Fuzz in a separate process, then check its corpus with compiled kernels.

    Returns:
        0 if parser and oracle always agreed.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=600, help="seconds of fuzzing")
    parser.add_argument("--corpus", type=Path, default=_CORPUS, help="folder of initial and new inputs")
    args = parser.parse_args()
    if find_spec("atheris") is None:
        parser.error("Fuzzing requires atheris. Run pip install --editable '.[fuzz]'.")
    begin(args.corpus)
    command = [sys.executable, "-c", _FUZZ, str(args.corpus), str(args.seconds)]
    if code := subprocess.run(command, check=False).returncode:
        return code
    done = subprocess.run([sys.executable, "-c", _REPLAY, str(args.corpus)], check=False)
    print(f"{len(list(args.corpus.iterdir()))} inputs checked with compiled kernels: exit {done.returncode}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
