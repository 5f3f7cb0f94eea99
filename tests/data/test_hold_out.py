"""A fraction of each class is held out: the same one everywhere, recorded in the run and obeyed afterwards."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transmix.data.dataset import DataError, ImageData, Split
from transmix.data.parts import Choice
from transmix.data.settings import Data
from transmix.data.source import load_data, open_data
from transmix.data.subset import hold_out, take
from transmix.evaluation.evaluate import prepare, score
from transmix.models.loaded import load_with_data
from transmix.runs.error import RunError
from transmix.runs.folder import read_choice
from transmix.training.loop import train


def of_labels(labels, masks=False):
    """Return a data set whose image i has the value i in its first two channels, as a number of 16 bits."""
    images = np.zeros((len(labels), 2, 3, 3), np.uint8)
    images[..., 0], images[..., 1] = (part[:, None, None] for part in np.divmod(np.arange(len(labels)), 256))
    drawn = np.ones((len(labels), 2, 3), bool) if masks else None
    split = Split(images, np.asarray(labels, np.int64), drawn)
    return ImageData("some", tuple("abcde"), split, split)


def numbers(split):
    return [int(image[0, 0, 0]) * 256 + int(image[0, 0, 1]) for image in split.images]


def even_share(labels, data, fraction):
    """Whether each class has its share held out, within what one image more or less makes."""
    for label, count in enumerate(np.bincount(labels, minlength=5)):
        some = int((data.val.labels == label).sum())
        if count >= 2 and not (1 <= some < count and abs(some - fraction * count) <= 1):
            return False
        if count < 2 and some:
            return False
    return True


LABELS = st.lists(st.integers(0, 4), min_size=2, max_size=300)


@given(LABELS, st.floats(0.01, 0.99))
def test_each_class_gives_its_share_and_no_image_is_lost_or_in_both(labels, fraction):
    data = hold_out(of_labels(labels, masks=True), fraction)
    assert even_share(labels, data, fraction)
    there = [numbers(split) for split in (data.train, data.val)]
    assert sorted(there[0] + there[1]) == list(range(len(labels)))
    for split, listed in zip((data.train, data.val), there, strict=True):
        assert listed == sorted(listed)
        assert split.labels.tolist() == [labels[number] for number in listed]
        assert len(split.masks) == len(split)


@given(LABELS, st.floats(0.01, 0.99))
def test_which_images_follows_from_the_data_alone(labels, fraction):
    first = hold_out(of_labels(labels), fraction)
    np.random.seed(len(labels))  # noqa: NPY002
    again = hold_out(of_labels(labels), fraction)
    assert numbers(first.val) == numbers(again.val)
    assert first.parts.val_fraction == fraction
    assert first.parts.held_out == f"{fraction:g} of train"


def test_it_is_fixed_for_ever_and_not_the_first_ones():
    data = hold_out(of_labels([0, 1] * 50), 0.1)
    assert numbers(data.val) == [1, 8, 22, 45, 74, 77, 90, 93, 95, 98]
    assert numbers(data.val) != sorted([*range(0, 10, 2), *range(1, 10, 2)])


def test_a_share_of_the_whole_would_be_noticed():
    labels = [0] * 90 + [1] * 10
    data = of_labels(labels)
    wrong = take(data.train, np.arange(10))
    assert not even_share(labels, ImageData("some", data.classes, data.train, wrong), 0.1)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_fraction_that_is_none_is_refused(fraction, images):
    with pytest.raises(DataError, match=r"^val_fraction .* is not between 0 and 1$"):
        open_data(images, choice=Choice(val_fraction=fraction))


def test_a_part_and_a_fraction_exclude_each_other(images):
    with pytest.raises(DataError, match=r"^--held-out and --val-fraction exclude each other; leave one out$"):
        load_data(Data(str(images), held_out="val", val_fraction=0.1), seed=0)


def test_class_folders_without_a_held_out_part_are_told_the_remedy_and_it_works(images, tmp_path):
    root = tmp_path / "images"
    shutil.copytree(images, root)
    whole = open_data(root)
    shutil.rmtree(root / "val")
    with pytest.raises(
        DataError, match=r"of each class: transmix train --data \S+images --val-fraction 0\.2 --out RUN$"
    ):
        open_data(root)
    data = open_data(root, choice=Choice(val_fraction=0.25))
    both = [split.images.where(index) for split in (data.train, data.val) for index in range(len(split))]
    assert sorted(both) == sorted(whole.train.images.where(index) for index in range(len(whole.train)))
    assert np.bincount(data.val.labels).tolist() == [5, 5]
    assert data.notes == ()
    same = load_data(Data(str(images), val_fraction=0.25), seed=3)  # beside a part that is not used then
    assert same.val.labels.tolist() == data.val.labels.tolist()
    assert same.in_memory


def test_the_run_keeps_it_and_resume_and_evaluate_hold_out_the_same(images, tmp_path, small_recipe):
    recipe = small_recipe(images, val_fraction=0.25, max_steps=2)
    train(recipe, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (about["held_out"], about["val_fraction"], about["images"]) == (
        "0.25 of train",
        0.25,
        {"train": 30, "held_out": 10},
    )
    assert read_choice(tmp_path / "run").val_fraction == 0.25
    expected = open_data(images, choice=Choice(val_fraction=0.25))
    models, data = load_with_data(tmp_path / "run")
    places = [data.val.images.where(index) for index in range(10)]
    assert places == [expected.val.images.where(index) for index in range(10)]
    assert score(prepare(models, device="cpu"), data)["model"]["images"] == 10
    train(small_recipe(images, val_fraction=0.25, max_steps=4), tmp_path / "run", resume=True)
    train(small_recipe(images, val_fraction=0.25, max_steps=4), tmp_path / "whole")
    files = [tmp_path / run / "checkpoints" / "step-00000004" / "model.safetensors" for run in ("run", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(RunError, match="val_fraction"):
        train(small_recipe(images, val_fraction=0.5, max_steps=6), tmp_path / "run", resume=True)
