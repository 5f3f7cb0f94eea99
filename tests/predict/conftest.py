"""One trained run for all tests here."""

import pytest

from transmix.training.loop import train


@pytest.fixture(scope="session")
def run(images, small_recipe, tmp_path_factory):
    """A short run with an EMA, and no default in its preprocessing."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    changes = {"eval_crop": 0.8, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "lr": 2e-3, "max_steps": 3}
    train(small_recipe(images, **changes), folder)
    return folder
