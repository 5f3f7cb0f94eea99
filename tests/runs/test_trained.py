"""Whole runs whose disk fails or that are asked for more epochs go on, or stop with one line, and lose nothing."""

import errno
import json
import os
import shutil

import pytest
from safetensors.torch import load_file

from transmix.cli import main
from transmix.recipes import dump_recipe
from transmix.runs import checkpoint
from transmix.runs.error import RunError
from transmix.runs.log import read_rows
from transmix.training.loop import train


def weights(folder):
    return {
        name: tensor for file in ("model", "ema") for name, tensor in load_file(folder / f"{file}.safetensors").items()
    }


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@pytest.fixture(scope="module")
def undisturbed(images, small_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train(small_recipe(images), folder)
    return folder


def full_at(monkeypatch, *steps):
    """Let the disk be full whenever one of these steps is saved."""
    save_file = checkpoint.save_file

    def save(tensors, path, metadata=None):
        if any(f"step-{step:08d}" in str(path) for step in steps):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save_file(tensors, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", save)
    return lambda: monkeypatch.setattr(checkpoint, "save_file", save_file)


def test_a_run_goes_on_when_a_save_fails_ends_with_one_line_when_the_last_does_and_resumes_to_the_same_bits(
    undisturbed, images, small_recipe, tmp_path, monkeypatch, capsys
):
    file, run = tmp_path / "recipe.yaml", tmp_path / "run"
    file.write_text(dump_recipe(small_recipe(images, checkpoint_every=4)))
    free = full_at(monkeypatch, 4, 10)
    assert main(["train", "--recipe", str(file), "--out", str(run)]) == 1
    said = capsys.readouterr()
    assert [line for line in said.out.splitlines() if line.startswith("warning")] == [
        f"warning: step 4 is not saved: cannot write {run}/checkpoints/step-00000004: No space left on device "
        f"(free some space there). There is no good checkpoint. Training continues"
    ]
    assert said.err.splitlines() == [
        f"transmix: step 10 is not saved: cannot write {run}/checkpoints/step-00000010: No space left on device "
        f"(free some space there). The newest good checkpoint is step-00000008. "
        f"--resume continues from the last good checkpoint"
    ]
    assert not (run / "summary.json").exists()
    free()
    assert main(["train", "--recipe", str(file), "--out", str(run), "--resume"]) == 0
    assert same(weights(run), weights(undisturbed))
    rows = [[(row["kind"], row["step"]) for row in read_rows(of / "metrics.jsonl")] for of in (run, undisturbed)]
    assert rows[0] == rows[1]


def test_a_run_folder_that_disappears_stops_the_run_with_one_line(images, small_recipe, tmp_path, monkeypatch):
    from transmix.training.step import TrainingStep

    step = TrainingStep.__call__

    def remove(self, number, *rest, **more):
        if number == 6:
            shutil.rmtree(tmp_path / "run")
        return step(self, number, *rest, **more)

    monkeypatch.setattr(TrainingStep, "__call__", remove)
    with pytest.raises(
        RunError, match=rf"^cannot write {tmp_path}/run/metrics\.jsonl: No such file or directory"
    ) as caught:
        train(small_recipe(images), tmp_path / "run")
    assert caught.value.code == 1
    assert not (tmp_path / "run").exists()


def test_a_finished_run_goes_on_for_more_epochs_and_says_what_that_means(
    undisturbed, images, small_recipe, tmp_path, capsys
):
    shutil.copytree(undisturbed, tmp_path / "run")
    summary = train(small_recipe(images, epochs=3), tmp_path / "run", resume=True)
    assert (summary["step"], summary["finished"]) == (15, True)
    said = capsys.readouterr().out
    assert "epochs: 2 -> 3; from here on the learning rate follows the longer schedule" in said.splitlines()
    assert "going on from step 10" in said
    epochs = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "epoch"]
    assert [row["epoch"] for row in epochs] == [1, 2, 3]
    before = [row for row in read_rows(undisturbed / "metrics.jsonl") if row["kind"] == "epoch"]
    assert epochs[:2] == before
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
