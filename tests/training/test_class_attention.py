"""Models without a class token train with TransMix through the class-attention head, from the recipe to the export."""

import pytest
import torch
from safetensors.torch import load_file

from transmix.attention import AttentionError
from transmix.cli import main
from transmix.models.build import build_model
from transmix.models.loaded import load_model
from transmix.recipes import RecipeError
from transmix.training.loop import train

SWIN = {"embed_dim": 24, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
PVT = {"depths": (1, 1, 1, 1), "embed_dims": (8, 8, 16, 32), "num_heads": (1, 1, 1, 2)}
MODELS = {"swin_tiny_patch4_window7_224": SWIN, "pvt_v2_b0": PVT}


@pytest.fixture(scope="module", params=MODELS)
def trained(request, small_recipe, images, tmp_path_factory):
    """A run of a model without a class token: its recipe and folder."""
    options = {"model": request.param, "model_options": MODELS[request.param], "class_attention": True}
    recipe = small_recipe(images, **options, drop_path=0.1, image_size=32, max_steps=4)
    folder = tmp_path_factory.mktemp("run") / "run"
    train(recipe, folder)
    return recipe, folder


def test_the_head_trains_and_labels_move_by_its_attention(trained):
    recipe, folder = trained
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(recipe.run.seed)
    start = build_model(recipe.model, 2, 32).state_dict()
    learnt = [name for name in weights if name.startswith("class_attention.")]
    assert "class_attention.attn.query.weight" in learnt
    assert not any(weights[name].equal(start[name]) for name in learnt)
    assert "attention" in load_file(folder / "examples" / "epoch-0001.safetensors")
    assert '"label_shift"' in (folder / "metrics.jsonl").read_text()


def test_the_export_opens_with_equal_outputs(trained, tmp_path):
    recipe, folder = trained
    assert main(["export", str(folder), "--out", str(tmp_path / "out"), "--format", "timm"]) == 0
    model = build_model(recipe.model, 2, 32)
    model.load_state_dict(load_file(folder / "ema.safetensors"))
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        expected, found = model.eval()(images), load_model(tmp_path / "out").model(images)
        assert torch.equal(found, expected)
        with torch.no_grad():
            model.class_attention.cls_token.add_(1)
        assert not torch.equal(found, model(images))  # the head has a say


def test_its_weights_file_can_be_evaluated_and_started_from(trained, images, small_recipe, capsys):
    recipe, folder = trained
    file = str(folder / "model.safetensors")
    assert main(["evaluate", file, "--data", str(images), "--workers", "0"]) == 0
    assert "top-1 " in capsys.readouterr().out
    settings = {"model": recipe.model.model, "model_options": recipe.model.model_options, "init": file}
    started = small_recipe(images, **settings, class_attention=True).model
    for classes in (2, 3):
        weights = build_model(started, classes, 32).state_dict()
        assert weights["class_attention.cls_token"].equal(load_file(file)["class_attention.cls_token"])
    with pytest.raises(RecipeError) as error:
        build_model(small_recipe(images, **settings).model, 2, 32)
    assert str(error.value) == (
        f"the weights in {file} belong to a model with a class-attention head; add one: --class-attention"
    )


def test_without_the_head_the_remedy_is_named(images, small_recipe, tmp_path):
    recipe = small_recipe(images, model="pvt_v2_b0", model_options=PVT, drop_path=0.0, image_size=32)
    with pytest.raises(AttentionError) as error:
        train(recipe, tmp_path / "run")
    assert str(error.value).endswith(
        "transmix.attention.with_class_attention(model). (In a recipe: class_attention: true)"
    )


def test_a_model_that_has_a_class_token_needs_no_head(images, small_recipe, tmp_path):
    with pytest.raises(RecipeError) as error:
        train(small_recipe(images, class_attention=True), tmp_path / "run")
    assert str(error.value) == (
        "class_attention: VisionTransformer predicts from a class token or an attention pool already "
        "(global_pool='token'): nothing is averaged that a head could replace"
    )
    assert not (tmp_path / "run").exists()


def test_photographs_train_a_swin_with_a_head(real_images, small_recipe, tmp_path):
    options = {"model": "swin_tiny_patch4_window7_224", "model_options": SWIN, "class_attention": True}
    changes = {"image_size": 64, "crop": "random-resized", "eval_crop": 0.875, "batch_size": 16, "max_steps": 3}
    summary = train(small_recipe(real_images / "pets3", **options, **changes), tmp_path / "run")
    assert summary["last"]["loss"] < 2
