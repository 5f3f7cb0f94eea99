"""The Oxford-IIIT Pet data set is read from its published lists."""

import re

import numpy as np
import pytest
from PIL import Image

from transmix.data.dataset import DataError
from transmix.data.source import open_data
from transmix.runs.folder import read_classes
from transmix.training.loop import train

LISTS = {
    "trainval": ["american_bulldog_2 2 2 1", "Abyssinian_1 1 1 1", "american_bulldog_1 2 2 1"] * 6,
    "test": ["#a comment", "Abyssinian_2 1 1 1", "american_bulldog_3 2 2 1", ""],
}


def colour(name):
    return (30 * int(name[-1]), len(name), 7)


@pytest.fixture
def pets(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    for split, lines in LISTS.items():
        (tmp_path / "annotations" / f"{split}.txt").write_text("\n".join(lines))
        for name in {line.split()[0] for line in lines if line and not line.startswith("#")}:
            Image.new("RGB", (20, 16), colour(name)).save(tmp_path / "images" / f"{name}.jpg", "png")
    return tmp_path


def refuses(root, message):
    with pytest.raises(DataError, match=re.escape(message)):
        open_data(root)


def test_the_lists_give_images_labels_and_names(pets):
    data = open_data(pets)
    assert data.classes == ("Abyssinian", "american_bulldog")
    assert data.train.labels.tolist() == [1, 0, 1] * 6
    assert data.val.labels.tolist() == [0, 1]
    expected = [colour(line.split()[0]) for line in LISTS["trainval"][:3]]
    for image, pixel in zip((data.train.images[index] for index in range(3)), expected, strict=True):
        np.testing.assert_array_equal(image, np.full((16, 20, 3), pixel, dtype=np.uint8))


def test_two_steps_are_trained_on_it(pets, small_recipe, tmp_path_factory):
    run = tmp_path_factory.mktemp("pets") / "run"
    assert train(small_recipe(pets, max_steps=2), run)["step"] == 2
    assert read_classes(run) == ("Abyssinian", "american_bulldog")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Abyssinian_9 1 1 1", "images: no Abyssinian_9.jpg; unpack images.tar.gz again"),
        ("Abyssinian_2 2 1 1", "annotations: class 2 is american_bulldog and Abyssinian; fetch the lists again"),
        ("Abyssinian_2", "test.txt line 1: not an image's name and its class"),
        ("../../secret_1 1", "test.txt line 1: not an image's name and its class"),
        ("Abyssinian_2 one", "test.txt line 1: not an image's name and its class"),
        ("# nothing", "test.txt: no images in it"),
    ],
)
def test_other_lists_are_errors(pets, line, message):
    (pets / "annotations" / "test.txt").write_text(line)
    refuses(pets, message)


def test_a_missing_list_is_an_error(pets):
    (pets / "annotations" / "test.txt").unlink()
    refuses(pets, "test.txt: cannot read the list of images (")
