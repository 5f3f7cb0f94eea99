"""What each program gives for an export is what the run's model gives."""

import json
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from transmix.data.augment import EvaluationCrop
from transmix.export.onnx import OPSET, open_onnx
from transmix.export.write import PACKAGES, write_export
from transmix.models.build import normaliser
from transmix.models.loaded import load_model


def by_arguments(folder):
    config = json.loads((folder / "config.json").read_text())
    weights, classes = str(folder / "model.safetensors"), config["num_classes"]
    return timm.create_model(
        config["architecture"], checkpoint_path=weights, num_classes=classes, **config["model_args"]
    ).eval()


def by_transformers(folder):
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    return lambda images: model(images).logits


OPENED = {
    "timm, local-dir": ("timm", lambda folder: timm.create_model(f"local-dir:{folder}", pretrained=True).eval()),
    "timm, checkpoint_path": ("timm", by_arguments),
    "transmix": ("timm", lambda folder: load_model(folder).model),
    "Transformers": ("huggingface", by_transformers),
    "onnxruntime": ("onnx", lambda folder: open_onnx(folder / "model.onnx")),
}

programs = pytest.mark.parametrize("program", OPENED)


def opened(program, folder):
    form, load = OPENED[program]
    for package in PACKAGES[form]:
        pytest.importorskip(package)
    return load(folder)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("an export must open without the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def models(run):
    """The run's models as evaluation has them: "model" and "ema"."""
    return {name: load_model(run, weights=name).model for name in ("model", "ema")}


@torch.inference_mode()
def assert_same(model, other, size=16, exact=True):
    for batch in (1, 3):
        images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))
        ours, theirs = model(images), other(images)
        assert theirs.shape == ours.shape
        torch.testing.assert_close(theirs, ours, rtol=0 if exact else 1e-4, atol=0 if exact else 1e-5)


@programs
def test_every_program_gives_the_logits_of_the_ema(program, exported, models):
    other = opened(program, exported.folder)
    exact = program != "onnxruntime"
    assert_same(models["ema"], other, exact=exact)
    with pytest.raises(AssertionError):
        assert_same(models["model"], other, exact=exact)


@programs
def test_one_changed_weight_is_seen(program, exported, models, tmp_path):
    folder = shutil.copytree(exported.folder, tmp_path / "changed")
    weights = load_file(folder / "model.safetensors")
    weights["blocks.1.mlp.fc2.bias"][3] += 0.01
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    if program == "onnxruntime":
        onnx = pytest.importorskip("onnx")
        graph = onnx.load(folder / "model.onnx")
        (bias,) = (weight for weight in graph.graph.initializer if weight.name == "blocks.1.mlp.fc2.bias")
        bias.raw_data = weights["blocks.1.mlp.fc2.bias"].numpy().tobytes()
        onnx.save(graph, folder / "model.onnx")
    with pytest.raises(AssertionError, match="Tensor-likes are not"):
        assert_same(models["ema"], opened(program, folder), exact=program != "onnxruntime")


def noise_image(height=37, width=53):
    pixels = np.random.default_rng(1).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def as_evaluation_does(image):
    pixels = EvaluationCrop(16, 0.8)(np.asarray(image))[None]
    return normaliser((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), torch.device("cpu"), channels_last=False)(pixels)


def test_timm_makes_the_input_that_evaluation_makes(exported):
    model = timm.create_model(f"local-dir:{exported.folder}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    assert torch.equal(transform(noise_image())[None], as_evaluation_does(noise_image()))
    assert list(model.pretrained_cfg["label_names"]) == ["dark", "light"]


def test_transformers_knows_classes_and_input_as_the_run_has_them(exported):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForImageClassification.from_pretrained(exported.folder)
    assert type(model).__name__ == "TimmWrapperForImageClassification"
    assert model.config.id2label == {0: "dark", 1: "light"}
    assert model.config.label2id == {"dark": 0, "light": 1}
    processor = transformers.AutoImageProcessor.from_pretrained(exported.folder)
    assert type(processor).__name__ == "TimmWrapperImageProcessor"
    assert torch.equal(processor(noise_image())["pixel_values"], as_evaluation_does(noise_image()))


def test_onnx_says_what_it_takes_and_gives_and_nothing_of_this_machine(exported):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported.folder / "model.onnx")
    assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
    about = {one.key: one.value for one in model.metadata_props}
    assert json.loads(about["classes"]) == ["dark", "light"]
    assert [json.loads(about[name]) for name in ("mean", "std")] == [[0.4, 0.5, 0.6], [0.2, 0.25, 0.3]]
    assert about["input"].startswith("pixel_values: normalised float32 RGB images (batch, 3, 16, 16)")
    assert (about["image_size"], about["resize"], about["weights"], about["step"]) == ("16", "20", "ema", "10")
    assert b".py" not in (exported.folder / "model.onnx").read_bytes()


