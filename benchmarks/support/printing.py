"""Print the results of benchmarks."""

import json
from collections.abc import Mapping, Sequence


def print_rows(rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Print a JSON list, or one line of names and values per row."""
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{name} {_shown(value)}" for name, value in row.items()))


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
