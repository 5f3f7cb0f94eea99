"""The page's default model, with random weights, and image files of every kind that people have."""

import socket

import numpy as np
import pytest
import torch
from PIL import Image

from transmix.app.model import DEFAULT, PageModel
from transmix.models.loaded import load_model, load_with_data
from transmix.training.loop import train


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="session")
def free_port():
    """Name a port that is free now, so that tests side by side do not reach for the same."""
    return _free_port


@pytest.fixture(scope="session")
def page_model():
    """deit_tiny_patch16_224 as it is loaded where nothing is named."""
    torch.set_num_threads(1)
    return PageModel(load_model(DEFAULT, offline=True), torch.device("cpu"), {"offline": True})


@pytest.fixture(scope="session")
def run_model(small_recipe, images, tmp_path_factory):
    """The model of a short run on two classes, with its validation images."""
    run = tmp_path_factory.mktemp("app") / "run"
    train(small_recipe(images, rand_augment=None, random_erasing=0.0), run)
    (loaded,), data = load_with_data(run, weights="auto")
    return PageModel(loaded, torch.device("cpu"), {}, data)


@pytest.fixture(scope="session")
def digits_model(small_recipe, tmp_path_factory):
    """The model of a short run on the built-in digits, which have masks of the objects."""
    run = tmp_path_factory.mktemp("app") / "run"
    train(small_recipe("digits", train_images=40, image_size=32, rand_augment=None, random_erasing=0.0), run)
    (loaded,), data = load_with_data(run, weights="auto")
    return PageModel(loaded, torch.device("cpu"), {}, data)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Name -> image file of that kind; red above, blue below, 60 x 40 pixels (height x width) when upright."""
    folder = tmp_path_factory.mktemp("files")
    pixels = np.zeros((60, 40, 3), dtype=np.uint8)
    pixels[:30, :, 0], pixels[30:, :, 2] = 255, 255
    image = Image.fromarray(pixels)
    turned = Image.Exif()
    turned[0x0112] = 6  # lies on its side: to be turned by 90 degrees
    made = {
        "plain": (image, "png", {}),
        "large": (image.resize((1000, 1500)), "jpeg", {"quality": 95}),
        "grey": (image.convert("L"), "png", {}),
        "deep": (Image.fromarray(np.full((60, 40), 30_000, dtype=np.uint16)), "png", {}),
        "clear": (image.convert("RGBA"), "png", {}),
        "rotated": (image.transpose(Image.Transpose.ROTATE_90), "jpeg", {"exif": turned, "quality": 95}),
    }
    made["clear"][0].putalpha(0)
    paths = {}
    for name, (one, kind, options) in made.items():
        paths[name] = folder / f"{name}.{kind}"
        one.save(paths[name], kind, **options)
    return paths
