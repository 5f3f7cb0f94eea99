"""Scores of any part of a run's data and of other data, with some of the run's classes too, and no image twice."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import log_loss, top_k_accuracy_score

from transmix.cli import main
from transmix.data.dataset import DataError
from transmix.data.evaluated import Asked
from transmix.evaluation.evaluate import evaluate, prepare, score
from transmix.evaluation.present import class_gaps, own_accuracies
from transmix.models.loaded import load_with_data
from transmix.recipes import dump_recipe
from transmix.runs.folder import read_choice

CLASSES = {"dark": 40, "grey": 120, "light": 200}


def write(folder, counts, seed=0):
    """Write noise of the brightness of each class."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = rng.normal(CLASSES[name], 60, (20, 16, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory, small_recipe):
    """A folder with a data set without parts, a run on it, which held a fifth out, and a recipe file."""
    place = tmp_path_factory.mktemp("splits")
    pets = write(place / "pets", dict.fromkeys(CLASSES, 10))
    recipe = small_recipe(pets, val_fraction=0.2, epochs=2)
    (place / "small.yaml").write_text(dump_recipe(recipe))
    assert main(["train", "--recipe", str(place / "small.yaml"), "--out", str(place / "run")]) == 0
    return place


def names(data):
    return {data.val.where(index).rpartition("/")[2] + str(data.val.labels[index]) for index in range(len(data.val))}


def part(place, split=None, data=None):
    return load_with_data(place / "run", data, weights="model", asked=Asked(split))[1]


def test_the_parts_of_a_run_are_what_it_trained_on_and_what_it_held_out(place):
    own, val, train = part(place), part(place, "val"), part(place, "Train")
    assert names(own) == names(val)
    assert (len(val.val), len(train.val)) == (6, 24)
    assert not names(val) & names(train)
    with pytest.raises(
        DataError, match=r"no folder 'test' or 'testing' or 't10k'; there is all: --split NAME takes anot"
    ):
        part(place, "test")


