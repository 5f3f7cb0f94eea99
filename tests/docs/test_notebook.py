"""The notebook runs from its first cell to its last, with a small model that needs no network."""

import json
import re
import shlex
from glob import glob
from pathlib import Path

import pytest
import torch

from transmix.cli import main

pytest.importorskip("timm")

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "folder.ipynb"
SMALL = (
    "--init None --model vit_tiny_patch16_224 --model-options depth=1 embed_dim=48 num_heads=2 --image-size 64 "
    "--epochs 2 --threads 1 --workers 0"
)


def in_python(cell):
    """Return a cell with its commands as calls."""
    return re.sub(r"^!(.*)$", r"command(f'''\1''')", cell, flags=re.MULTILINE)


def command(line):
    """Run a command of the notebook as a shell would."""
    words = [name for word in shlex.split(line) for name in (sorted(glob(word)) if "*" in word else [word])]
    assert words.pop(0) == "transmix"
    assert not main(words), line


def test_every_cell_runs_one_after_the_other(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    cells = [
        "".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"
    ]
    assert sum(cell.count('MORE = ""') for cell in cells) == 1
    names = {"command": command}
    for cell in cells:
        exec(compile(in_python(cell.replace('MORE = ""', f"MORE = {SMALL!r}")), "folder.ipynb", "exec"), names)
    torch.set_num_threads(threads)
    assert Path("predictions.csv").read_text().count("\n") == 11
    assert "new/flower/00.jpg" in Path("predictions.html").read_text()
    assert Path("pair.png").stat().st_size > 10_000
    assert "finetune" in capfd.readouterr().out
    assert names["loss"] > 0


def test_its_outputs_are_not_committed():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
