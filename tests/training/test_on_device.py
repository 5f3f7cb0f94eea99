"""A run whose images lie on the device: it trains, resumes to the bit, replays, and refuses what it cannot do."""

import json
import shutil

import pytest
import torch

from transmix.cli import main
from transmix.data import batch_augment
from transmix.recipes import RecipeError, check_recipe, dump_recipe
from transmix.runs.folder import RunError
from transmix.training import batches as loading
from transmix.training import loop, replay
from transmix.training.loop import train
from transmix.training.step import TrainingStep

# 2 epochs of 5 steps of 2 micro-batches; checkpoints at steps 3, 5, 6, 9 and 10.
SETTINGS = {"on_device": True, "rand_augment": None, "checkpoint_every": 3, "accumulate": 2}
CROPS = {"pad": {}, "random-resized": {"crop": "random-resized", "color_jitter": 0.3, "repeats": 2}}


class Died(BaseException):
    """The process is no more: unlike an error, nobody handles it."""


def die_at(monkeypatch, recipe, folder, step):
    """Die between the two micro-batches of a step."""
    inner, calls = TrainingStep.forward, []

    def maybe(self, *rest):
        calls.append(1)
        if len(calls) == 2 * step:
            raise Died
        return inner(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "forward", maybe)
        with pytest.raises(Died):
            train(recipe, folder)


@pytest.mark.parametrize("crop", CROPS)
def test_dead_in_mid_epoch_and_resumed_everything_is_bit_identical_but_with_other_draws(
    crop, chaos, images, small_recipe, tmp_path, monkeypatch
):
    recipe = small_recipe(images, **SETTINGS, **CROPS[crop])
    train(recipe, tmp_path / "undisturbed")
    die_at(monkeypatch, recipe, tmp_path / "run", step=9)
    shutil.copytree(tmp_path / "run", tmp_path / "control")
    torch.manual_seed(77)  # as in a new process, nothing is left of the generator's state
    train(recipe, tmp_path / "run", resume=True)
    assert chaos.differences(tmp_path / "run", tmp_path / "undisturbed") == []
    monkeypatch.setattr(batch_augment, "seed_keys", lambda seed: (seed, 1))
    train(recipe, tmp_path / "control", resume=True)
    assert chaos.differences(tmp_path / "control", tmp_path / "undisturbed") != []


def test_no_loader_is_made_and_the_same_validation_images_count(images, small_recipe, tmp_path, monkeypatch):
    seen = {}
    evaluate = loop.evaluate

    def watched(model, batches, *rest, **more):
        batches = list(batches)
        seen[len(seen)] = torch.cat([images for images, _, _ in batches])
        return evaluate(model, iter(batches), *rest, **more)

    monkeypatch.setattr(loop, "evaluate", watched)
    recipe = {"rand_augment": None, "epochs": 1, "max_steps": 1}
    train(small_recipe(images, **recipe), tmp_path / "loader")
    for name in ("TrainingBatches", "evaluation_batches"):
        monkeypatch.setattr(loading, name, None)
    train(small_recipe(images, on_device=True, **recipe), tmp_path / "device")
    assert len(seen) == 4  # the model and its average, twice
    assert seen[0].shape == (8, 3, 16, 16)
    assert all(seen[0].equal(other) for other in seen.values())


def test_a_replay_makes_the_batches_that_the_run_saw(images, small_recipe, tmp_path, monkeypatch):
    steps, call = [], TrainingStep.__call__

    def watched(self, step, micro_batches, *rest):
        steps.append(micro_batches)
        call(self, step, micro_batches, *rest)

    monkeypatch.setattr(TrainingStep, "__call__", watched)
    runs, finish = [], loop.finish
    monkeypatch.setattr(loop, "finish", lambda run, watch: runs.append(run) or finish(run, watch))
    for name, on_device in (("device", True), ("loader", False)):
        steps.clear()
        train(small_recipe(images, **{**SETTINGS, "on_device": on_device, "max_steps": 3}), tmp_path / name)
        run = runs[-1]
        run.order.start_at(0)
        load = replay._loader(run.recipe, run.data, torch.device("cpu"))
        seen_batches = [batch for micro_batches in steps for batch in micro_batches]
        pairs = [(load(wanted), seen) for wanted, seen in zip(run.order, seen_batches, strict=False)]
        assert len(pairs) == 6
        assert all(one.equal(other) for again, seen in pairs for one, other in zip(again, seen, strict=True))


def test_rand_augment_is_refused_with_what_to_do(images, small_recipe, tmp_path, capsys):
    recipe = small_recipe(images, on_device=True)
    with pytest.raises(RecipeError) as error:
        check_recipe(recipe)
    assert str(error.value) == (
        "on_device augments whole batches, which rand_augment cannot; give --rand-augment None, or leave "
        "--on-device out"
    )
    check_recipe(small_recipe(images, on_device=True, rand_augment=None))
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    assert main(["train", "--recipe", str(file), "--out", str(tmp_path / "run")]) == 2
    assert str(error.value) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    remedy = ["--rand-augment", "None", "--max-steps", "1"]
    assert main(["train", "--recipe", str(file), "--out", str(tmp_path / "run"), *remedy]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["step"] == 1


def test_a_resumed_run_cannot_change_who_augments(images, small_recipe, tmp_path):
    train(small_recipe(images, **SETTINGS, max_steps=1), tmp_path / "run")
    with pytest.raises(RunError, match=r"was trained with other settings: on_device: True -> False\. Resume with"):
        train(small_recipe(images, **{**SETTINGS, "on_device": False}), tmp_path / "run", resume=True)
