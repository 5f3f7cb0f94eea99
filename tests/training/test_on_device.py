"""A run whose images lie on the device, or are augmented there: it trains, resumes to the bit, and replays."""

import shutil

import pytest
import torch

from transmix.cli import main
from transmix.data import batch_augment
from transmix.data.bad_images import BadImages
from transmix.data.device_batches import AugmentedBatches, DeviceAugmentation
from transmix.data.settings import Augmentation
from transmix.data.source import load_data
from transmix.distributed import World
from transmix.recipes import dump_recipe
from transmix.runs.folder import RunError, read_recipe
from transmix.training import batches as loading
from transmix.training import loop, replay
from transmix.training.loop import train
from transmix.training.step import TrainingStep

# 2 epochs of 5 steps of 2 micro-batches; checkpoints at steps 3, 5, 6, 9 and 10.
SETTINGS = {"on_device": True, "rand_augment": None, "checkpoint_every": 3, "accumulate": 2}
STREAM = {"on_device": False, "augment_on": "device", "rand_augment": "rand-m9-mstd0.5-inc1"}
KINDS = {
    "pad": {"rand_augment": STREAM["rand_augment"]},
    "random-resized": {"crop": "random-resized", "color_jitter": 0.3, "repeats": 2},
    "stream": STREAM | {"crop": "random-resized", "repeats": 2},
}


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


@pytest.mark.parametrize("kind", KINDS)
def test_dead_in_mid_epoch_and_resumed_everything_is_bit_identical_but_with_other_draws(
    kind, chaos, images, small_recipe, tmp_path, monkeypatch
):
    recipe = small_recipe(images, **SETTINGS | KINDS[kind])
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
    for name, change in (("device", {}), ("loader", {"on_device": False}), ("stream", STREAM)):
        steps.clear()
        train(small_recipe(images, **SETTINGS | change, max_steps=3), tmp_path / name)
        run = runs[-1]
        run.order.start_at(0)
        load = replay._loader(run.recipe, run.data, torch.device("cpu"))
        seen_batches = [batch for micro_batches in steps for batch in micro_batches]
        pairs = [(load(wanted), seen) for wanted, seen in zip(run.order, seen_batches, strict=False)]
        assert len(pairs) == 6
        assert all(one.equal(other) for again, seen in pairs for one, other in zip(again, seen, strict=True))


def test_a_policy_that_batches_lack_is_refused_before_the_run_is_made(images, small_recipe, tmp_path, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(small_recipe(images, rand_augment="rand-m9-t3a")))
    for asked in (["--on-device"], ["--augment-on", "device"]):
        assert main(["train", "--recipe", str(file), "--out", str(tmp_path / "run"), *asked]) == 2
        assert "rand_augment 'rand-m9-t3a' has the operation Desaturate, which batches" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_masks_move_with_images_that_the_device_augments(with_masks, small_recipe, tmp_path, monkeypatch):
    seen, forward = [], TrainingStep.forward
    watched = lambda self, step, micro, *batch: seen.append(batch) or forward(self, step, micro, *batch)  # noqa: E731
    monkeypatch.setattr(TrainingStep, "forward", watched)
    black = {"mean": (0.0, 0.0, 0.0), "mix": "objectmix", "random_erasing": 0.0, "max_steps": 3}
    train(small_recipe(with_masks, **STREAM | black), tmp_path / "run")
    white, foreground = (torch.cat(one) for one in zip(*[(i[:, 0] >= 128, f) for i, _, f in seen], strict=True))
    assert foreground.shape == (24, 16, 16)

    def shown(masks):
        """Images that show a mask, or its negative where colours were inverted."""
        same = (white == masks).flatten(1).double().mean(1)
        return int((torch.maximum(same, 1 - same) > 0.97).sum())

    assert shown(foreground) > 12  # of the others a colour went past the half
    assert shown(foreground.roll(1, 0)) < 6


def test_a_gpu_gets_the_rest_of_the_augmentation_compiled_where_the_model_is(images, small_recipe, monkeypatch):
    asked, on_cpu = [], DeviceAugmentation(Augmentation(rand_augment=None), 16, 0, torch.device("cpu"))
    monkeypatch.setattr(on_cpu, "compile", lambda: asked.append((device, compile)))
    monkeypatch.setattr(loading, "device_augmentation", lambda recipe, device: on_cpu)
    for device in ("cpu", "cuda"):
        for compile in (False, True):
            recipe = small_recipe(images, **STREAM, compile=compile)
            data = load_data(recipe.data, 0)
            found = loading.prepare_batches(recipe, data, BadImages(), World(0, 1, 1, torch.device(device)))
            assert isinstance(found.training, AugmentedBatches)
    assert asked == [("cuda", True)]


def test_a_resumed_run_cannot_change_who_augments(images, small_recipe, tmp_path):
    train(small_recipe(images, **SETTINGS, max_steps=1), tmp_path / "run")
    with pytest.raises(RunError, match=r"was trained with other settings: on_device: True -> False\. Resume with"):
        train(small_recipe(images, **{**SETTINGS, "on_device": False}), tmp_path / "run", resume=True)
    with pytest.raises(RunError, match=r"was trained with other settings: augment_on: cpu -> device\. Resume with"):
        train(small_recipe(images, **SETTINGS, augment_on="device"), tmp_path / "run", resume=True)


def test_a_run_of_before_augments_where_it_did(images, small_recipe, tmp_path):
    train(small_recipe(images, **SETTINGS, max_steps=1), tmp_path / "run")
    file = tmp_path / "run" / "recipe.yaml"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if "augment_on" not in line))
    assert read_recipe(tmp_path / "run").augmentation.augment_on == "cpu"
    assert train(small_recipe(images, **SETTINGS, max_steps=2), tmp_path / "run", resume=True)["step"] == 2
