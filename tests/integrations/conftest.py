"""Real photographs and a small ViT whose attention is far from uniform."""

from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

HEIGHT, WIDTH, CLASSES = 32, 48, 3


@lru_cache
def _photographs(folder: Path):
    from transmix.data.tables import read_parquet

    split = read_parquet(folder).train
    rows = [int(row) for label in range(CLASSES) for row in (split.labels == label).nonzero()[0][:4]]
    images = [torch.from_numpy(split.images[row].copy()).permute(2, 0, 1)[None] / 255 for row in rows]
    small = [F.interpolate(image, (HEIGHT, WIDTH), mode="bilinear", antialias=True)[0] for image in images]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return torch.stack(small)[order], torch.from_numpy(split.labels[rows])[order]


@pytest.fixture
def photographs(real_images):
    """Twelve photographs of three breeds: images (12, 3, 32, 48) in [0, 1] and labels (12,)."""
    return _photographs(real_images / "pets3")


@pytest.fixture
def make_model():
    """Make the same ViT of two blocks each time; its last attention is sharp, so that it moves the labels."""

    def make():
        timm = pytest.importorskip("timm")
        tiny = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = timm.create_model("deit_tiny_patch16_224", img_size=(HEIGHT, WIDTH), **tiny)
        with torch.no_grad():
            model.blocks[-1].attn.qkv.weight.mul_(20)
        return model.train()

    return make
