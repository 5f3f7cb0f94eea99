"""The wheel, installed without the checkout, carries all that it needs to train."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy of the sources, so that the checkout stays as it is."""
    import shutil

    source = tmp_path_factory.mktemp("source") / "transmix"
    left_out = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(
        ROOT, source, ignore=lambda folder, names: left_out(folder, names) if Path(folder) == ROOT else set()
    )
    code = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("transmix-*.whl"))


def test_the_wheel_holds_recipes_and_licence_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    kinds = (".css", ".csv", ".html", ".jinja", ".js", ".json", ".md", ".txt", ".typed", ".yaml")
    data = {str(path.relative_to(ROOT)) for path in (ROOT / "transmix").rglob("*") if path.suffix in kinds}
    assert {"transmix/py.typed", "transmix/recipes/digits.yaml", "transmix/export/card.md"} < data <= set(names)
    assert any(name.endswith("LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/", "scripts/")) for name in names)


def test_the_installed_wheel_trains_two_steps_without_the_checkout(wheel, images, tmp_path):
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    code = "import sys, transmix; from transmix.cli import main; print(transmix.__file__); sys.exit(main(sys.argv[1:]))"
    options = ["--data", str(images), "--batch-size", "8", "--max-steps", "2"]
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--recipe", "digits", "--out", "run", *options],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))
    assert (tmp_path / "run" / "summary.json").exists()
