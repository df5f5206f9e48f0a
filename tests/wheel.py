"""Build sdist → wheel, install it in an empty environment outside the checkout, and run `lifeline check` there."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command; its output is shown only when it fails."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Fail loudly at the first step that does not work."""
    with tempfile.TemporaryDirectory() as name:
        outside = Path(name)
        run(sys.executable, "-m", "build", "--outdir", outside / "dist", ROOT, cwd=outside)
        (wheel,) = (outside / "dist").glob("*.whl")
        venv.create(outside / "env", with_pip=True)
        python = outside / "env/bin/python"
        run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, cwd=outside)
        print(run(outside / "env/bin/lifeline", "check", cwd=outside), end="")  # noqa: T201 - the result
        print(f"{wheel.name}: installed outside the checkout, declarations found")  # noqa: T201 - the result


if __name__ == "__main__":
    main()
