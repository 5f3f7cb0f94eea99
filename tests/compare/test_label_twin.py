"""Which mixes share their draws, against the batches that training really mixes."""

from dataclasses import replace

import pytest
import torch

from transmix.compare.groups import read_run
from transmix.compare.label_twin import shared_draws
from transmix.data.seeding import derive_seed
from transmix.recipes.mixing import build_mixer


@pytest.fixture
def run(made_run, tmp_path):
    number = iter(range(100))
    return lambda mix, **settings: read_run(made_run(tmp_path / f"run{next(number)}", mix, **settings))


def mixed_steps(run, steps=40):
    """Mix one batch as training does at each step; return images and masks."""
    mixer = build_mixer(run.recipe.mixing)
    mixer.enabled = run.recipe.mixing.mix != "none"
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    seen = []
    for step in range(steps):
        mixer.generator.manual_seed(derive_seed(run.seed, "mix", step, 0, 0))
        mixed = mixer(images, torch.arange(4))
        seen.append((mixed.images, mixed.mask))
    return seen


def same_images(one, other):
    pairs = zip(mixed_steps(one), mixed_steps(other), strict=True)
    return [torch.equal(a[0], b[0]) for a, b in pairs]


def test_transmix_and_mixup_cutmix_see_the_very_same_images(run):
    one, other = run("transmix"), run("mixup+cutmix")
    assert all(same_images(one, other))
    shared = shared_draws(one, other)
    assert shared.all
    assert str(shared) == "the same mixed images: the label alone differs"


def test_runs_of_a_method_that_looks_first_do_not_whatever_their_labels(run):
    shared = shared_draws(run("smmix"), run("smmix", labels="attention"))
    assert shared.same == 0
    assert not shared.all


def test_transmix_and_cutmix_do_where_neither_blends(run):
    one, other = run("transmix", mixup_alpha=0.0), run("cutmix", mixup_alpha=0.0)
    assert all(same_images(one, other))
    assert shared_draws(one, other).all


def test_transmix_and_cutmix_do_not_where_transmix_switches_to_mixup(run):
    one, other = run("transmix"), run("cutmix")
    equal = same_images(one, other)
    shared = shared_draws(one, other)
    assert not shared.all
    assert shared.same == pytest.approx(sum(equal) / len(equal), abs=0.2)
    assert str(shared) != str(shared_draws(one, run("mixup+cutmix")))


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_rows_are_looked_at_in_every_mode(run, mode):
    assert shared_draws(run("transmix", mode=mode), run("mixup+cutmix", mode=mode), 200).all
    assert not shared_draws(run("transmix", mode=mode), run("mixup", mode=mode), 200).all


@pytest.mark.parametrize(
    ("setting", "value"), [("batch_size", 64), ("mix_epochs", 3), ("crop", "none"), ("image_size", 64), ("lr", 0.1)]
)
def test_recipes_that_differ_elsewhere_are_no_twins(run, setting, value):
    shared = shared_draws(run("transmix"), run("mixup+cutmix", **{setting: value}))
    assert not shared.all
    assert str(shared) == "the seed alone: other settings differ too"


def test_neither_are_runs_of_other_numbers_of_processes(run):
    one, other = run("transmix"), run("mixup+cutmix")
    several = replace(other, environment=other.environment | {"processes": 2})
    assert not shared_draws(one, several).all
