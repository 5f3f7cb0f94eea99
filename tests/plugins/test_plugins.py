"""An installed package adds a method, a label rule, a metric, a suite and a data set, by entry points alone."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from transmix import plugins
from transmix.mixing.methods import METHODS
from transmix.plugins import UnknownNameError
from transmix.warnings import TransMixWarning

TOY = Path(__file__).with_name("roundmix")

RECIPE = """
data: {data: shapes, image_size: 16, workers: 0}
augmentation: {crop: none, flip: 0.0, rand_augment: null, random_erasing: 0.0, eval_crop: 1.0}
model:
  model: vit_tiny_patch16_224
  model_options: {patch_size: 4, embed_dim: 12, depth: 1, num_heads: 2}
mixing: {mix: roundmix, labels: corner, mix_options: {size: 0.5}, labels_options: {weight: 0.75}}
optimization: {epochs: 2, batch_size: 16, warmup_epochs: 0, ema_decay: 0.5}
run: {device: cpu, threads: 1}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the package is installed into."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    source = tmp_path_factory.mktemp("source") / "roundmix"  # building writes beside the source
    for path in sorted(TOY.rglob("*")):
        if path.suffix in (".py", ".toml"):
            to = source / path.relative_to(TOY)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_text(path.read_text())
    subprocess.run([*pip, "--target", str(folder), str(source)], check=True)
    return folder


@pytest.fixture
def here(installed, monkeypatch):
    """The package in this process."""
    monkeypatch.syspath_prepend(str(installed))
    plugins.added.cache_clear()
    yield
    plugins.added.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "roundmix"]:
        del sys.modules[name]


def test_the_command_line_trains_compares_evaluates_and_reports_with_them(warm_python, installed, tmp_path):
    (tmp_path / "toy.yaml").write_text(RECIPE)
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])

    def transmix(*words):
        command = [warm_python, "-m", "transmix", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = transmix(
        *("compare", "--recipe", "toy.yaml", "--out", "runs", "--seeds", "1", "--mix", "roundmix"),
        *("--labels", "area", "corner"),
    )
    assert "roundmix by corner" in said
    assert "the same mixed images: the label alone differs" in (tmp_path / "runs" / "compare.html").read_text()
    assert "margin (%)" in said
    run = tmp_path / "runs" / "roundmix-by-corner-seed0"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "epoch"][-1]
    assert {"margin", "ema_margin", "label_shift"} <= set(last)
    assert last["label_shift"] > 0
    assert (run / "first_boxes.png").exists()
    assert "size: 0.5" in (run / "recipe.yaml").read_text()

    said = transmix("evaluate", str(run), "--suite", "upside-down")
    assert "margin             model " in said
    assert "top1 upside down  model " in said
    found = json.loads((run / "evaluation.json").read_text())
    assert found["scores"]["model"]["margin"] == pytest.approx(last["margin"], abs=1e-5)
    assert found["upside-down"]["model"]["top1_upside_down"] == found["scores"]["model"]["top1"]

    transmix("report", str(run))
    page = (run / "report.html").read_text()
    for text in ("roundmix, labels by corner", "margin", "top1 upside down"):
        assert text in page


def test_they_are_imported_when_their_name_is_asked_for_and_not_before(here):
    assert plugins.names("method", METHODS)[-1] == "roundmix"
    assert "roundmix" not in sys.modules
    disc = plugins.make("method", METHODS, "roundmix", {"border": 2.0})
    assert disc.border == 2.0
    assert "roundmix.mixing" in sys.modules
    with pytest.raises(TypeError, match="method 'roundmix' has no setting 'radius'; it has size, border"):
        plugins.make("method", METHODS, "roundmix", {"radius": 1})
    with pytest.raises(UnknownNameError, match="no method is called 'rondmix'; did you mean roundmix"):
        plugins.find("method", METHODS, "rondmix")


def test_a_method_of_another_package_mixes_with_its_soft_mask(here):
    from transmix.mixing import Mixer

    mixer = Mixer(methods=[plugins.make("method", METHODS, "roundmix", {})], mode="elem")
    images = torch.rand(5, 3, 16, 24)
    mixed = mixer(images, torch.arange(5))
    assert mixed.mask.dtype == torch.float32
    assert ((mixed.mask > 0) & (mixed.mask < 1)).any()
    share = mixed.mask[:, None]
    assert torch.allclose(mixed.images, images * (1 - share) + images.flip(0) * share, atol=1e-6)
    assert torch.allclose(mixed.lam, 1 - mixed.mask.mean((1, 2)), atol=1e-6)


def a_package(monkeypatch, *entries):
    found = [importlib.metadata.EntryPoint(name, value, plugins.GROUP) for name, value in entries]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found)
    plugins.added.cache_clear()


@pytest.fixture(autouse=True)
def _forget():
    yield
    plugins.added.cache_clear()


def test_a_name_that_is_taken_and_one_that_cannot_be_imported_say_whose_they_are(monkeypatch):
    a_package(monkeypatch, ("method.cutmix", "json:dumps"), ("method.gone", "no.such.module:Thing"))
    with pytest.raises(UnknownNameError, match="a package adds a method called 'cutmix', which transmix has"):
        plugins.find("method", METHODS, "cutmix")
    with pytest.raises(UnknownNameError, match=r"'gone' of a package \(no.such.module:Thing\) cannot be imported"):
        plugins.find("method", METHODS, "gone")
    assert plugins.find("method", METHODS, "mixup") is METHODS["mixup"]


def test_an_entry_of_no_kind_is_named(monkeypatch):
    a_package(monkeypatch, ("metod.cutmix", "json:dumps"))
    with pytest.warns(TransMixWarning, match="a package adds 'metod.cutmix', which is none of method.NAME, rule.NAME"):
        assert plugins.names("method", METHODS) == [*METHODS]


def test_a_name_that_two_packages_add_belongs_to_neither(monkeypatch):
    a_package(monkeypatch, ("method.both", "json:dumps"), ("method.both", "json:loads"))
    with pytest.raises(
        UnknownNameError, match="a package and a package both add a method called 'both'; uninstall one"
    ):
        plugins.find("method", METHODS, "both")


@pytest.mark.parametrize("name", ["method.none", "method.my.mix", "method.a+b"])
def test_a_name_that_could_not_be_asked_for_is_named(monkeypatch, name):
    a_package(monkeypatch, (name, "json:dumps"))
    with pytest.warns(TransMixWarning, match="which is none of method"):
        assert plugins.names("method", METHODS) == [*METHODS]
