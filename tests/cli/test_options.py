"""Options on the command line: lists among a model's options."""

from pathlib import Path

import pytest

from transmix.cli.options import parse
from transmix.cli.train import Train
from transmix.recipes import Recipe


def options_of(*words):
    return parse(Train, "train", ["--model-options", *words], Train(out=Path("run"), settings=Recipe())).settings.model.model_options


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
    assert "depths=[1,2]" in capsys.readouterr().out
