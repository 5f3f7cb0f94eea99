"""Two processes under torchrun, on the CPU with gloo."""

import json
import subprocess
import sys

import torch
from safetensors.torch import load_file

from transmix.recipes import dump_recipe


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "transmix"]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_processes_train_evaluate_and_write_one_run(images, small_recipe, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    # 8 validation images over 2 processes; mixing, augmentation and drop path on, one micro-batch of 4 each
    recipe.write_text(dump_recipe(small_recipe(images, max_steps=6)))
    said = torchrun("train", "--recipe", recipe, "--out", tmp_path / "run")
    assert said.count("epoch 1/2") == 1  # the first process talks, the other does not
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["step"] == 6
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2
    newest = tmp_path / "run" / "checkpoints" / "step-00000006"
    states = [load_file(newest / f"random-{rank}.safetensors")["cpu"] for rank in (0, 1)]
    assert not torch.equal(*states)  # dropout differs between processes
    with (tmp_path / "run" / "confusion.csv").open() as file:
        counts = [int(cell) for line in file.readlines()[1:] for cell in line.split(",")[1:]]
    assert sum(counts) == 8
