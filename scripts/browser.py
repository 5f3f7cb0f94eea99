"""Find a Chromium for the tests that open pages, or install one: the system's package, else Playwright's download."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BY_HAND = "install Chromium by hand, for example: apt-get install chromium"


def find() -> str | None:
    """Return the path of the system's Chromium, or of Playwright's."""
    if path := next(filter(None, map(shutil.which, NAMES)), None):
        return path
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def ways() -> list[list[list[str]]]:
    """Return commands that install one, the better way first."""
    playwright = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if shutil.which("apt-get") is None:
        return [playwright]
    may = [] if os.geteuid() == 0 else ["sudo", "-n"]
    apt = [[*may, "apt-get", "update", "-qq"], [*may, "apt-get", "install", "-y", "-qq", "chromium"]]
    return [apt, playwright]


def main() -> int:
    """Print where a Chromium is, after installing one if there is none."""
    if not (path := find()):
        for commands in ways():
            try:
                for command in commands:
                    print(*command, file=sys.stderr)
                    subprocess.run(command, check=True, stdout=sys.stderr, timeout=600)
            except (OSError, subprocess.SubprocessError) as error:
                print(f"that failed: {error}", file=sys.stderr)
            if path := find():
                break
    print(path or f"no Chromium could be installed; tests that open pages will be skipped; {BY_HAND}")
    return 0 if path else 1


if __name__ == "__main__":
    sys.exit(main())