def test_a_copy_of_the_data_elsewhere_is_known_and_what_was_trained_on_left_out(place, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(place / "pets", moved)
    data = part(place, data=str(moved))
    assert names(data) == names(part(place))
    assert "moved is the run's own data: images that it trained on are left out" in data.notes
    assert names(part(place, "train", str(moved))) == names(part(place, "train"))
    (moved / "dark" / "00.png").rename(moved / "dark" / "other.png")  # now it is another data set
    assert len(part(place, data=str(moved)).val) == 30


def test_data_that_changed_under_a_run_are_refused_as_another_fifth_would_be_held_out(
    place, tmp_path, small_recipe, capsys
):
    shutil.copytree(place, tmp_path / "copy")
    pets, run = tmp_path / "copy" / "pets", tmp_path / "copy" / "run"
    recipe = dump_recipe(small_recipe(pets, val_fraction=0.2, epochs=2))
    (run / "recipe.yaml").write_text(recipe)
    assert main(["evaluate", str(run), "--workers", "0"]) == 0
    write(pets, {"grey": 11}, seed=3)
    capsys.readouterr()
    assert main(["evaluate", str(run), "--workers", "0"]) == 2
    assert "its images are not those that the run began with" in capsys.readouterr().err
    about = json.loads((run / "data.json").read_text())
    assert about.pop("fingerprint") == read_choice(run).fingerprint
    (run / "data.json").write_text(json.dumps(about))  # as runs of before
    assert main(["evaluate", str(run), "--workers", "0"]) == 0


def test_some_of_the_classes_are_scored_over_all_outputs_and_over_theirs_as_scikit_learn_does(place, tmp_path):
    folder = write(tmp_path / "two", {"light": 5, "dark": 4}, seed=1)
    models, data = load_with_data(place / "run", str(folder))
    assert data.val.labels.tolist() == [0] * 4 + [2] * 5
    found = score(prepare(models, device="cpu", workers=0), data)["model"]
    evaluator = prepare(models, device="cpu", workers=0)[0]
    logits = torch.cat([evaluator.logits(pixels) for pixels, _, _ in evaluator.batches(data.val)]).double()
    every, two = logits.softmax(1).numpy(), logits[:, [0, 2]].softmax(1).numpy()
    assert found["top1"] == pytest.approx((every.argmax(1) == data.val.labels).mean())
    among = found["among_present"]
    assert among["classes"] == 2
    assert among["top1"] == pytest.approx(top_k_accuracy_score(data.val.labels, two[:, 1], k=1, labels=[0, 2]))
    assert among["loss"] == pytest.approx(log_loss(data.val.labels, two, labels=[0, 2]), abs=1e-5)
    assert among["loss"] < found["loss"]  # what the third output took is gone
    assert "among_present" not in score(prepare(models, device="cpu", workers=0), part(place))["model"]


def test_the_gap_of_each_class_to_the_runs_own_validation_is_printed_and_written(place, tmp_path, capsys):
    folder = write(tmp_path / "two", {"light": 5, "dark": 4}, seed=1)
    assert main(["evaluate", str(place / "run"), "--workers", "0"]) == 0
    own = json.loads((place / "run" / "evaluation.json").read_text())["scores"]["ema"]["per_class_accuracy"]
    assert main(["evaluate", str(place / "run"), "--data", str(folder), "--workers", "0"]) == 0
    shown = capsys.readouterr().out
    assert "\namong the 2 of 3 classes that are here, without the others' outputs\n" in shown
    written = json.loads((place / "run" / "evaluation_two-all.json").read_text())
    assert json.loads((place / "run" / "evaluation.json").read_text())["data"] == "pets"
    rows = {row["class"]: row for row in written["classes_against_own_validation"]["rows"]}
    assert written["classes_against_own_validation"]["weights"] == "ema"
    assert rows.keys() == {"dark", "light"}
    for index, name in ((0, "dark"), (2, "light")):
        assert rows[name]["own_validation"] == pytest.approx(own[index])
        assert rows[name]["gap"] == pytest.approx(written["scores"]["ema"]["per_class_accuracy"][index] - own[index])
    assert set(written["present-classes"]) == {"model", "ema"}


def test_the_gap_is_not_taken_from_other_weights(place):
    accuracies, why = own_accuracies(place / "run", step=1)
    assert (accuracies, why) == ({}, "known of a finished run's last checkpoint only")


def test_gaps_by_hand():
    rows = class_gaps([0.5, 0.25, float("nan"), 1.0], np.array([0, 0, 1, 1, 1, 1, 3]), "abcd", {"a": 0.25, "b": 1.0})
    assert [(row["class"], row["images"], row["gap"]) for row in rows] == [
        ("b", 4, -0.75),
        ("d", 1, None),
        ("a", 2, 0.25),
    ]


def test_an_unknown_class_is_named_with_the_nearest_known_one(place, tmp_path, capsys):
    folder = write(tmp_path / "odd", {"light": 2, "dark": 2})
    (folder / "dark").rename(folder / "Dark")
    assert main(["evaluate", str(place / "run"), "--data", str(folder)]) == 2
    line = capsys.readouterr().err
    assert "the run has no class Dark (dark?); take their images out of the data, or call them as the run does" in line


def test_a_list_is_trained_on_evaluated_and_resumed_with_the_columns_that_were_named(place, tmp_path, capsys):
    root = tmp_path / "listed"
    (root / "files").mkdir(parents=True)
    lines = []
    for path in (place / "pets").rglob("*.png"):
        shutil.copy(path, root / "files" / f"{path.parent.name}_{path.name}")
        lines.append(f"{path.parent.name}_{path.stem};{path.parent.name}")
    (root / "pets.csv").write_text("\n".join(["photo of;kind", *sorted(lines)]))
    train = ["train", "--recipe", str(place / "small.yaml"), "--data", str(root), "--out", str(tmp_path / "run")]
    assert main([*train, "--max-steps", "2"]) == 2
    assert "which of photo of, kind are the images and labels? Name the column:" in capsys.readouterr().err
    columns = ["--image-column", "photo of", "--label-column", "kind"]
    assert main([*train, *columns, "--max-steps", "2"]) == 0
    assert main([*train, *columns, "--resume"]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--workers", "0"]) == 0
    data = load_with_data(tmp_path / "run")[1]
    assert {name.partition("_")[2] for name in names(data)} == names(part(place))
    assert main(["doctor", str(root), *columns, "--val-fraction", "0.2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    first = shown.index(f"{root}: 24 images in train, 6 images in 0.2 of train; 3 classes")
    assert shown[first + 1] == "layout: label list pets.csv (columns photo of and kind), not divided into parts"
    assert shown[first + 2] == "classes: dark, grey, light"


def test_a_label_that_is_not_among_the_present_would_be_noticed():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 2, 0, 2, 1, 0])
    batches = [(logits, labels, None)]
    with pytest.raises((IndexError, ValueError, RuntimeError)):
        evaluate(torch.nn.Identity(), batches, 3, "cpu", normalise=lambda x: x, present=[0, 2])
