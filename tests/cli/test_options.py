"""Options on the command line: lists among a model's options."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from transmix.cli.options import parse
from transmix.cli.train import Train
from transmix.recipes import Recipe


def options_of(*words):
    return parse(
        Train, "train", ["--model-options", *words], Train(out=Path("run"), settings=Recipe())
    ).settings.model.model_options


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("depths=[1,2]", (1, 2)),
        ("depths=[2]", (2,)),
        ("depth=2", 2),
        ("window_size=7", 7),
        ("qkv_bias=false", False),
        ("pool=avg", "avg"),
        ("ratio=[0.5, 4]", (0.5, 4)),
    ],
)
def test_a_models_options_keep_their_types(word, value):
    name = word.partition("=")[0]
    assert options_of(word) == {name: value}
    assert type(options_of(word)[name]) is type(value)


def test_a_recipes_list_is_shown_as_it_is_written(capsys):
    from dataclasses import replace

    recipe = Recipe()
    recipe = replace(recipe, model=replace(recipe.model, model_options={"depths": (1, 2), "patch_size": 4}))
    with pytest.raises(SystemExit):
        parse(Train, "train", ["--help"], Train(out=Path("run"), settings=recipe))
    assert "(default:depths=[1,2]patch_size=4)" in re.sub(r"[│|'\s]", "", capsys.readouterr().out)


def test_an_option_of_the_recipe_can_be_taken_away(images, small_recipe, tmp_path, capsys):
    from transmix.cli import main
    from transmix.recipes import dump_recipe, load_recipe

    recipe = small_recipe(images, max_steps=1, ema_decay=None)
    (tmp_path / "small.yaml").write_text(dump_recipe(recipe))
    command = ["train", "--recipe", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "run")]
    swap = ["--model", "resnet18", "--mix", "cutmix", "--drop-path", "0"]
    assert main([*command, *swap]) == 2
    said = capsys.readouterr().err
    assert "unexpected keyword argument 'patch_size'; take an option of the recipe away: --model-options NAME=" in said
    away = [f"{name}=" for name in recipe.model.model_options]
    assert main([*command, *swap, "--model-options", *away]) == 0
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")).model.model_options == {}


@pytest.mark.parametrize("borders", ["utf-8", "ascii"])
def test_an_option_without_its_value_is_named(borders, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "transmix", "train", "--out", str(tmp_path / "run"), "--download"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": borders},
    )
    assert done.returncode == 2
    expected = "transmix: Missing value for argument '--download'. Expected 1 values; see transmix train --help\n"
    assert done.stderr == expected
