"""A few kills of the long experiment in scripts/chaos.py: it runs, finds no difference, and notices broken restores."""

import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "chaos.py"


def test_killed_at_random_and_resumed_nothing_differs_and_broken_restores_are_noticed(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "6", "--seed", "3", "--log", str(tmp_path / "log.txt")],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "log.txt").read_text() == done.stdout
    assert re.search(r"^6 kills .*, 0 differences, ", done.stdout, flags=re.MULTILINE)
    controls = dict(re.findall(r"^control, (.*?): (.*)$", done.stdout, flags=re.MULTILINE))
    assert controls.pop("whole") == "no difference"
    assert len(controls) == 3
    assert all("step-00000012/" in found for found in controls.values())
