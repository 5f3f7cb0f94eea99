"""Every recipe that comes with the package says where its numbers come from, and runs."""

from dataclasses import replace

import pytest

from transmix.recipes import load_recipe, recipe_names, recipe_text
from transmix.training.loop import train


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipes_header_states_command_hardware_source_and_expectation(name):
    header = [line for line in recipe_text(name).splitlines() if line.startswith("#")]
    for word in ("command", "hardware", "source", "expected"):
        assert any(line[1:].strip().startswith(word) for line in header), f"{name} does not state its {word}"


def test_the_references_differ_from_deits_recipes_in_exactly_what_they_say():
    from transmix.recipes import changed_settings

    for size in ("small", "base"):
        text = recipe_text(f"imagenet_deit_{size}_reference")
        changed = changed_settings(load_recipe(f"imagenet_deit_{size}"), load_recipe(f"imagenet_deit_{size}_reference"))
        names = {line.split(":")[0] for line in changed}
        names -= {"lr", "lr_batch"}  # stated as one rate: 1e-3 for 1024 images
        said = text[text.index("line by line") : text.index("differs from the repository")]
        assert all(name in said for name in names), names


def test_the_recipes():
    assert " ".join(recipe_names()) == (
        "cifar100_deit_tiny cifar100_small digits digits32 digits_small_objects digits_vit finetune imagenet_deit_base "
        "imagenet_deit_base_reference imagenet_deit_small imagenet_deit_small_reference imagenet_deit_tiny"
    )


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_trains_one_step(name, images, tmp_path):
    recipe = load_recipe(name)
    size = 56 if "patch14" in recipe.model.model else 64
    small = replace(
        recipe,
        data=replace(recipe.data, data=str(images), train_images=None, workers=0, image_size=size),
        model=replace(
            recipe.model, model_options=recipe.model.model_options | {"depth": 1}, compile=False, pretrained=False
        ),
        optimization=replace(recipe.optimization, batch_size=4, accumulate=1),
        run=replace(recipe.run, max_steps=1),
    )
    assert train(small, tmp_path / "run")["step"] == 1
