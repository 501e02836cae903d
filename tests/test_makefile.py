"""Test that `make setup` reports its steps without pip's output, which it shows only if a step fails."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = """#!/bin/sh
mkdir -p .venv/bin
cat > .venv/bin/pip << 'END'
#!/bin/sh
echo "noise of $*"
[ "$1" != "$FAILS" ] || exit 3
END
chmod +x .venv/bin/pip
"""


@pytest.mark.parametrize("fails", ["", "check"])
def test_setup_says_its_steps_and_how_long_each_took_and_what_failed(fails, tmp_path, monkeypatch):
    monkeypatch.setenv("FAILS", fails)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "packaging" / "fbgemm-gpu").mkdir(parents=True)
    for name in ("pyproject.toml", "packaging/fbgemm-gpu/pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(["make", "setup", "PYTHON=./python"], cwd=tmp_path, capture_output=True, text=True)
    steps = [
        line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line.endswith(" s")
    ]
    assert [*steps[:2], *steps[3:]] == ["an", "torch", "this", *([] if fails else ["whether"])]
    assert ("noise of check" in done.stdout) == bool(fails)
    assert "noise of install" not in done.stdout
    assert (done.returncode == 0) == (tmp_path / ".venv" / "installed").exists() == (not fails)
