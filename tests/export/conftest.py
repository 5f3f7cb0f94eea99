"""One trained run and one export of it in every format, for all tests here."""

import contextlib
import io
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from transmix.cli import main
from transmix.export.write import PACKAGES
from transmix.models.build import build_model
from transmix.models.loaded import LoadedModel, Preprocessing
from transmix.runs.weights import RunWeights
from transmix.training.loop import train

FORMATS = [name for name, packages in PACKAGES.items() if all(map(find_spec, packages))]
"""Those whose optional packages are installed."""


@pytest.fixture(scope="session")
def run(images, small_recipe, tmp_path_factory):
    """A finished run with an EMA, options of its own, and no default in its preprocessing."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(small_recipe(images, eval_crop=0.8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), lr=2e-3), folder)
    return folder


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory):
    """The run exported by the command line: `folder`, and what the command said."""
    folder = tmp_path_factory.mktemp("exported") / "all"
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        code = main(["export", str(run), "--out", str(folder), "--format", *FORMATS])
    assert code == 0, complained.getvalue()
    return SimpleNamespace(folder=folder, said=said.getvalue(), complained=complained.getvalue())


@pytest.fixture(scope="session")
def untrained(small_recipe):
    """Make what there would be to export if another model had been trained, on 32 x 32 pixels."""

    def make(name, options, **changes):
        classes = ("a", "b", "ü")
        recipe = small_recipe("digits", model=name, model_options=options, image_size=32, **changes)
        torch.manual_seed(0)
        model = build_model(recipe.model, len(classes), 32).eval()
        seen = Preprocessing(32, recipe.augmentation.eval_crop, recipe.augmentation.mean, recipe.augmentation.std)
        chosen = RunWeights(Path("step"), "last", 0, "model", "never trained")
        return LoadedModel("run", model, classes, seen, str(chosen), recipe.model, {}, recipe, chosen)

    return make
