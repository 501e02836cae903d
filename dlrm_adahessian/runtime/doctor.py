"""Check that torch, torchrec and fbgemm fit together: FBGEMM's minor version must match torch's, or it fails to load."""

import importlib
import importlib.metadata

_TRIPLE = {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0"}


def diagnose() -> tuple[bool, str]:
    """Look at the installed versions and load them.

    Returns:
        Whether all is well, and what to tell the user, with the remedy where it is not.
    """
    lines: list[str] = []
    healthy = True
    for name, wanted in _TRIPLE.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        good = found.partition("+")[0] == wanted
        healthy &= good
        lines.append(f"{name:<12}{found:<14}{'ok' if good else f'needs {wanted}: run make setup'}")
    for module in ("torch", "fbgemm_gpu", "torchrec"):
        try:
            importlib.import_module(module)
        except (ImportError, OSError, AttributeError) as error:
            healthy = False
            lines.append(f"{module} does not load: {error}; remove .venv and run make setup")
    lines.append("all is well" if healthy else "this installation will not train; see above")
    return healthy, "\n".join(lines)
