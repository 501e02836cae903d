"""Write docs/licenses.md: the licenses of what the program needs to run, as each package states its own.

python docs/licenses.py, or make licenses
"""

import importlib.metadata
import re
from collections.abc import Iterable
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement

_PROGRAM = "dlrm-adahessian"
_HEAD = """# Licenses

The program is under Apache-2.0. It comes without the packages that it needs; pip installs them, each under the license
that it states. `make licenses` writes this page from what is installed: on a GPU machine NVIDIA's packages, which torch
brings, are in it too. The `fbgemm-gpu` that states none is `packaging/fbgemm-gpu` of this repository.

| package | license |
|---|---|
"""


def main() -> None:
    """Write the page."""
    found = needed([_PROGRAM])
    lines = (f"| {name} | {license_of(found[name])} |\n" for name in sorted(found) if name != _PROGRAM)
    Path(__file__).with_name("licenses.md").write_text(_HEAD + "".join(lines), encoding="utf-8")


def needed(names: Iterable[str]) -> dict[str, Distribution]:
    """Return the packages of these names and all that they need in turn, without extras; absent ones are left out."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        asked = map(Requirement, found[name].requires or ())
        waiting += [each.name for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def license_of(package: Distribution) -> str:
    """Return the expression that a package states, or else its classifiers, or the first line of its text."""
    stated = package.metadata
    if expression := stated.get("License-Expression"):
        return expression
    classifiers = [
        each.rpartition(" :: ")[2] for each in stated.get_all("Classifier") or () if "License ::" in each
    ]
    return ", ".join(classifiers) or (stated.get("License") or "not stated").splitlines()[0]


if __name__ == "__main__":
    main()
