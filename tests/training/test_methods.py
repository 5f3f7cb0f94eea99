"""Every method trains by its name in a recipe, and resumes to the same bits; so does one that looks through the EMA."""

import copy
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file

from transmix.methods import NAMED
from transmix.recipes import RecipeError, check_recipe
from transmix.recipes.mixing import title
from transmix.runs.folder import read_recipe
from transmix.training.loop import train
from transmix.training.step import TrainingStep, build_transmix

TRAINED = [{"mix": name} for name in NAMED if name != "objectmix"]
TRAINED += [{"mix": "snapmix", "guide": "ema"}, {"mix": "smmix+mixup"}, {"mix": "fmix", "labels": "attention"}]


class Died(BaseException):
    """The process is no more."""


def weights(folder):
    return [load_file(folder / "checkpoints" / "step-00000005" / f"{name}.safetensors") for name in ("model", "ema")]


@pytest.mark.parametrize("mixing", TRAINED, ids=lambda one: "-".join(one.values()))
def test_each_trains_by_its_name_and_resumes_to_the_same_bits(mixing, small_recipe, images, tmp_path, monkeypatch):
    recipe = small_recipe(images, epochs=1, checkpoint_every=2, warmup_epochs=0.2, **mixing)
    train(recipe, tmp_path / "whole")
    inner, steps = TrainingStep.__call__, []

    def dies(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 4:
            raise Died
        return inner(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", dies)
        with pytest.raises(Died):
            train(recipe, tmp_path / "resumed")
    train(recipe, tmp_path / "resumed", resume=True)
    for whole, resumed in zip(weights(tmp_path / "whole"), weights(tmp_path / "resumed"), strict=True):
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    kept = read_recipe(tmp_path / "whole").mixing
    assert title(kept.mix, kept.labels) == title(recipe.mixing.mix, recipe.mixing.labels)


def test_methods_of_whole_patches_follow_the_models(small_recipe, images):
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=2)
    for mix in ("tlalign", "tokenmix"):
        recipe = small_recipe(images, mix=mix)
        (method,) = build_transmix(recipe.mixing, model).mixer.methods
        assert method.cell == 8
        given = replace(recipe.mixing, mix_options={"cell": 4})
        (method,) = build_transmix(given, copy.deepcopy(model)).mixer.methods
        assert method.cell == 4


def test_a_run_by_another_method_has_other_weights(small_recipe, images, tmp_path):
    for mix in ("fmix", "resizemix"):
        train(small_recipe(images, epochs=1, warmup_epochs=0.2, mix=mix), tmp_path / mix)
    one, other = (weights(tmp_path / mix)[0] for mix in ("fmix", "resizemix"))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_what_training_cannot_give_is_refused(small_recipe, images):
    with pytest.raises(RecipeError, match="need masks of the objects, which training does not load"):
        check_recipe(small_recipe(images, mix="objectmix"))
    with pytest.raises(RecipeError, match="guide ema needs --ema-decay"):
        check_recipe(small_recipe(images, mix="snapmix", guide="ema", ema_decay=None))
