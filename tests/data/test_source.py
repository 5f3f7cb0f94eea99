"""A name or a folder is enough to open a data set, and a run keeps its classes by name."""

import re

import numpy as np
import pytest
from PIL import Image

from transmix.data import source
from transmix.data.dataset import DataError, ImageData, Split
from transmix.data.source import in_classes, open_data, relabel_to


def make_class_folders(root):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (6, 4)).save(root / split / name / "a.png")


def tiny(classes, labels=(0,), masks=None):
    split = Split(np.zeros((len(labels), 4, 6, 3), np.uint8), np.array(labels, dtype=np.int64), masks)
    return ImageData("pets", tuple(classes), split, split)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_class_folders(tmp_path / "pets")
    assert open_data("~/pets").classes == ("cat", "dog")


def test_digits_is_the_built_in_set_made_with_the_seed(monkeypatch):
    asked = []
    stand_in = lambda seed: asked.append(seed) or tiny(["the digits"])  # noqa: E731
    monkeypatch.setattr(source, "digits_on_textures", stand_in)
    assert open_data("digits").classes == open_data("digits", seed=3).classes == ("the digits",)
    assert asked == [0, 3]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"gone: no such folder; give the folder of a data set, or 'digits'$"):
        open_data(tmp_path / "gone")


def test_a_folder_of_something_else_is_an_error_that_says_what_was_looked_for_and_found(tmp_path):
    message = (
        "no data set; looked for packed images (packed.json), Parquet files (train-*.parquet), "
        "CIFAR's binary files (data_batch_1.bin or train.bin), CIFAR-10's python files (data_batch_1), "
        "CIFAR-100's python files (train), "
        "idx files (train-images-idx3-ubyte), tar shards (train-*.tar or train/*.tar), "
        "Oxford-IIIT Pet (annotations/trainval.txt), class folders (train/<class>/); found "
    )
    with pytest.raises(DataError, match=re.escape(message + "nothing")):
        open_data(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=re.escape(message + "notes.txt, photos")):
        open_data(tmp_path)


def test_a_data_set_is_brought_into_the_order_of_a_run_by_name():
    data = in_classes(("cat", "dog"), tiny(["dog", "cat"], labels=[0, 1, 1]))
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [1, 0, 0]


def test_a_class_that_the_run_lacks_is_an_error_and_one_that_the_data_lack_is_said():
    with pytest.raises(DataError, match=r"^pets: the run has no class elk; take their images out of the data"):
        in_classes(("cat", "dog"), tiny(["dog", "elk"]))
    assert in_classes(("cat", "dog"), tiny(["dog"], labels=[0])).notes == ("pets has no class cat, which the run has",)


def test_labels_are_translated_by_name_and_not_by_position():
    masks = np.ones((4, 4, 6), dtype=bool)
    split = tiny(["dog", "elk", "cat"], labels=[0, 2, 1, 0], masks=masks).train
    moved = relabel_to(("cat", "dog", "elk"), split, ("dog", "elk", "cat"))
    assert moved.labels.tolist() == [1, 0, 2, 1]
    assert moved.labels.dtype == np.int64
    assert moved.images is split.images
    assert moved.masks is masks
    assert split.labels.tolist() == [0, 2, 1, 0]


def test_a_class_that_the_run_does_not_know_is_an_error():
    split = tiny(["cat", "fox"], labels=[0, 1]).train
    with pytest.raises(
        DataError, match=r"^the run has no class fox; .*, or call them as the run does; its classes are cat, dog$"
    ):
        relabel_to(("cat", "dog"), split, ("cat", "fox"))
