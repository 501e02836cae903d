"""Write docs/licenses.md: the licenses of the packages that the program needs, as each package states its own.

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

The program is licensed under Apache 2.0. It does not include the packages that it needs. pip installs them, each under
the license that the package states. `make licenses` writes this page from the installed packages. On a GPU machine the
page also lists NVIDIA's packages, which torch brings. The `fbgemm-gpu` without a stated license is
`packaging/fbgemm-gpu` of this repository.

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