def test_the_command_says_three_lines_the_weights_first_and_no_exporter_chatters(run, exported):
    weights, first, second = exported.said.splitlines()
    last = json.loads((run / "summary.json").read_text())["last"]
    scores = f"EMA top-1 {100 * last['ema_top1']:.2f} %, model {100 * last['top1']:.2f} %"
    assert weights == (f"weights: EMA of step 10 (last checkpoint): the run kept an EMA ({scores})")
    files = "README.md, config.json, model.onnx, model.safetensors"
    if (exported.folder / "model.onnx").exists():
        assert first == f"{files} in {exported.folder}"
    assert second == "each file was opened again and gives the run's logits; README.md says how to load them"
    assert exported.complained == ""
    assert [path.name for path in exported.folder.parent.iterdir()] == ["all"]


def test_the_card_tells_the_scores_that_the_run_measured(run, exported, tmp_path):
    last = json.loads((run / "summary.json").read_text())["last"]
    card = (exported.folder / "README.md").read_text()
    assert "- weights: EMA of step 10 (last checkpoint): the run kept an EMA (EMA top-1 " in card
    assert "; EMA decay 0.9" in card
    assert f"top-1 {100 * last['ema_top1']:.2f} %, NLL {last['ema_val_loss']:.3f} nats" in card
    assert "patch_size=8, embed_dim=24" in card
    assert str(Path.cwd()) not in card
    write_export(load_model(run, weights="model"), tmp_path / "plain", ["timm"])
    card = (tmp_path / "plain" / "README.md").read_text()
    assert "- weights: model of step 10 (last checkpoint): asked for with --weights model\n" in card
    assert f"top-1 {100 * last['top1']:.2f} %, NLL {last['val_loss']:.3f} nats" in card


def test_the_code_on_the_card_runs_and_agrees(exported, models, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(exported.folder, tmp_path / "all")
    noise_image().save(folder / "image.jpg")
    monkeypatch.chdir(folder)
    codes = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), flags=re.DOTALL)
    assert len(codes) == sum((folder / name).exists() for name in ("config.json", "model.onnx")) + 2
    with torch.inference_mode():
        expected = models["ema"](as_evaluation_does(Image.open("image.jpg"))).softmax(dim=1)[0]
    for code in codes:
        exec(compile(code, "README.md", "exec"), {})
        label, probability = capsys.readouterr().out.split()
        assert label == ["dark", "light"][int(expected.argmax())]
        assert float(probability) == pytest.approx(float(expected.max()), abs=1e-6)


OTHERS = {
    "xcit_nano_12_p8_224": {"embed_dim": 32, "num_heads": 2, "depth": 2, "cls_attn_layers": 1},
    "deit_tiny_distilled_patch16_224": {"embed_dim": 24, "depth": 1, "num_heads": 2},
    "vit_tiny_patch16_224.augreg_in21k": {"depth": 1, "num_heads": 2, "class_token": False, "global_pool": "avg"},
    "eva02_tiny_patch14_224": {"patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 2, "global_pool": "token"},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "window_size": 4},
    "test_convnext": {},  # takes no img_size
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_come_back_exactly(name, untrained, tmp_path):
    trained = untrained(name, OTHERS[name])
    write_export(trained, tmp_path / "out", ["timm"])
    for program in ("timm, local-dir", "timm, checkpoint_path", "transmix"):
        assert_same(trained.model, opened(program, tmp_path / "out"), size=32)
    assert "The run was not evaluated at this step" in (tmp_path / "out" / "README.md").read_text()


def test_onnx_takes_any_batch_of_a_model_whose_positions_follow_the_image(untrained, tmp_path):
    for package in PACKAGES["onnx"]:
        pytest.importorskip(package)
    trained = untrained("xcit_nano_12_p8_224", OTHERS["xcit_nano_12_p8_224"])
    write_export(trained, tmp_path / "out", ["onnx"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "model.onnx"}
    assert_same(trained.model, opened("onnxruntime", tmp_path / "out"), size=32, exact=False)
    assert "library_name: onnx" in (tmp_path / "out" / "README.md").read_text()
