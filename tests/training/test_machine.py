"""Batch size and autocast type that a recipe leaves open: fitted, said, written down, and kept by a resumed run."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from transmix.distributed import World
from transmix.recipes import RecipeError, load_recipe
from transmix.training import machine
from transmix.training.loop import train
from transmix.training.machine import saved_bytes, with_autocast, with_batch_size

CPU = World(0, 1, 1, torch.device("cpu"))


@pytest.fixture
def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10), nn.ReLU(), nn.Linear(10, 5))


def fitted(recipe, samples, model, world=CPU):
    found, said = with_batch_size(recipe, samples, model, world)
    return found.optimization.batch_size, said


def test_a_forward_keeps_its_input_and_what_the_layers_hand_on(model):
    assert saved_bytes(model, 16) == 4 * (3 * 16 * 16 + 10)  # the ReLU's output is the last layer's input
    assert all(module.training for module in model.modules())
    model[1].weight.requires_grad_(False)
    assert saved_bytes(model, 16) == 4 * 10


def test_a_forward_of_a_vit_keeps_as_much_as_its_backward_finds():
    import timm

    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2)
    one = saved_bytes(vit, 32)
    deeper = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=2)
    tokens, width = 17, 24
    by_block = (saved_bytes(deeper, 32) - one) / 2
    # Two norms' inputs, qkv, attention's output, the MLP's input, hidden layer before and after GELU, and statistics.
    assert 4 * tokens * width * 12 < by_block < 4 * tokens * width * 20


@pytest.mark.parametrize(
    ("samples", "processes", "accumulate", "device", "expected"),
    [
        (512, 1, 1, "cpu", 32),
        (511, 1, 1, "cpu", 16),
        (255, 1, 1, "cpu", 8),
        (40, 1, 1, "cpu", 4),
        (3, 1, 1, "cpu", 2),
        (449, 2, 2, "cpu", 16),
        (1000, 2, 1, "cpu", 32),
        (1024, 1, 1, "meta", 64),
    ],
)
def test_a_batch_leaves_sixteen_steps_to_an_epoch_where_it_can(
    samples, processes, accumulate, device, expected, images, small_recipe, model, monkeypatch
):
    monkeypatch.setattr("transmix.distributed.gather", lambda mine, world: [mine] * world.size)
    recipe = small_recipe(images, batch_size=None, accumulate=accumulate)
    world = World(0, processes, processes, torch.device(device))
    found, said = fitted(recipe, samples, model, world)
    assert found == expected
    most = (32 if device == "cpu" else 64) * processes * accumulate
    reason = f"{samples} training images; --batch-size sets another"
    assert said == (None if expected == most else f"batch     {expected} images, not {most}, for {reason}")


def test_a_batch_fits_into_the_free_memory_of_the_smallest_device(images, small_recipe, model, monkeypatch):
    recipe, one = small_recipe(images, batch_size=None), 4 * (3 * 16 * 16 + 10)
    weights = sum(weight.numel() for weight in model.parameters())
    for room, expected in ((32 * one, 32), (32 * one - 1, 16), (5 * one, 4), (0, 1)):
        free = (machine.BYTES_PER_WEIGHT * weights + room) / machine.ROOM + 1
        monkeypatch.setattr(machine, "free_memory", lambda device, free=free: int(free))
        found, said = fitted(recipe, 1000, model)
        assert found == expected
        assert (said is None) == (expected == 32)
    assert said == "batch     1 images, not 32, for the memory of cpu; --batch-size sets another"
    monkeypatch.setattr(machine, "free_memory", lambda device: None)
    monkeypatch.setattr("transmix.distributed.gather", lambda mine, world: [mine, 8])
    assert fitted(recipe, 1000, model, World(0, 2, 1, torch.device("cpu")))[0] == 16


def test_a_batch_that_is_given_is_never_changed(images, small_recipe, model, tmp_path):
    assert fitted(small_recipe(images, batch_size=64), 40, model) == (64, None)
    with pytest.raises(RecipeError, match="40 training images do not fill one batch of 64: --batch-size 40 or less"):
        train(small_recipe(images, batch_size=64), tmp_path / "run")


def test_a_run_writes_its_batch_down_and_a_resumed_one_keeps_it(images, small_recipe, tmp_path, monkeypatch, capsys):
    left_open = {"batch_size": None, "amp": "auto"}
    train(small_recipe(images, **left_open), tmp_path / "whole")
    line = "batch     4 images, not 32, for 40 training images; --batch-size sets another"
    assert line in capsys.readouterr().out.splitlines()
    written = load_recipe(str(tmp_path / "whole" / "recipe.yaml"))
    assert (written.optimization.batch_size, written.model.amp) == (4, "none")
    train(small_recipe(images, max_steps=7, **left_open), tmp_path / "parts")
    monkeypatch.setattr(machine, "STEPS", 1)  # now another batch would be chosen
    train(small_recipe(images, **left_open), tmp_path / "parts", resume=True)
    assert line not in capsys.readouterr().out.splitlines()[6:]
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(whole[name].equal(parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("device", "bf16", "expected"), [("cpu", True, "none"), ("cuda", True, "bf16"), ("cuda", False, "none")]
)
def test_autocast_is_bf16_where_a_gpu_computes_in_it(device, bf16, expected, images, small_recipe, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 and not including_emulation)
    place = SimpleNamespace(type=device)
    assert with_autocast(small_recipe(images, amp="auto"), place).model.amp == expected
    assert with_autocast(small_recipe(images, amp="fp16"), place).model.amp == "fp16"
