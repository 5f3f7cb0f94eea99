"""Files from a stranger: nothing in them is run, and nothing in them decides where we write."""

import contextlib
import csv
import importlib.util
import io
import json
import os
import pickle
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from transmix.cli import main
from transmix.data.dataset import DataError
from transmix.data.source import open_data
from transmix.models.build import build_model
from transmix.recipes import RecipeError, dump_recipe, load_recipe, recipe_text
from transmix.recipes.settings import Model
from transmix.runs.checkpoint import load_checkpoint, read_tensors, verify_checkpoint, write_manifest
from transmix.runs.error import CheckpointError
from transmix.training.loop import train

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def watched():
    """Give a context in which writes outside a folder are noted, as the fuzzer does it."""
    spec = importlib.util.spec_from_file_location("fuzz_watch", ROOT / "scripts" / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.watched


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def proof(tmp_path):
    """Give the path of a file that exists once a payload was run; a test that leaves it behind fails."""
    path = tmp_path / "payload-was-run"
    yield path
    assert not path.exists()


def spoilt(path, proof, zipped):
    """Write a pickle with a payload: torch's zip format, or a bare pickle."""
    content = {"weight": torch.zeros(2), "payload": Payload(proof)}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    return path


def test_the_payload_would_work(tmp_path):
    proof = tmp_path / "works"
    torch.load(spoilt(tmp_path / "x", proof, zipped=True), weights_only=False)
    assert proof.exists()
    proof.unlink()
    pickle.loads(spoilt(tmp_path / "x", proof, zipped=False).read_bytes())
    assert proof.exists()


# Pickles in place of weights.


@pytest.fixture(scope="module")
def finished(images, small_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evil") / "run"
    train(small_recipe(images, max_steps=2, rand_augment=None, random_erasing=0.0), folder)
    return folder


def copy_of(run, target):
    import shutil

    return Path(shutil.copytree(run, target))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["evil.safetensors", "evil.pth", "evil.bin"])
def test_a_pickle_is_refused_as_weights_to_start_from_or_to_evaluate(
    name, zipped, images, small_recipe, tmp_path, proof, capsys
):
    path = spoilt(tmp_path / name, proof, zipped)
    with pytest.raises(
        RecipeError, match=r"cannot read weights from|init must be a timm model or a \.safetensors file"
    ):
        train(small_recipe(images, init=str(path)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for more in ([], ["--model", "vit_tiny_patch16_224"]):
        assert main(["evaluate", str(path), "--data", str(images), *more]) == 2
    assert all(line.startswith("transmix: ") for line in capsys.readouterr().err.splitlines())
    with pytest.raises(CheckpointError, match="cannot read"):
        read_tensors(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "random-0.safetensors", "state.json"])
def test_a_pickle_in_a_checkpoint_is_refused_even_if_the_manifest_vouches_for_it(
    finished, images, small_recipe, tmp_path, proof, name, signed, zipped
):
    run = copy_of(finished, tmp_path / "run")
    folder = next((run / "checkpoints").iterdir())
    spoilt(folder / name, proof, zipped)
    if signed:
        (folder / "manifest.json").unlink()
        write_manifest(folder)
    with pytest.raises(CheckpointError, match=r"cannot read|is damaged"):
        load_checkpoint(folder)


def test_a_run_with_pickles_in_it_is_refused_by_every_command(finished, images, tmp_path, proof, capsys):
    run = copy_of(finished, tmp_path / "run")
    for path in [*run.rglob("*.safetensors"), *run.rglob("state.json")]:
        spoilt(path, proof, zipped=True)
    for folder in (run / "checkpoints").iterdir():
        (folder / "manifest.json").unlink()
        write_manifest(folder)
    recipe = str(run / "recipe.yaml")
    for command in (
        ["evaluate", str(run)],
        ["export", str(run)],
        ["evaluate", str(run / "model.safetensors"), "--data", str(images)],
    ):
        assert main(command) == 2
    summary = run / "summary.json"
    summary.unlink()
    with contextlib.suppress(Exception):  # whatever comes of it, the proof stays away
        main(["train", "--recipe", recipe, "--out", str(run), "--resume"])


@pytest.mark.parametrize("name", ["evil.pth", "evil.safetensors"])
@pytest.mark.parametrize(
    "option", ["checkpoint_path", "pretrained_cfg_overlay", "pretrained_cfg", "cache_dir", "pretrained"]
)
def test_model_options_cannot_name_weights(option, name, images, small_recipe, tmp_path, proof, capsys):
    path = spoilt(tmp_path / name, proof, zipped=True)
    with pytest.raises(RecipeError, match=f"^model_options cannot set {option}; weights come from pretrained or init$"):
        build_model(Model("vit_tiny_patch16_224", {option: str(path)}), 2, 224)
    weights = tmp_path / "weights.safetensors"
    about = {"model": "vit_tiny_patch16_224", "model_options": {option: str(path)}, "image_size": 16, "eval_crop": 1.0}
    about |= {"classes": ["dark", "light"], "mean": [0.5] * 3, "std": [0.5] * 3}
    save_file({"x": torch.zeros(1)}, weights, {"transmix": json.dumps(about)})
    assert main(["evaluate", str(weights), "--data", str(images)]) == 2
    assert f"model_options cannot set {option}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train", "data_batch_1"])
