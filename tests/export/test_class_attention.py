"""A model whose pooling is a class-attention head: not timm's to build, so it says who can."""

import pytest
import timm
import torch

from transmix.export.check import ExportError
from transmix.export.onnx import open_onnx
from transmix.export.write import write_export
from transmix.models.loaded import load_model


@pytest.fixture
def trained(untrained):
    made = untrained("beit_base_patch16_224", {"embed_dim": 24, "num_heads": 2, "depth": 1}, class_attention=True)
    for weight in made.model.class_attention.parameters():
        torch.nn.init.normal_(weight, std=0.2)  # else it hardly shows in the logits
    return made


def test_it_comes_back_by_our_loader_and_other_loaders_fail_loudly(trained, tmp_path):
    out = tmp_path / "out"
    write_export(trained, out, ["timm"])
    images = torch.randn(3, 3, 32, 32)
    loaded = load_model(out)
    assert loaded.settings.class_attention
    assert loaded.model.pretrained_cfg["label_names"] == ["a", "b", "ü"]
    with torch.inference_mode():
        assert torch.equal(loaded.model(images), trained.model(images))
        trained.model.class_attention.cls_token.add_(1)
        assert not torch.equal(loaded.model(images), trained.model(images))
    with pytest.raises(RuntimeError, match=r"class_attention\.cls_token"):
        timm.create_model(f"local-dir:{out}", pretrained=True)
    card = (out / "README.md").read_text()
    assert "load_model(" in card
    assert "timm.create_model(" not in card


def test_onnx_holds_it_as_any_other_and_weights_too_large_for_one_file_lie_beside_it(trained, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("transmix.export.onnx.LARGEST", 0)
    out = tmp_path / "out"
    write_export(trained, out, ["onnx"])
    assert {path.name for path in out.iterdir()} == {"README.md", "model.onnx", "model.onnx.data"}
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(open_onnx(out / "model.onnx")(images), trained.model(images), rtol=1e-4, atol=1e-5)


def test_transformers_refuses_its_files_and_we_refuse_to_write_them_for_it(trained, tmp_path):
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ExportError, match="class-attention head in place of its pooling; use --format timm"):
        write_export(trained, tmp_path / "out", ["huggingface"])
    assert list(tmp_path.iterdir()) == []
    write_export(trained, tmp_path / "out", ["timm"])
    with pytest.raises(ValueError, match="transmix_class_attention"):
        transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out", local_files_only=True)
