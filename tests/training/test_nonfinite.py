"""Steps that are not finite: skipped on the device, counted, reported or stopped at, dumped and replayed."""

import json

import pytest
import torch
from safetensors.torch import load_file

from transmix import distributed
from transmix.cli import main
from transmix.data.loader import TrainingSamples
from transmix.runs.checkpoint import load_checkpoint
from transmix.runs.log import read_rows
from transmix.training.loop import train
from transmix.training.step import NotFinite, NotFiniteError, TrainingStep

ALONE = distributed.World(0, 1, 1, torch.device("cpu"))


def counted(pattern, stays, reads=()):
    """Go through steps ("x": bad), reading after some; give which were held, and the reads."""
    counter, held, found = NotFinite(torch.device("cpu"), stays), "", []
    for step, kind in enumerate(pattern, 1):
        held += "x" if counter.skip(step, torch.tensor(kind == "x")) else "."
        if step in reads:
            found.append(counter.read(ALONE))
    return held, [*found, counter.read(ALONE)]


def test_bad_steps_are_held_and_counted():
    assert counted("..x.xx..", stays=False) == ("..x.xx..", [(3, 3, 2)])


def test_where_training_is_to_stop_all_that_follows_is_held_too():
    assert counted("..x.xx..", stays=True) == ("..xxxxxx", [(1, 3, 1)])


def test_a_row_goes_on_over_a_read():
    assert counted(".xx" + "xx.", stays=False, reads=(3,))[1] == [(2, 2, 2), (2, 4, 4)]
    assert counted(".xx" + ".x.", stays=False, reads=(3,))[1] == [(2, 2, 2), (1, 5, 2)]


def test_nothing_bad_counts_nothing():
    assert counted("....", stays=True) == ("....", [(0, 0, 0)])


def poison(monkeypatch, steps):
    """Make the loss of these steps (counted from 1) not a number."""
    forward, call = TrainingStep.forward, TrainingStep.__call__
    now = []

    def at(self, number, *rest, **more):
        now[:] = [number + 1]
        return call(self, number, *rest, **more)

    def poisoned(self, *about):
        return forward(self, *about) * (float("nan") if now and now[0] in steps else 1.0)

    monkeypatch.setattr(TrainingStep, "__call__", at)
    monkeypatch.setattr(TrainingStep, "forward", poisoned)


def test_it_stops_with_the_step_its_images_and_what_replays_it(images, small_recipe, tmp_path, monkeypatch):
    recipe, folder = small_recipe(images, log_every=4), tmp_path / "run"
    plain = tmp_path / "plain"
    train(small_recipe(images, log_every=4, max_steps=2), plain)
    poison(monkeypatch, {3})
    with pytest.raises(NotFiniteError) as error:
        train(recipe, folder)
    dump = load_checkpoint(folder / "nonfinite" / "step-00000003")
    samples = [index for rank in dump.state["samples"] for index in rank]
    paths = sorted((images / "train").rglob("*.png"))  # dark, then light
    named = ", ".join(str(paths[index]) for index in samples[:3])
    assert str(error.value) == (
        f"loss or gradient was not finite at step 3 (epoch 1; training images {named} and 5 more); it was "
        f"skipped. transmix replay {folder} runs it again and says where. Train anew (another --out) with a lower "
        f"learning rate, clipped gradients, or bf16 instead of fp16; or --resume with --on-nonfinite skip"
    )
    # step 4 was skipped as well: weights and optimizer are those that step 3 started from
    before = load_file(plain / "model.safetensors")
    assert all(dump.tensors["model"][name].equal(tensor) for name, tensor in before.items())
    assert not (folder / "checkpoints").exists()


def test_the_images_it_names_are_those_the_step_saw(images, small_recipe, tmp_path, monkeypatch):
    seen, readable = [], TrainingSamples.readable
    monkeypatch.setattr(
        TrainingSamples,
        "readable",
        lambda self, epoch, index, *read: seen.append(index) or readable(self, epoch, index, *read),
    )
    poison(monkeypatch, {7})
    with pytest.raises(NotFiniteError):
        train(small_recipe(images, accumulate=2, log_every=1), tmp_path / "run")
    named = json.loads((tmp_path / "run" / "nonfinite" / "step-00000007" / "state.json").read_text())["samples"]
    assert named == [seen[6 * 8 : 7 * 8]]