def test_a_pickle_among_data_is_not_run(tmp_path, proof, name):
    batches = (
        ["test", "meta"]
        if name == "train"
        else [f"data_batch_{n}" for n in range(2, 6)] + ["test_batch", "batches.meta"]
    )
    for file in [name, *batches]:
        (tmp_path / file).write_bytes(pickle.dumps({"data": Payload(proof), "label_names": Payload(proof)}))
    with pytest.raises(DataError, match=r"cannot be read in .* not found or corrupted"):
        open_data(tmp_path)


# YAML.

TAGS = [
    "!!python/object/apply:pathlib.Path.touch [{proof}]",
    "!!python/object/apply:os.system ['touch {proof}']",
    "!!python/object/new:os.system ['touch {proof}']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/tuple [1, 2]",
]


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_that_asks_for_python_is_refused(tag, tmp_path, proof, capsys):
    text = tag.format(proof=proof)
    for recipe in (f"data: {text}", f"model:\n  model_options: {{a: {text}}}", f"{text}: 1", text):
        path = tmp_path / "recipe.yaml"
        path.write_text(recipe)
        with pytest.raises(RecipeError, match=r"recipe\.yaml is not YAML: "):
            load_recipe(str(path))
    command = ["train", "--recipe", "digits", "--out", str(tmp_path / "run"), "--model-options", f"depth={text}"]
    assert main(command) == 2
    assert "is not YAML" in capsys.readouterr().err


def test_the_tag_would_work_with_a_loader_that_is_not_safe(tmp_path):
    proof = tmp_path / "works"
    with contextlib.suppress(Exception):
        yaml.unsafe_load(TAGS[1].format(proof=proof))
    assert proof.exists()


@pytest.mark.timeout(20)
def test_yaml_that_swells_is_refused_before_it_does(tmp_path):
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    merged = ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    for text in ("\n".join(lines), "\n".join(merged), "a: &a [*a]", "a: &a {b: *a}"):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        with pytest.raises(RecipeError, match=r"uses a YAML alias \(\*name\); write the value out"):
            load_recipe(str(path))
    path.write_text("x" * 200_000)
    with pytest.raises(RecipeError, match="longer than 100000 letters"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "../digits", "/etc/passwd", "..", "digits/../digits", "digits.yaml\0", ""]
)
def test_a_recipes_name_is_no_path(name, tmp_path, capsys):
    with pytest.raises(RecipeError, match="no recipe is called"):
        recipe_text(name)
    with pytest.raises(RecipeError, match="no recipe is called"):
        load_recipe(name)
    assert main(["recipes", "show", name]) == 2
    assert main(["recipes", "cp", name, str(tmp_path / "copy.yaml")]) == 2
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


