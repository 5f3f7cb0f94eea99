"""Weights that a model starts from fit, and it is said how much of them, or they are an error; never neither."""

import argparse
import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from transmix.cli import main
from transmix.models.build import build_model, start_model
from transmix.recipes import RecipeError, dump_recipe
from transmix.recipes.settings import Model
from transmix.runs.weights import start_weights
from transmix.training.loop import train

OPTIONS = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def settings(path, **options):
    return Model("vit_tiny_patch16_224", {**OPTIONS, **options}, init=str(path))


@pytest.fixture(scope="module")
def trained():
    """Weights that no initialisation gives, of a model with 5 outputs for images of 16 x 16."""
    torch.manual_seed(3)
    state = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=16, **OPTIONS).state_dict()
    return {name: torch.randn_like(tensor) for name, tensor in state.items()}


def saved(path, tensors):
    (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)
    return path


def prefixed(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def equal(model, tensors):
    state = model.state_dict()
    return [name for name in tensors if not (name in state and state[name].equal(tensors[name]))]


PREFIXES = ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "backbone.", "encoder."]
PREFIXES += ["base_model.model.", "module.model.backbone.", "net.vit."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_wrapped_the_model_is_taken_off_the_names(prefix, trained, tmp_path):
    path = saved(tmp_path / "w.safetensors", prefixed(prefix, trained))
    model, start = start_model(settings(path), 5, 16)
    assert equal(model, trained) == []
    left = prefix.replace("_orig_mod.", "")
    note = f"; the prefix {left!r} taken off" if left else ""
    assert str(start) == f"started from the weights in {path}: loaded 32 of 32 tensors{note}"


def test_blocks_that_were_compiled_one_by_one_lose_their_wrapper(trained, tmp_path):
    wrapped = {name.replace("blocks.0.", "blocks.0._orig_mod."): tensor for name, tensor in trained.items()}
    model, _ = start_model(settings(saved(tmp_path / "w.safetensors", wrapped)), 5, 16)
    assert equal(model, trained) == []


NESTED = {
    "state_dict": lambda weights, other: {"epoch": 3, "state_dict": weights, "optimizer": {"state": {}}},
    "model": lambda weights, other: {"model": prefixed("module.", weights), "args": argparse.Namespace(lr=1.0)},
    "state_dict_ema": lambda weights, other: {"state_dict": other, "state_dict_ema": weights},
    "model_ema": lambda weights, other: {"model": other, "model_ema": weights},
    "teacher": lambda weights, other: {"student": other, "teacher": prefixed("module.backbone.", weights)},
    "model.state_dict": lambda weights, other: {"model": {"state_dict": weights}},
}


@pytest.mark.parametrize("entry", NESTED)
def test_weights_in_a_training_checkpoint_are_found_averages_first_and_their_entry_is_said(entry, trained, tmp_path):
    other = {name: torch.zeros_like(tensor) for name, tensor in trained.items()}
    path = saved(tmp_path / "w.pth", NESTED[entry](trained, other))
    model, start = start_model(settings(path), 5, 16)
    assert equal(model, trained) == []
    assert f"; its entry {entry!r}" in str(start)


def test_other_classes_give_a_new_head_and_another_size_a_resized_position_embedding(trained, tmp_path):
    path = saved(tmp_path / "w.safetensors", trained)
    model, start = start_model(settings(path), 3, 32)
    assert equal(model, trained) == ["pos_embed", "head.weight", "head.bias"]
    assert model.pos_embed.shape == (1, 17, 24)
    assert model.pos_embed[:, 0].equal(trained["pos_embed"][:, 0])  # the class token's is as it was
    assert str(start) == (
        f"started from the weights in {path}: loaded 30 of 32 tensors; new: head.weight, head.bias; resized: pos_embed"
    )


def test_a_file_without_a_head_is_taken_whatever_the_number_of_classes(trained, tmp_path):
    backbone = {name: tensor for name, tensor in trained.items() if not name.startswith("head.")}
    path = saved(tmp_path / "w.safetensors", backbone)
    for classes in (5, 1000):  # timm's own weights have 1000
        model, start = start_model(settings(path), classes, 16)
        assert equal(model, backbone) == []
        assert start.new == ("head.weight", "head.bias")


def test_a_head_for_as_many_other_classes_is_not_taken(trained, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(trained, path, {"transmix": json.dumps({"model": "x", "classes": list("abcde")})})
    model, start = start_model(settings(path), 5, 16, tuple("abcde"))
    assert equal(model, trained) == []
    for others in ("abcdf", "edcba"):
        model, start = start_model(settings(path), 5, 16, tuple(others))
        assert equal(model, trained) == ["head.weight", "head.bias"]
        assert str(start).endswith("new: head.weight, head.bias; its head is for other classes and is made anew")


def test_blocks_that_the_file_lacks_are_a_warning(trained, tmp_path):
    path = saved(tmp_path / "w.safetensors", trained)
    _, start = start_model(settings(path, depth=3), 5, 16)
    assert str(start) == (
        f"started from the weights in {path}: loaded 32 of 44 tensors; new: blocks.2.norm1.weight, "
        f"blocks.2.norm1.bias, blocks.2.attn.qkv.weight, blocks.2.attn.qkv.bias and 8 more; "
        f"warning: 12 of the new ones are in the backbone"
    )


def huggingface(tensors):
    from transformers import ViTConfig, ViTForImageClassification

    size = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    return ViTForImageClassification(ViTConfig(**size, intermediate_size=96)).state_dict()


def lora(tensors):
    names = {"blocks.0.attn.qkv": ("lora_A.default.weight", "lora_B.default.weight")}
    return {f"base_model.model.{layer}.{part}": torch.ones(2, 2) for layer in names for part in names[layer]}


UNFIT = {
    "an optimizer's state": (
        lambda tensors: {f"{name}|exp_avg": tensor for name, tensor in tensors.items()},
        r"Found blocks\.0\.attn\.proj\.bias\|exp_avg.*It holds an optimizer's state: give model.safetensors or ema",
    ),
    "generators": (lambda tensors: {"cpu": torch.get_rng_state()}, r"Found cpu; wanted cls_token, pos_embed, "),
    "names of Transformers": (huggingface, r"Found vit\.embeddings\..*names are those of Hugging Face Transformers"),
    "adapters": (lora, r"It holds LoRA adapters: merge them first"),
    "one tensor": (lambda tensors: {"norm.weight": tensors["norm.weight"]}, r"they give 1 of 30 tensors"),
    "another kind of model": (
        lambda tensors: timm.create_model("test_resnet").state_dict(),
        r"they give 0 of 30 tensors of its backbone\. Found conv1\.0\.weight",
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_weights_that_do_not_fit_are_an_error_that_says_what_was_found_and_wanted(kind, trained, tmp_path):
    make, message = UNFIT[kind]
    tensors = {name: tensor.contiguous() for name, tensor in make(dict(sorted(trained.items()))).items()}
    path = saved(tmp_path / "w.pth", tensors)
    with pytest.raises(RecipeError, match=rf"w\.pth do not fit vit_tiny_patch16_224: .*{message}"):
        start_model(settings(path), 5, 16)


def test_tensors_of_other_shapes_are_an_error_that_names_them(trained, tmp_path, says):
    path = saved(tmp_path / "w.safetensors", trained)
    with says(
        RecipeError,
        f"the weights in {path} do not fit vit_tiny_patch16_224: cls_token is [1, 1, 24] there and [1, 1, 48] in the "
        f"model, pos_embed is [1, 5, 24] there and [1, 5, 48] in the model and 29 more",
    ):
        start_model(settings(path, embed_dim=48), 5, 16)


def test_several_models_in_one_file_are_an_error_unless_one_is_known_for_the_average(trained, tmp_path):
    other = {name: torch.zeros_like(tensor) for name, tensor in trained.items()}
    path = saved(tmp_path / "w.pth", prefixed("student.", other) | prefixed("teacher.", trained))
    model, start = start_model(settings(path), 5, 16)
    assert equal(model, trained) == []
    assert str(start).endswith("the prefix 'teacher.' taken off, tensors without it not used: 32")
    saved(path, prefixed("left.", other) | prefixed("right.", trained))
    with pytest.raises(RecipeError, match=r"holds several models that fit \(left\., right\.\); save only the"):
        start_model(settings(path), 5, 16)


def test_python_objects_are_never_loaded(trained, tmp_path):
    model = timm.create_model("test_vit")
    path = saved(tmp_path / "w.pth", model)
    with pytest.raises(RecipeError, match=r"cannot read weights from .*: it holds Python objects, which are never"):
        start_model(settings(path), 5, 16)
    for content, message in ((torch.ones(3), "holds a Tensor, not"), ({"state": {}, "lr": 1}, "entries are state, lr")):
        with pytest.raises(RecipeError, match=message):
            start_model(settings(saved(path, content)), 5, 16)
    with pytest.raises(RecipeError, match=r"cannot read weights from absent\.pth: no such file"):
        start_model(settings("absent.pth"), 5, 16)


def test_grey_input_is_refused_with_the_reason(says):
    with says(RecipeError, "model_options in_chans=1: images are RGB, so a model has 3 input channels"):
        build_model(Model("vit_tiny_patch16_224", {**OPTIONS, "in_chans": 1}), 5, 16)


def test_published_weights_of_another_kind_of_model_are_an_error(monkeypatch):
    state = timm.create_model("resnet18").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(state))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: None)  # the hub answers
    with pytest.raises(
        RecipeError, match=r"^the published weights of resnet18 do not fit .*: Vis.* attribute `conv1`$"
    ):
        start_model(settings("resnet18"), 5, 16)


def test_without_the_hub_published_weights_are_one_line_after_one_question(monkeypatch, says):
    asked = []

    def unreachable(url, **more):
        asked.append((url, more["timeout"]))
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    monkeypatch.setattr("transmix.models.build.try_to_load_from_cache", lambda *_, **__: None)
    for changes in ({"init": "deit_tiny_patch16_224"}, {"pretrained": True}):
        with says(
            RecipeError,
            "cannot download the published weights of deit_tiny_patch16_224 from https://huggingface.co (Name or "
            "service not known), and they are not on this machine. Go online or name a mirror (HF_ENDPOINT=URL); or "
            "download them elsewhere (hf download timm/deit_tiny_patch16_224.fb_in1k model.safetensors) and give the "
            "file (--init model.safetensors) or the cache that holds them (HF_HUB_CACHE=FOLDER); or start from random "
            "weights (--init None)",
        ):
            start_model(Model("deit_tiny_patch16_224", **changes), 5, 224)
    url = "https://huggingface.co/timm/deit_tiny_patch16_224.fb_in1k/resolve/main/model.safetensors"
    assert asked == [(url, 5)] * 2


def test_a_run_prints_and_keeps_what_it_started_from_and_resumes_without_the_file(
    trained, images, small_recipe, tmp_path, capsys
):
    path = saved(tmp_path / "w.safetensors", prefixed("module.", trained))
    changes = {"init": str(path), "model_options": OPTIONS, "ema_decay": None}
    train(small_recipe(images, max_steps=1, **changes), tmp_path / "run")
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("started"))
    loaded = "loaded 30 of 32 tensors; new: head.weight, head.bias; the prefix 'module.' taken off"
    assert said == f"started from the weights in {path}: {loaded}"
    kept = json.loads((tmp_path / "run" / "start.json").read_text())
    assert (kept["text"], kept["loaded"], kept["tensors"], kept["new"]) == (said, 30, 32, ["head.weight", "head.bias"])
    path.unlink()
    train(small_recipe(images, max_steps=2, **changes), tmp_path / "run", resume=True)
    assert json.loads((tmp_path / "run" / "start.json").read_text()) == kept
    weights = start_weights(str(tmp_path / "run"))  # a run's folder stands for its weights
    _, again = start_model(settings(weights), 2, 16)
    assert again.source.endswith("run/checkpoints/step-00000002/model.safetensors")


def test_weights_of_which_nothing_fits_leave_no_run_behind(images, small_recipe, tmp_path, capsys):
    path = saved(tmp_path / "w.safetensors", {"embeddings.cls_token": torch.ones(1, 1, 24)})
    (tmp_path / "r.yaml").write_text(dump_recipe(small_recipe(images, init=str(path))))
    assert main(["train", "--recipe", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "w.safetensors do not fit vit_tiny_patch16_224: they give 0 of 30 tensors" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("verb", "more"), [("evaluate", ["--data"]), ("show", ["--out"])])
def test_a_weights_file_that_is_not_of_the_model_is_neither_evaluated_nor_shown(verb, more, images, tmp_path, capsys):
    state = timm.create_model("test_vit", num_classes=2).state_dict()
    del state["norm.weight"]
    path = saved(tmp_path / "w.safetensors", state | {"registers": torch.ones(3)})
    words = {"evaluate": [], "show": ["heads"]}[verb]
    value = str(images) if verb == "evaluate" else str(tmp_path / "x.png")
    assert main([verb, *words, str(path), "--model", "test_vit", *more, value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"transmix: the weights in {path} do not belong to test_vit: they lack norm.weight; they also have registers"
    )


def test_the_command_that_evaluate_recommends_trains(trained, images, small_recipe, tmp_path, capsys):
    path = saved(tmp_path / "w.safetensors", prefixed("module.", timm.create_model("test_vit").state_dict()))
    assert main(["evaluate", str(path), "--model", "test_vit", "--data", str(images)]) == 2
    line = capsys.readouterr().err.strip()
    command = line.partition("fine-tune it first: transmix ")[2]
    assert f"{path} has 1000 outputs, but {images.name} has 2 classes" in line
    words = command.replace("DATA", str(images)).replace("RUN", str(tmp_path / "run")).split()
    small = ["--batch-size", "8", "--max-steps", "1", "--image-size", "32", "--workers", "0", "--no-compile"]
    assert main([*words, *small, "--amp", "none", "--repeats", "1", "--device", "cpu"]) == 0
    assert f"started from the weights in {path}: loaded" in capsys.readouterr().out
    assert load_file(tmp_path / "run" / "model.safetensors")
