"""Runs on uneven classes: balanced by sampler or loss they resume to the same bits, alone and in two processes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from transmix import distributed
from transmix.data.dataset import DataError
from transmix.recipes import RecipeError
from transmix.training import loop
from transmix.training.loop import train


@pytest.fixture(scope="module")
def uneven(images, tmp_path_factory):
    """20 dark and 6 light training images."""
    root = tmp_path_factory.mktemp("uneven")
    (root / "val").symlink_to(images / "val")
    for name, count in (("dark", 20), ("light", 6)):
        (root / "train" / name).mkdir(parents=True)
        for file in sorted((images / "train" / name).iterdir())[:count]:
            (root / "train" / name / file.name).symlink_to(file)
    return root


def weights(run):
    return load_file(run / "model.safetensors")


def same(one, other):
    return all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_run_that_draws_classes_equally_often_resumes_to_the_same_bits(on_device, uneven, small_recipe, tmp_path):
    changes = {"balance": "sampler", "on_device": on_device, "rand_augment": None}
    train(small_recipe(uneven, **changes), tmp_path / "whole")
    train(small_recipe(uneven, max_steps=4, **changes), tmp_path / "parts")
    train(small_recipe(uneven, **changes), tmp_path / "parts", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    train(small_recipe(uneven, **changes | {"balance": "none"}), tmp_path / "plain")
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "plain"))


def test_a_run_with_a_balanced_loss_has_the_weights_of_its_classes_and_resumes_to_the_same_bits(
    uneven, small_recipe, tmp_path
):
    recipe = small_recipe(uneven, balance="loss")
    run = loop.prepare(recipe, tmp_path / "prepared", distributed.start("cpu"), None)
    assert torch.allclose(run.step.transmix.criterion.class_weights, torch.tensor([26 / 40, 26 / 12]))
    train(recipe, tmp_path / "whole")
    train(small_recipe(uneven, balance="loss", max_steps=4), tmp_path / "parts")
    train(recipe, tmp_path / "parts", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_two_processes_that_balance_the_loss_take_the_steps_of_one(pair, uneven, small_recipe, tmp_path):
    options = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    plain = {"mix": "none", "drop_path": 0.0, "max_steps": 3, "ema_decay": None, "model_options": options}
    for balance in ("loss", "sampler"):
        recipe = small_recipe(uneven, balance=balance, lr=1e-4, eps=1e-3, **plain)
        assert pair("plain", recipe, tmp_path / f"{balance}-two")["codes"] == [0, 0]
        train(recipe, tmp_path / f"{balance}-one")
        one, two = weights(tmp_path / f"{balance}-one"), weights(tmp_path / f"{balance}-two")
        assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6


def test_what_cannot_be_balanced_is_refused_before_anything_is_written(images, uneven, small_recipe, tmp_path, says):
    with says(
        DataError,
        "balance sampler would change nothing: each of the 2 classes has 20 training images; leave --balance out",
    ):
        train(small_recipe(images, balance="sampler"), tmp_path / "run")
    with says(
        RecipeError,
        "balance loss weighs the classes of a softmax cross-entropy, and the loss is bce; give --balance sampler",
    ):
        train(small_recipe(uneven, balance="loss", loss="bce"), tmp_path / "run")
    with says(RecipeError, "balance loss weighs one loss, and smmix adds two of its own; give --balance sampler"):
        train(small_recipe(uneven, balance="loss", mix="smmix"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_first_lines_say_that_classes_are_balanced(uneven, small_recipe, tmp_path, capsys):
    train(small_recipe(uneven, balance="sampler", max_steps=1), tmp_path / "run")
    line = "data      {}: 26 training and 8 validation images (val), 2 classes, balanced by sampler"
    assert line.format(uneven.name) in capsys.readouterr().out
    assert "balance: sampler" in (tmp_path / "run" / "recipe.yaml").read_text()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["step"] == 1
