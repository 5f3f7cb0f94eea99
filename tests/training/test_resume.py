"""Killed in the middle of an epoch and resumed, a run ends with the same bits as one that was never disturbed."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from transmix.recipes import dump_recipe
from transmix.runs.folder import RunError
from transmix.runs.log import read_rows
from transmix.training import loop
from transmix.training.loop import train

KILL_AT = 8  # of 10 steps, 5 an epoch; the newest checkpoint then is that of step 6

VICTIM = f"""
import os, signal, sys
from transmix.recipes import load_recipe
from transmix.training import loop
from transmix.training.step import TrainingStep

step = TrainingStep.__call__

def step_or_die(self, number, *rest, **more):
    if number == {KILL_AT}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, number, *rest, **more)

TrainingStep.__call__ = step_or_die
loop.train(load_recipe(sys.argv[1]), sys.argv[2])
"""


def final_weights(folder):
    return {
        f"{file}/{name}": tensor
        for file in ("model", "ema")
        for name, tensor in load_file(folder / f"{file}.safetensors").items()
    }


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def kill_in_mid_epoch(recipe, folder):
    """Start a run in a process of its own, and kill it with -9 before a step that no checkpoint has seen."""
    file = folder.with_suffix(".yaml")
    file.write_text(dump_recipe(recipe))
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, str(file), str(folder)], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (folder / "summary.json").exists()
    assert sorted(path.name for path in (folder / "checkpoints").glob("step-*"))[-1] == "step-00000006"


@pytest.fixture(scope="module")
def undisturbed(images, small_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    recipe = small_recipe(images, checkpoint_every=3)
    train(recipe, folder)
    return final_weights(folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_in_mid_epoch_and_resumed_the_final_weights_are_bit_identical(
    workers, undisturbed, images, small_recipe, tmp_path
):
    recipe = small_recipe(images, checkpoint_every=3, workers=workers)
    kill_in_mid_epoch(recipe, tmp_path / "run")
    train(recipe, tmp_path / "run", resume=True)
    assert same(final_weights(tmp_path / "run"), undisturbed)
    rows = [(row["kind"], row["step"]) for row in read_rows(tmp_path / "run" / "metrics.jsonl")]
    reads = [("train", step) for step in (2, 3, 4, 5, 6, 8, 9, 10)]
    assert rows == [*reads[:4], ("epoch", 5), *reads[4:], ("epoch", 10)]  # no line twice, none missing


@pytest.fixture(scope="module")
def stopped_in_mid_epoch(images, small_recipe, tmp_path_factory):
    """Give a function that makes a run stopped after 7 of 10 steps and resumes it."""

    def stop_and_resume(name):
        folder = tmp_path_factory.mktemp("stopped") / name
        train(small_recipe(images, checkpoint_every=3, max_steps=7), folder)
        train(small_recipe(images, checkpoint_every=3), folder, resume=True)
        return final_weights(folder)

    return stop_and_resume


def test_stopped_and_resumed_in_one_process_is_bit_identical_too(stopped_in_mid_epoch, undisturbed):
    torch.manual_seed(77)
    assert same(stopped_in_mid_epoch("plain"), undisturbed)


def test_without_the_generators_state_the_resumed_run_differs(stopped_in_mid_epoch, undisturbed, monkeypatch):
    monkeypatch.setattr(loop, "set_random_state", lambda state, device: None)
    assert not same(stopped_in_mid_epoch("no generator"), undisturbed)


def test_without_the_position_in_the_epoch_the_resumed_run_differs(stopped_in_mid_epoch, undisturbed, monkeypatch):
    start_at = loop.EpochOrder.start_at
    monkeypatch.setattr(loop.EpochOrder, "start_at", lambda order, epoch, first_step: start_at(order, epoch, 0))
    assert not same(stopped_in_mid_epoch("no position"), undisturbed)


def test_without_the_optimizers_state_the_resumed_run_differs(stopped_in_mid_epoch, undisturbed, monkeypatch):
    from transmix.training import snapshot

    monkeypatch.setattr(snapshot, "load_optimizer_tensors", lambda *_: None)
    assert not same(stopped_in_mid_epoch("no optimizer"), undisturbed)


def test_a_damaged_newest_checkpoint_is_left_out_and_the_older_one_used(images, small_recipe, tmp_path, capsys):
    recipe = small_recipe(images, checkpoint_every=3)
    train(small_recipe(images, checkpoint_every=3, max_steps=7), tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-00000007" / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(bytes(data))
    summary = train(recipe, tmp_path / "run", resume=True)
    assert summary["finished"]
    said = capsys.readouterr().out
    assert "left out a checkpoint" in said
    assert "going on from step 6" in said


def test_resuming_on_data_that_has_grown_is_refused(images, small_recipe, tmp_path):
    grown = tmp_path / "images"
    shutil.copytree(images, grown)
    train(small_recipe(grown, max_steps=3), tmp_path / "run")
    shutil.copy(grown / "train" / "dark" / "000.png", grown / "train" / "dark" / "zzz.png")
    with pytest.raises(RunError, match=r"had 40 training images when .* was trained, now 41"):
        train(small_recipe(grown), tmp_path / "run", resume=True)
