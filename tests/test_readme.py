"""What the README shows runs."""

import re
import shlex
from pathlib import Path

import pytest

from transmix.cli.options import parse
from transmix.cli.train import Train, recipe_name
from transmix.recipes import load_recipe

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_every_piece_of_python_runs_as_it_stands_one_after_the_other():
    """The three lines on timm, torchvision, Hugging Face, one's own model, and one with a class-attention head."""
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 6
    names, losses = {}, []
    for block in blocks:
        assert "tm = transmix.TransMix(" in block
        exec(compile(block, "README.md", "exec"), names)
        losses.append(float(names["loss"].detach()))
        assert names["mixed"].images.shape == (4, 3, 224, 224)
    assert len(set(losses)) == 6
    assert all(0 < loss < 20 for loss in losses)


def test_every_example_it_names_is_there_and_every_example_is_named():
    folder = Path(__file__).resolve().parents[1] / "examples"
    named = set(re.findall(r"\(examples/(\w+\.py)\)", README))
    assert named == {path.name for path in folder.glob("*.py")}


def commands():
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    blocks = [text for language, text in fenced if not language]
    return [line for block in blocks for line in block.splitlines() if "transmix train" in line]


@pytest.mark.parametrize("command", commands())
def test_its_commands_are_understood(command):
    words = shlex.split(command, comments=True)
    arguments = words[words.index("train") + 1 :]
    parse(Train, "train", arguments, Train(out=Path(), settings=load_recipe(recipe_name(arguments))))


def test_every_folder_of_the_package_is_in_its_tree():
    package = Path(__file__).resolve().parents[1] / "transmix"
    folders = [path.name for path in package.iterdir() if (path / "__init__.py").exists()]
    assert all(f"  {name}/" in README for name in folders)
