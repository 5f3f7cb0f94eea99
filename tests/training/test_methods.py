"""Every method trains by its name in a recipe, and resumes to the same bits; so does one that looks through the EMA."""

import copy
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file

from transmix.data.dataset import DataError
from transmix.labels import object_labels
from transmix.methods import NAMED
from transmix.recipes import RecipeError, check_recipe
from transmix.recipes.mixing import title
from transmix.runs.folder import read_recipe
from transmix.training.loop import train
from transmix.training.step import TrainingStep, build_transmix

TRAINED = [{"mix": name} for name in NAMED]
TRAINED += [{"mix": "snapmix", "guide": "ema"}, {"mix": "smmix+mixup"}, {"mix": "fmix", "labels": "attention"}]


class Died(BaseException):
    """The process is no more."""


def weights(folder):
    return [load_file(folder / "checkpoints" / "step-00000005" / f"{name}.safetensors") for name in ("model", "ema")]


@pytest.mark.parametrize("more", [{}, {"workers": 2}, {"on_device": True}], ids=["loader", "workers", "on_device"])
def test_a_step_gets_the_masks_of_its_images(more, small_recipe, with_masks, tmp_path, monkeypatch):
    plain = {"rand_augment": None, "random_erasing": 0.0, "color_jitter": 0.0}
    recipe = small_recipe(with_masks, epochs=1, warmup_epochs=0.2, mix="objectmix", **plain, **more)
    forward, seen, labelled = TrainingStep.forward, [], []

    def watched(self, step, micro, images, labels, foreground=None):
        seen.append((images, foreground))
        inner = self.transmix.relabel
        self.transmix.relabel = lambda *args, **how: labelled.append(inner(*args, **how)) or labelled[-1]
        try:
            return forward(self, step, micro, images, labels, foreground)
        finally:
            self.transmix.relabel = inner

    monkeypatch.setattr(TrainingStep, "forward", watched)
    train(recipe, tmp_path / "run")
    assert len(seen) == 5
    for images, foreground in seen:
        assert foreground.dtype == torch.bool
        assert torch.equal(foreground, images[:, 0] >= 128)
        assert 0.02 < foreground.float().mean() < 0.6
    by_masks = [object_labels(mixed, foreground).lam for mixed, (_, foreground) in zip(labelled, seen, strict=True)]
    assert all(torch.equal(mixed.lam, lam) for mixed, lam in zip(labelled, by_masks, strict=True))
    assert any(not torch.equal(mixed.lam, mixed.lam_area) for mixed in labelled)


@pytest.mark.parametrize("mixing", TRAINED, ids=lambda one: "-".join(one.values()))
def test_each_trains_by_its_name_and_resumes_to_the_same_bits(
    mixing, small_recipe, images, with_masks, tmp_path, monkeypatch
):
    data = with_masks if mixing["mix"] == "objectmix" else images
    recipe = small_recipe(data, epochs=1, checkpoint_every=2, warmup_epochs=0.2, **mixing)
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


def test_what_training_cannot_give_is_refused(small_recipe, images, tmp_path):
    with pytest.raises(DataError, match=r"^labels 'object' need masks of the objects\. images0: no foreground masks"):
        train(small_recipe(images, mix="objectmix"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match="guide ema needs --ema-decay"):
        check_recipe(small_recipe(images, mix="snapmix", guide="ema", ema_decay=None))
