"""What the tests of suites share: small models that are opened, images in memory and in folders."""

import os
import subprocess
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from transmix.data.dataset import ImageData, Split
from transmix.distributed import World
from transmix.evaluation.evaluate import Evaluator
from transmix.models.loaded import LoadedModel, Preprocessing

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")
HALF = ((0.5,) * 3, (0.5,) * 3)


def _small_vit(side=16, patch=4, classes=6, **options):
    torch.manual_seed(3)
    model = VisionTransformer(side, patch, embed_dim=24, depth=2, num_heads=2, num_classes=classes, **options)
    nn.init.normal_(model.head.weight, std=1.0)  # else all logits are nearly alike
    return model


def _opened(model=None, classes=CLASSES, side=16, mean_std=HALF, **options):
    options = {"world": World(0, 1, 1, torch.device("cpu")), "batch_size": 5, "workers": 0, **options}
    model = _small_vit(side, classes=len(classes)) if model is None else model
    loaded = LoadedModel("random", model.eval(), tuple(classes), Preprocessing(side, 1.0, *mean_std))
    return Evaluator(loaded, **options)


def _data(samples=23, side=16, classes=CLASSES):
    rng = np.random.default_rng(1)
    split = Split(
        rng.integers(0, 256, (samples, side, side, 3), dtype=np.uint8), rng.integers(0, len(classes), samples)
    )
    return ImageData("noise", tuple(classes), split, split)


def _masked(samples=7):
    data, rng = _data(samples), np.random.default_rng(2)
    split = Split(data.val.images, data.val.labels, rng.random((samples, 16, 16)) < 0.3)
    return ImageData("masked", data.classes, split, split)


def _coloured(train=48, val=21, classes=CLASSES[:3], size=(16, 16), seed=5):
    """Make images whose foreground, a rectangle, is bright in the colour of their class; training images apart."""
    rng, (height, width) = np.random.default_rng(seed), size

    def split(samples):
        labels = rng.integers(0, len(classes), samples)
        images = rng.integers(0, 90, (samples, height, width, 3), dtype=np.uint8)
        masks = np.zeros((samples, height, width), dtype=bool)
        for image, mask, label in zip(images, masks, labels, strict=True):
            top, left = rng.integers(0, height - 8), rng.integers(0, width - 8)
            mask[top : top + rng.integers(4, 9), left : left + rng.integers(4, 9)] = True
            image[mask] += np.array([60, 80, 100], dtype=np.uint8)
            image[..., label % 3] += 30
        return Split(images, labels, masks)

    return ImageData("coloured", tuple(classes), split(train), split(val))


def _write_folders(root, counts, side=16):
    """Write `counts[name]` images of noise into root/<name>."""
    rng = np.random.default_rng(7)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def small_vit():
    """Make a random ViT for images of 16 x 16 pixels in 4 x 4 patches, the same each time."""
    return _small_vit


@pytest.fixture(scope="session")
def opened():
    """Make an opened model, by default that random ViT, on this process alone."""
    return _opened


@pytest.fixture(scope="session")
def noise():
    """Make a data set of noise in memory."""
    return _data


@pytest.fixture(scope="session")
def masked():
    """Make such a data set with masks, of noise too."""
    return _masked


@pytest.fixture(scope="session")
def coloured():
    """Make a data set with masks that can be learnt, with training images apart from the others."""
    return _coloured


@pytest.fixture(scope="session")
def write_folders():
    """Write class folders of noise: (root, {class: images})."""
    return _write_folders


@pytest.fixture
def two_processes(warm_python, tmp_path):
    """Run a program as two processes, whose words are rank, `tmp_path` and more: what each said."""

    def run(program, *words):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
        command = [warm_python, "-c", textwrap.dedent(program)]
        ranks = [
            subprocess.Popen(
                [*command, str(rank), str(tmp_path), *words], env=environment, stdout=subprocess.PIPE, text=True
            )
            for rank in range(2)
        ]
        try:
            said = [rank.communicate(timeout=300)[0] for rank in ranks]
            assert [rank.returncode for rank in ranks] == [0, 0]
        finally:
            for rank in ranks:
                rank.kill()
        return said

    return run


@pytest.fixture(scope="session")
def logits_of():
    """Give all logits (N, K) and labels (N,) of a split, in one batch and without a loader."""

    def run(opened, split):
        pixels = torch.from_numpy(np.stack([split.images[index] for index in range(len(split))])).permute(0, 3, 1, 2)
        mean, std = (
            torch.tensor(values)[:, None, None] for values in (opened.preprocessing.mean, opened.preprocessing.std)
        )
        with torch.no_grad():
            return opened.model((pixels / 255 - mean) / std), torch.from_numpy(split.labels)

    return run
