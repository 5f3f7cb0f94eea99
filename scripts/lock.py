"""Write requirements.lock: what every extra and the development tools resolve to, as `name==version ; marker` lines.

NVIDIA's packages and triton are left out: torch itself names the ones it needs on each platform, so the lock file
serves Linux with and without a GPU, macOS and ARM.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Made by `make lock`: names, versions and markers alone.\n"
PLATFORM_PACKAGES = re.compile(r"(nvidia|cuda|triton)")


def main() -> None:
    """Resolve with uv for all platforms and write the file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = [requirement for group in project["project"]["optional-dependencies"].values() for requirement in group]
    groups = [requirement for group in project["dependency-groups"].values() for requirement in group]
    wanted = [*project["project"]["dependencies"], *extras, *groups]
    command = ["uv", "pip", "compile", "-", "--universal", "--python-version", "3.11", "--no-annotate", "--no-header"]
    uv = Path(sys.executable).parent / command[0]
    found = subprocess.run([str(uv), *command[1:]], input="\n".join(wanted), capture_output=True, text=True, check=True)
    lines = [line for line in found.stdout.splitlines() if "==" in line and not PLATFORM_PACKAGES.match(line)]
    (ROOT / "requirements.lock").write_text(HEADER + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