# Manifests.


@pytest.mark.parametrize(
    "name", ["../../../secret.txt", "/etc/passwd", "..", "x/../../secret.txt", "manifest.json", "a\0b", ""]
)
def test_a_manifest_cannot_name_a_file_outside_its_checkpoint(finished, tmp_path, name):
    run = copy_of(finished, tmp_path / "run")
    (tmp_path / "secret.txt").write_text("secret")
    folder = next((run / "checkpoints").iterdir())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[name] = {"size": 6, "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    with pytest.raises(CheckpointError, match=r"is damaged: it names .+, which is no file of a checkpoint"):
        verify_checkpoint(folder)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "make",
    [lambda path: path.symlink_to("/etc/passwd"), lambda path: path.symlink_to("/dev/zero"), os.mkfifo, os.mkdir],
)
def test_a_file_of_a_checkpoint_cannot_be_a_link_or_a_pipe(finished, tmp_path, make):
    folder = next((copy_of(finished, tmp_path / "run") / "checkpoints").iterdir())
    (folder / "model.safetensors").unlink()
    make(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: it is not a plain file"):
        load_checkpoint(folder)


def test_weights_that_nobody_vouched_for_are_not_part_of_a_checkpoint(finished, tmp_path):
    folder = next((copy_of(finished, tmp_path / "run") / "checkpoints").iterdir())
    save_file({"x": torch.zeros(1)}, folder / "random-7.safetensors")
    assert "random-7" not in load_checkpoint(folder).tensors


# Class names.

EVIL = ("../../evil", "/tmp/evil", "a\nb: [x", "=1+1", "`code`", "..", "con.txt\0", "ü" * 300)


@pytest.fixture(scope="module")
def evil_data(tmp_path_factory):
    root = tmp_path_factory.mktemp("evil_data")
    metadata = {"info": {"features": {"label": {"_type": "ClassLabel", "names": list(EVIL)}}}}
    for split in ("train", "test"):
        contents = []
        for number in range(16):
            buffer = io.BytesIO()
            Image.new("RGB", (16, 16), (number * 16, 0, 0)).save(buffer, "PNG")
            contents.append(buffer.getvalue())
        table = pa.table({"image": pa.array(contents, pa.binary()), "label": [number % 8 for number in range(16)]})
        path = root / f"{split}-00000-of-00001.parquet"
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(metadata)}), path)
    return root


def test_class_names_name_no_file_and_come_through_every_file_whole(
    evil_data, small_recipe, tmp_path, watched, monkeypatch, capsys
):
    recipe = tmp_path / "work" / "recipe.yaml"
    recipe.parent.mkdir()
    run = recipe.parent / "run"
    recipe.write_text(dump_recipe(small_recipe(evil_data, max_steps=2, rand_augment=None, random_erasing=0.0)))
    monkeypatch.setenv("MPLCONFIGDIR", str(recipe.parent))
    monkeypatch.setattr("transmix.runs.folder.commit", lambda checkout: None)  # asks git, in words of its own
    with watched(recipe.parent) as events:
        assert main(["train", "--recipe", str(recipe), "--out", str(run)]) == 0
        assert main(["evaluate", str(run), "--workers", "0"]) == 0
        assert main(["export", str(run)]) == 0
        assert main(["doctor", str(evil_data)]) in (0, 1)
    assert events == []
    assert not Path("/tmp/evil").exists()
    assert list(tmp_path.iterdir()) == [recipe.parent]
    shown = capsys.readouterr()
    assert "a\\nb: [x" in shown.out  # one line, as evaluate prints it
    assert all("evil" not in path.name for path in run.rglob("*"))
    assert json.loads((run / "classes.json").read_text(encoding="utf-8")) == list(EVIL)
    with (run / "confusion.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == [row[0] for row in rows[1:]] == list(EVIL)
    assert json.loads((run / "export" / "config.json").read_text(encoding="utf-8"))["label_names"] == list(EVIL)
    assert load_file(run / "export" / "model.safetensors")
