"""What `import transmix` costs and offers."""

import subprocess
import sys

import pytest

import transmix

HEAVY = ("timm", "torchvision", "yaml", "tyro", "matplotlib", "pyarrow", "sklearn", "safetensors", "tensorboard")


def loaded_by(code):
    """Which heavy packages are loaded after running `code` in a new interpreter."""
    report = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_transmix_loads_torch_alone():
    assert loaded_by("import transmix") == []


def test_a_package_that_is_loaded_would_be_seen():
    pytest.importorskip("yaml")
    assert loaded_by("import transmix, yaml") == ["yaml"]


def test_all_names_are_there():
    assert sorted(transmix.__all__) == list(transmix.__all__)
    for name in transmix.__all__:
        assert getattr(transmix, name) is not None
    scope = {}
    exec("from transmix import *", scope)
    assert set(transmix.__all__) <= set(scope)


def test_our_errors_and_warnings_are_of_the_kind_that_users_expect():
    assert issubclass(transmix.AttentionError, RuntimeError)
    assert issubclass(transmix.TransMixWarning, UserWarning)


def test_the_version_is_that_of_the_project():
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("transmix")
    except PackageNotFoundError:
        pytest.skip("transmix is used from its folder and not installed")
    assert transmix.__version__ == installed
