"""What the README shows runs."""

import re
import shlex
from pathlib import Path

import pytest

from transmix.cli.options import parse
from transmix.cli.train import Train, _recipe_name
from transmix.recipes import load_recipe

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_the_three_lines_run_as_they_stand():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})


def commands():
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    blocks = [text for language, text in fenced if not language]
    return [line for block in blocks for line in block.splitlines() if "transmix train" in line]


@pytest.mark.parametrize("command", commands())
def test_its_commands_are_understood(command):
    words = shlex.split(command, comments=True)
    arguments = words[words.index("train") + 1 :]
    parse(Train, "train", arguments, Train(out=Path(), settings=load_recipe(_recipe_name(arguments))))


def test_every_folder_of_the_package_is_in_its_tree():
    package = Path(__file__).resolve().parents[1] / "transmix"
    folders = [path.name for path in package.iterdir() if (path / "__init__.py").exists()]
    assert all(f"  {name}/" in README for name in folders)