@pytest.mark.parametrize(("steps", "ends"), [({3}, True), ({3, 4}, True), ({2, 3, 4}, False), ({2, 4, 6, 8}, True)])
def test_skipping_goes_on_up_to_so_many_in_a_row(steps, ends, images, small_recipe, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, steps)
    recipe = small_recipe(images, on_nonfinite="skip", max_nonfinite=2, log_every=1)
    if ends:
        train(recipe, tmp_path / "run")
        rows = read_rows(tmp_path / "run" / "metrics.jsonl")
        assert {row["step"] for row in rows if row.get("held_back")} == steps
        assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run" / "ema.safetensors").values())
        assert f"skipped 1 steps that were not finite, the first at step {min(steps)}" in capsys.readouterr().out
    else:
        with pytest.raises(NotFiniteError) as error:
            train(recipe, tmp_path / "run")
        assert str(error.value) == (
            "loss or gradient was not finite in 3 steps in a row, up to step 4; max_nonfinite allows 2. All were "
            "skipped; --resume continues from the last checkpoint"
        )


def test_a_held_back_step_changes_neither_weights_nor_average_nor_optimizer(
    images, small_recipe, tmp_path, monkeypatch
):
    settings = {"on_nonfinite": "skip", "log_every": 1, "checkpoint_every": 1, "keep_checkpoints": 9, "max_steps": 4}
    poison(monkeypatch, {3})
    train(small_recipe(images, **settings), tmp_path / "run")
    two, three, four = (load_checkpoint(tmp_path / "run" / "checkpoints" / f"step-{n:08d}").tensors for n in (2, 3, 4))
    for kind in ("model", "ema", "optimizer"):
        assert all(three[kind][name].equal(tensor) for name, tensor in two[kind].items())
    assert not all(four["model"][name].equal(tensor) for name, tensor in three["model"].items())


def test_replay_says_which_module_and_which_images(images, small_recipe, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    poison(monkeypatch, {3})
    with pytest.raises(NotFiniteError):
        train(small_recipe(images, log_every=1), folder)
    monkeypatch.undo()
    assert main(["replay", str(folder)]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    start, named = said.split("; everything is finite in this run of it; its training images: ")  # no poison in it
    files = {str(path) for path in (images / "train").rglob("*.png")}
    assert start.startswith("step 3, process 0, micro-batch 0: loss ")
    assert set(named.split(", ")) <= files
    assert len(named.split(", ")) == 8
    dump = folder / "nonfinite" / "step-00000003"
    tensors = load_checkpoint(dump)
    tensors.tensors["model"]["blocks.1.mlp.fc1.bias"][0] = float("inf")
    from transmix.runs.checkpoint import Checkpoint, save_checkpoint

    save_checkpoint(folder / "nonfinite", Checkpoint(tensors.tensors, tensors.state | {"step": 4}, {}))
    assert main(["replay", str(folder)]) == 0
    weights, said = capsys.readouterr().out.split("\n", 1)
    assert weights == f"weights: as trained, as step 4 found them ({folder / 'nonfinite' / 'step-00000004'})"
    assert said.startswith("step 4, process 0, micro-batch 0: loss nan; the output of blocks.1.mlp.fc1 is the first")
    numbers = json.loads((dump / "state.json").read_text())["samples"][0]
    named = said.split("for training images ")[1].split("\n")[0].split("; ")[0].split(", ")
    assert len(named) == len(numbers)
    assert set(named) <= files


def test_replay_of_a_run_that_was_always_finite_is_refused(images, small_recipe, tmp_path, capsys):
    train(small_recipe(images, max_steps=1), tmp_path / "run")
    assert main(["replay", str(tmp_path / "run")]) == 2
    assert "holds no step to replay (nonfinite/)" in capsys.readouterr().err


def test_a_run_that_stopped_goes_on_where_it_is_told_to_skip(images, small_recipe, tmp_path, monkeypatch):
    poison(monkeypatch, {7})
    with pytest.raises(NotFiniteError):
        train(small_recipe(images), tmp_path / "run")
    summary = train(small_recipe(images, on_nonfinite="skip"), tmp_path / "run", resume=True)
    assert summary["finished"]
    assert any(row.get("held_back") for row in read_rows(tmp_path / "run" / "metrics.jsonl"))
