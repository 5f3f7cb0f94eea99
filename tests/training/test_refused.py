"""Everything that is refused is refused in one line and before the run folder exists."""

import json
import os
import shutil

import pytest

from transmix.cli import main
from transmix.recipes import dump_recipe
from transmix.report.run import write_report
from transmix.training.loop import train

BARE = ["patch_size=", "embed_dim=", "depth=", "num_heads=", "drop_rate="]


def complaint(capsys, recipe_file, out, *arguments):
    assert main(["train", "--recipe", str(recipe_file), "--out", str(out), *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert not out.exists()
    return lines[0]


@pytest.fixture(scope="module")
def recipe_file(images, small_recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(dump_recipe(small_recipe(images, max_steps=1)))
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--model-options", "in_chans=1"],
            "model_options in_chans=1: images are RGB, so a model has 3 input channels",
        ),
        (["--model-options", "num_classes=7"], "the model returns (1, 7) for an image of 3 x 16 x 16, not (1, 2)"),
        (["--model-options", "num_classes=0"], "not (1, 2)"),
        (["--model-options", "num_heads=5"], "timm cannot create"),
        (["--model-options", "depth=many"], "timm cannot create"),
        (
            ["--model", "vit_tyny_patch16_224"],
            "timm has no model 'vit_tyny_patch16_224'; did you mean vit_tiny_patch16",
        ),
        (["--image-size", "20"], "image_size 20 is not a multiple of the model's patch of 8 pixels; use 16 or 24"),
        (["--batch-size", "64"], "40 training images do not fill one batch of 64: --batch-size 40 or less"),
        (["--batch-size", "9", "--accumulate", "2"], "batch_size 9 is not a multiple of 1 processes x 2"),
        (["--rand-augment", "randy"], "rand"),
        (["--crop-scale", "2", "1"], "crop_scale needs two numbers above 0 and at most 1, the lower first, not 2 1"),
        (["--crop-ratio", "2", "1"], "crop_ratio needs two numbers above 0, the lower first, not 2 1"),
        (["--std", "0.2", "0", "0.2"], "std must be a number above 0, not 0.0"),
        (["--betas", "0.9", "2"], "betas must lie in [0, 1), not 2.0"),
        (["--device", "gpu"], "gpu"),
        (["--layer-decay", "-1"], "layer_decay must be a number above 0, not -1.0"),
        (["--clip-grad", "-1"], "clip_grad must be a number above 0, not -1.0"),
        (["--drop-path", "2"], "drop_path must lie in [0, 1), not 2.0"),
        (["--model", "resnet18", "--model-options", *BARE], "class"),
        (["--model", "convnext_atto", "--mix", "cutmix", "--grad-checkpointing"], "timm cannot create"),
        (["--train-images", "41"], "train_images 41 is more than the 40 training images available"),
        (["--label-column", "label"], "--label-column are for Parquet files"),
        (["--held-out", "dev"], "no folder 'dev'"),
        (["--threads", "0"], "threads must be at least 1, not 0"),
        (["--workers", "-1"], "workers must be at least 0, not -1"),
        (["--pad", "-1"], "pad must be at least 0, not -1"),
        (["--mix-epochs", "-1"], "mix_epochs must be at least 0, not -1"),
        (["--max-steps", "0"], "max_steps must be at least 1, not 0"),
        (["--eps", "-1"], "eps must be a number above 0, not -1.0"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_run_folder_exists(
    recipe_file, tmp_path, capsys, arguments, words
):
    assert words in complaint(capsys, recipe_file, tmp_path / "run", *arguments)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: shutil.rmtree(root / "train" / "dark"), "val: not among the classes of train: dark"),
        (lambda root: (root / "train" / os.fsdecode(b"caf\x82")).mkdir(), "the class name 'caf\\udc82' is not UTF-8"),
        (lambda root: (root / "train" / "fox").mkdir(), "train: no images in class folder fox"),
        (lambda root: (root / "train" / "light" / "000.png").write_bytes(b"x"), "light/000.png: cannot read the image"),
        (lambda root: (root / "val" / "light" / "003.png").write_bytes(b"x"), "light/003.png: cannot read the image"),
        (lambda root: shutil.rmtree(root / "val"), "no folder 'val' or 'valid'"),
    ],
)
def test_data_that_cannot_be_used_are_refused_before_the_run_folder_exists(
    images, recipe_file, tmp_path, capsys, damage, words
):
    root = tmp_path / "images"
    shutil.copytree(images, root)
    damage(root)
    assert words in complaint(capsys, recipe_file, tmp_path / "run", "--data", str(root))


@pytest.fixture(scope="module")
def without_dark(images, small_recipe, tmp_path_factory):
    """A run on folders train, valid and test, whose held-out part lacks a class; and all that it printed."""
    root = tmp_path_factory.mktemp("three")
    shutil.copytree(images / "train", root / "train")
    shutil.copytree(images / "val" / "light", root / "valid" / "light")
    shutil.copytree(images / "val", root / "test")
    (root / "valid" / "dark").mkdir()
    train(small_recipe(root, max_steps=5, epochs=1), root / "run", at_end=write_report)
    return root


def test_a_run_keeps_and_reports_its_held_out_part_and_what_that_lacks(without_dark, capsys):
    run = without_dark / "run"
    about = json.loads((run / "data.json").read_text())
    said = "valid has no image of class dark: no score says how well it is recognised"
    assert about == {
        "held_out": "valid",
        "columns": None,
        "packed": False,
        "images": {"train": 40, "held_out": 4},
        "classes_not_held_out": ["dark"],
        "notes": [said],
    }
    page = (run / "report.html").read_text()
    assert said in page
    assert "4 images of valid" in page
    assert main(["evaluate", str(run), "--workers", "0", "--suite", "calibration"]) == 0
    shown = capsys.readouterr().out
    assert ": 4 images (valid)" in shown
    assert said in shown
    scores = json.loads((run / "evaluation.json").read_text())["scores"]["model"]
    assert scores["images"] == 4
    assert scores["top1"] in (0, 0.25, 0.5, 0.75, 1)


def test_the_first_line_names_the_held_out_part_and_a_resumed_run_stays_with_it(without_dark, small_recipe, capsys):
    run = without_dark / "run"
    recipe = small_recipe(without_dark, max_steps=7, epochs=2)
    shutil.copytree(run, without_dark / "older")
    (without_dark / "older" / "data.json").unlink()  # as a run of before is
    train(recipe, run, resume=True)
    assert "40 training and 4 validation images (valid), 2 classes" in capsys.readouterr().out
    train(recipe, without_dark / "older", resume=True)
    shown = capsys.readouterr().out
    assert "40 training and 8 validation images (test), 2 classes" in shown
    assert "the best weights are chosen on test, though valid could do it" in shown
