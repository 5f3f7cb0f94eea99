"""Four kills at random moments by the script itself, and what its comparison and its report must not miss."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from transmix.runs.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from transmix.training.loop import train

WITHOUT_BOXES = f"""
import sys
from matplotlib.figure import Figure
from transmix.visual import pairs as pictures
pictures.mixed_batch_figure = lambda *_, **__: Figure((1, 1))  # drawing them takes longer than the run
sys.path.insert(0, {str(Path(__file__).resolve().parents[2] / "scripts")!r})
import chaos
sys.exit(chaos.main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forked")
def test_runs_killed_at_random_moments_end_with_the_same_bits(warm_python, tmp_path):
    # A process of its own: a fork must not inherit this one's threads.
    command = [warm_python, "-c", WITHOUT_BOXES, "--kills", "4", "--seed", "1", "--log", str(tmp_path / "log.txt")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = (tmp_path / "log.txt").read_text()
    assert done.stdout.startswith(said)
    assert "control, whole: no difference" in said
    assert len(re.findall("^control, .*: step-00000018/", said, re.MULTILINE)) == 3
    assert re.search(r"^4 kills .* 4 resumes, 0 differences", said, re.MULTILINE)


@pytest.fixture(scope="module")
def expected(images, small_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected") / "run"
    train(small_recipe(images, checkpoint_every=3), folder)
    return folder


def rewrite_checkpoint(folder, change, which=-1):
    newest = list_checkpoints(folder / "checkpoints")[which]
    checkpoint = load_checkpoint(newest)
    change(checkpoint)
    shutil.rmtree(newest)
    save_checkpoint(newest.parent, checkpoint)


def flip(tensors):
    """Change the last bit of one number."""
    one = next(tensor for tensor in tensors.values() if tensor.numel())
    one.reshape(-1).view(torch.uint8)[0] ^= 1


def edit(folder, name, change):
    path = folder / name
    path.write_text(change(path.read_text()))


def flip_file(folder, name):
    tensors = load_file(folder / name)
    flip(tensors)
    save_file(tensors, folder / name)


def last_line_twice(text):
    return text + text.splitlines()[-1] + "\n"


def another_best(text):
    summary = json.loads(text)
    summary["best"]["epoch"] += 1
    return json.dumps(summary)


CHANGES = {
    "model": lambda run: rewrite_checkpoint(run, lambda one: flip(one.tensors["model"])),
    "ema": lambda run: rewrite_checkpoint(run, lambda one: flip(one.tensors["ema"])),
    "optimizer": lambda run: rewrite_checkpoint(run, lambda one: flip(one.tensors["optimizer"])),
    "random-0": lambda run: rewrite_checkpoint(run, lambda one: flip(one.tensors["random-0"])),
    "other files": lambda run: rewrite_checkpoint(run, lambda one: one.tensors.pop("ema")),
    "state: best": lambda run: rewrite_checkpoint(run, lambda one: one.state.update(best=None)),
    "state: reads": lambda run: rewrite_checkpoint(run, lambda one: one.state.update(reads=[1])),
    "state: scaler": lambda run: rewrite_checkpoint(run, lambda one: one.state.update(scaler={"scale": 2.0})),
    "the newest checkpoint is": lambda run: shutil.rmtree(run / "checkpoints" / "step-00000010"),
    "damaged-step-00000003 is there": lambda run: (run / "checkpoints" / "damaged-step-00000003").mkdir(),
    "is damaged": lambda run: (run / "checkpoints" / "step-00000010" / "state.json").unlink(),
    "model.safetensors: ": lambda run: flip_file(run, "model.safetensors"),
    "ema.safetensors cannot be read": lambda run: (run / "ema.safetensors").unlink(),
    "examples/epoch-0001.safetensors": lambda run: flip_file(run, "examples/epoch-0001.safetensors"),
    "summary.json: best": lambda run: edit(run, "summary.json", another_best),
    "metrics.jsonl differs: 11 lines, not 10": lambda run: edit(run, "metrics.jsonl", last_line_twice),
    "metrics.jsonl differs: 9 lines, not 10": lambda run: edit(
        run, "metrics.jsonl", lambda text: text.partition("\n")[2]
    ),
    "metrics.jsonl cannot be read": lambda run: edit(run, "metrics.jsonl", lambda text: text[:-9]),
    "metrics.csv differs": lambda run: edit(run, "metrics.csv", last_line_twice),
    "confusion.csv differs": lambda run: edit(run, "confusion.csv", lambda text: text.replace("dark", "dusk")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_is_a_difference(what, chaos, expected, tmp_path):
    shutil.copytree(expected, tmp_path / "run")
    assert chaos.differences(tmp_path / "run", expected) == []
    CHANGES[what](tmp_path / "run")
    found = chaos.differences(tmp_path / "run", expected)
    part = what.replace("state: ", "/state: ")
    assert any(part in one for one in found), found


def test_times_are_no_difference(chaos, expected, tmp_path):
    shutil.copytree(expected, tmp_path / "run")
    rate = json.loads((expected / "summary.json").read_text())["last"]["images_per_second"]
    for name in ("summary.json", "metrics.jsonl", "metrics.csv"):
        edit(tmp_path / "run", name, lambda text: text.replace(str(rate), "0.5"))
    assert chaos.differences(tmp_path / "run", expected) == []


def test_the_report_says_what_differs_and_fails(chaos):
    whole = chaos.Outcome(runs=1, resumes=1)
    whole.kills["checkpoint save", 2] += 3
    lines, code = chaos.report(whole, [1, 2], 1.0)
    assert code == 0
    assert "checkpoint save                    0             3" in lines
    for changes, line in (
        ({"problems": ["run-3: ema differs"]}, "difference: run-3: ema differs"),
        ({"unseen": ["optimizer not put back"]}, "not noticed: optimizer not put back"),
    ):
        lines, code = chaos.report(chaos.Outcome(**changes), [1, 2], 1.0)
        assert code == 1
        assert line in lines
