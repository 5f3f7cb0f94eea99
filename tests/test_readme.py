"""What the README shows runs."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from transmix.cli.options import parse
from transmix.cli.train import Train, recipe_name
from transmix.labels.rules import RULES
from transmix.methods import NAMED
from transmix.recipes import load_recipe

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_its_python_runs_as_it_stands_and_prints_labels_that_move(monkeypatch, capsys):
    create = timm.create_model

    def strange_weights(*args, pretrained, **settings):  # the published ones need a network
        assert pretrained
        torch.manual_seed(0)
        model = create(*args, **settings)
        for block in model.blocks:
            nn.init.normal_(block.attn.qkv.weight, std=0.3)
        return model

    monkeypatch.setattr(timm, "create_model", strange_weights)
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert 0 < float(names["loss"].detach()) < 20
    printed = re.findall(r"([\d.]+) by area, ([\d.]+) by TransMix", capsys.readouterr().out)
    assert len(printed) == 4
    assert any(area != lam for area, lam in printed)


def test_its_costs_are_those_that_were_measured():
    measured = json.loads((ROOT / "benchmarks" / "results" / "methods_cpu.json").read_text())["rows"]
    ratios = {row["variant"]: f"{row['ratio']:.2f}" for row in measured if row["variant"] != "cutmix"}
    table = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) \|$", README, flags=re.MULTILINE)
    assert {name.lower(): cost for name, cost in table} == ratios


def test_its_counts_are_those_of_the_tables():
    assert len(NAMED) + 1 == 11  # TransMix beside them
    assert len(RULES) == 10
    assert "Eleven methods and ten label rules" in README
    with (ROOT / "transmix" / "models" / "readable.csv").open(newline="") as file:
        measured = sum(row["difference"] != "" for row in csv.DictReader(file))
    assert f"[{measured} measured models]" in README


def test_it_fits_a_screen_and_a_little():
    assert len(README.splitlines()) <= 125


def test_every_example_has_its_page():
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "loops").glob("*.md"))
    assert all(f"examples/{path.name}" in pages for path in (ROOT / "examples").glob("*.py"))


def commands():
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    blocks = [text for language, text in fenced if not language]
    return [line for block in blocks for line in block.splitlines() if "transmix train" in line]


@pytest.mark.parametrize("command", commands())
def test_its_commands_are_understood(command):
    words = shlex.split(command, comments=True)
    arguments = words[words.index("train") + 1 :]
    parse(Train, "train", arguments, Train(out=Path(), settings=load_recipe(recipe_name(arguments))))


def test_every_folder_of_the_package_is_in_the_tree_of_contributing():
    package = ROOT / "transmix"
    folders = [path.name for path in package.iterdir() if (path / "__init__.py").exists()]
    assert all(f"  {name}/" in CONTRIBUTING for name in folders)
