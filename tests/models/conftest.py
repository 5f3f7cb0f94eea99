"""The scripts behind the table of models, as modules."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _script(name, folder="scripts"):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / folder)
        return importlib.import_module(name)


@pytest.fixture(scope="session")
def oracle():
    """Give scripts/explicit.py: a model's attention formed in full, with nothing of the reader."""
    return _script("explicit")


@pytest.fixture(scope="session")
def maker():
    """Give scripts/models.py, which makes the table and the page."""
    return _script("models")


@pytest.fixture(scope="session")
def benchmark():
    """Give benchmarks/reading_overhead.py, which measures what reading costs."""
    return _script("reading_overhead", "benchmarks")
