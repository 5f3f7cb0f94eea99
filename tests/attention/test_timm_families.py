"""One model of every family of timm is read and its logits come from what is read, or an AttentionError says why."""

from collections import defaultdict

import pytest
import torch

pytest.importorskip("timm")
import timm
from readable import READABLE, build, example
from timm.models import _registry

from transmix import AttentionError, AttentionReader

CONVOLUTIONS = {
    "byobnet", "convmixer", "convnext", "cspnet", "cspnext", "densenet", "dla", "dpn", "efficientnet", "fasternet",
    "fastvit", "focalnet", "ghostnet", "hardcorenas", "hgnet", "hrnet", "iformer", "inception_next",
    "inception_resnet_v2", "inception_v3", "inception_v4", "lcnetv2", "mambaout", "mlp_mixer", "mobilenetv3",
    "nasnet", "nfnet", "pnasnet", "rdnet", "regnet", "repghost", "repvit", "res2net", "resnest", "resnetv2",
    "rexnet", "selecsls", "senet", "sequencer", "shvit", "sknet", "starnet", "tresnet", "vgg", "vovnet",
    "xception", "xception_aligned",
}  # fmt: skip
"""Files without attention; one of their kind, resnet, is tried."""

SMALL = ("test_", "nano", "xxs", "xxt", "_xt", "tiny", "_ti", "_t", "xs", "small", "_s", "_0", "b0", "m1", "base")
READ = [entry for entry in READABLE if entry.library == "timm"]


def smallest_of_every_file():
    files = defaultdict(list)
    for name in timm.list_models():
        files[_registry._model_to_module[name]].append(name)
    assert set(files) > CONVOLUTIONS

    def size(name):
        return next((i for i, part in enumerate(SMALL) if part in name), len(SMALL)), len(name)

    return {file: min(names, key=size) for file, names in files.items() if file not in CONVOLUTIONS}


def test_every_family_is_read_or_refused():
    read, refused = set(), set()
    known = {type(build(entry, entry.small_size, "small")) for entry in READ if not entry.head}
    models = smallest_of_every_file()
    assert len(models) > 40
    for file, name in models.items():
        with torch.device("meta"):
            model = timm.create_model(name).train()
        try:
            reader = AttentionReader(model)
        except AttentionError as error:
            refused.add(file)
            text = str(error)
        else:
            read.add(file)
            text = ""
            images = torch.empty(2, *model.pretrained_cfg["input_size"], device="meta")
            model(images)
            row, (h, w), _ = reader.take(images)
            assert row.shape == (2, h * w), name
            assert type(model) in known, f"{name}: what its logits come from is tried below"
        assert "module=" not in text, f"{name} has no module to point at"
    assert read >= {
        "cait",
        "convit",
        "crossvit",
        "deit",
        "naflexvit",
        "pit",
        "tnt",
        "vision_transformer",
        "volo",
        "xcit",
    }
    assert refused >= {"beit", "coat", "eva", "resnet", "swin_transformer", "efficientvim", "gemma4_vit"}


@pytest.mark.parametrize(
    "entry", READ, ids=[f"{entry.name}-{entry.options_text}{'-head' * entry.head}" for entry in READ]
)
def test_logits_depend_on_what_is_read(entry):
    torch.manual_seed(0)
    model = build(entry, entry.small_size, "small")
    with torch.no_grad():
        for weight in model.parameters():  # some begin with a classifier or a scale of zeros
            weight.add_(torch.randn_like(weight) * 0.05)
    reader, outputs = AttentionReader(model), []

    def keep(_, __, output):
        outputs.append(output[0] if isinstance(output, tuple) else output)
        outputs[0].retain_grad()

    model.get_submodule(reader.name).register_forward_hook(keep)
    images = example(entry, entry.small_size)
    model(images).square().sum().backward()
    row, (h, w), _ = reader.take(images)
    assert row.shape == (2, h * w)
    gradient = outputs[0].grad
    token = gradient[:, 0] if gradient.ndim == 3 else gradient
    assert token.abs().amax(1).min() > 1e-7
