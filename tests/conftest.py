"""What all tests share: real images where present, small data and recipes for all that trains, a browser for pages."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transmix.data.settings import Augmentation, Data
from transmix.recipes import Recipe
from transmix.recipes.settings import Mixing, Model, Optimization, Run

REAL_IMAGES = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def real_images():
    """Give the folder of real data sets, or skip: a checkout alone does not carry them."""
    if not REAL_IMAGES.is_dir():
        pytest.skip(f"real images are not present at {REAL_IMAGES}")
    return REAL_IMAGES


def write_class_folders(root: Path, train: int = 20, val: int = 4, size: tuple[int, int] = (20, 16)) -> Path:
    """Write two classes of noise, one dark and one light, of (height, width) pixels."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for brightness, name in ((60, "dark"), (180, "light")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.normal(brightness, 40, (*size, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    return root


def _small_recipe(data: Path | str, **changes: object) -> Recipe:
    recipe = Recipe(
        Data(data=str(data), image_size=16, workers=0),
        Augmentation(crop="pad", pad=2, rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25, eval_crop=1.0),
        Model(
            "vit_tiny_patch16_224",
            {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "drop_rate": 0.1},
            drop_path=0.2,
        ),
        Mixing(),
        Optimization(epochs=2, batch_size=8, warmup_epochs=0.5, ema_decay=0.9, clip_grad=1.0),
        Run(threads=1, log_every=2),
    )
    for section in ("data", "augmentation", "model", "mixing", "optimization", "run"):
        settings = getattr(recipe, section)
        mine = {name: value for name, value in changes.items() if hasattr(settings, name)}
        recipe = replace(recipe, **{section: replace(settings, **mine)})
    return recipe


@pytest.fixture(scope="session")
def small_recipe():
    """Make a recipe whose run takes seconds and draws on every kind of randomness; changes by setting name."""
    return _small_recipe


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of 40 training and 8 validation images in two classes."""
    return write_class_folders(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def says():
    """Expect an error of a kind with exactly this text: `with says(ValueError, "..."):`."""

    @contextmanager
    def expect(kind, text):
        with pytest.raises(kind) as caught:
            yield caught
        assert str(caught.value) == text

    return expect


@pytest.fixture(scope="session")
def warm_python():
    """A Python for child processes that need torch, timm and the package, which it has imported already."""
    if not hasattr(os, "fork"):
        pytest.skip("children are forked")
    program = Path(__file__).with_name("warm_python.py")
    with tempfile.TemporaryDirectory() as folder:  # a short path, as a socket needs
        socket, python = Path(folder, "socket"), Path(folder, "python")
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -E -S {program} {socket} {python} "$@"\n')
        python.chmod(0o755)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
        server = subprocess.Popen([sys.executable, str(program), str(socket), str(python)], **pipes)
        assert server.stdout.readline() == b"ready\n"
        yield str(python)
        server.stdin.close()
        server.wait(timeout=60)


CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def browser():
    """Start a headless Chromium, the system's or Playwright's own, or skip."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, CHROMIUM)), playwright.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip("no Chromium on this machine; `make browser` installs one")
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=300_000)
        yield started
        started.close()
