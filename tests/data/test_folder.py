"""Class folders are read by name, in a reproducible order, and every gap in them is an error."""

import re

import numpy as np
import pytest
from PIL import Image

from transmix.data.dataset import DataError
from transmix.data.folder import read_folder


def put(path, value=0, size=(4, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def pets(tmp_path):
    """Two classes whose order in `val` on disk does not matter, image values that tell them apart."""
    put(tmp_path / "train" / "dog" / "b.png", 11)
    put(tmp_path / "train" / "dog" / "a.png", 10)
    put(tmp_path / "train" / "cat" / "a.png", 20)
    put(tmp_path / "val" / "dog" / "a.png", 12)
    put(tmp_path / "val" / "cat" / "a.png", 21)
    return tmp_path


def values(split):
    return [int(split.images[index][0, 0, 0]) for index in range(len(split))]


def refuses(root, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_folder(root)


def test_classes_are_the_sorted_folder_names_and_files_are_sorted(pets):
    data = read_folder(pets)
    assert data.name == pets.name
    assert data.classes == ("cat", "dog")
    assert values(data.train) == [20, 10, 11]
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.train.labels.dtype == np.int64
    assert values(data.val) == [21, 12]
    assert data.val.labels.tolist() == [0, 1]
    assert data.train.masks is None
    assert data.train.images.size(0) == data.train.images[0].shape[:2] == (4, 6)


def test_hidden_entries_and_other_files_are_ignored(pets):
    put(pets / "train" / ".ipynb_checkpoints" / "a.png")
    put(pets / "train" / "cat" / ".a.png")
    put(pets / "train" / "cat" / ".trash" / "a.png")
    put(pets / "val" / ".cache" / "a.png")
    (pets / "train" / "cat" / "Thumbs.db").write_text("no image")
    (pets / "train" / "README.txt").write_text("no class")
    data = read_folder(pets)
    assert data.classes == ("cat", "dog")
    assert values(data.train) == [20, 10, 11]


def test_images_are_decoded_when_indexed_and_a_broken_one_is_named(pets):
    broken = pets / "train" / "cat" / "a.png"
    broken.write_bytes(b"nothing")
    images = read_folder(pets).train.images
    assert images[1][0, 0, 0] == 10
    for read in (images.__getitem__, images.size):
        with pytest.raises(DataError, match=rf"^{re.escape(str(broken))}: cannot read the image"):
            read(0)


def test_indexing_past_the_end_is_an_index_error(pets):
    with pytest.raises(IndexError):
        read_folder(pets).train.images[3]


def test_a_missing_folder_or_split_is_an_error(tmp_path):
    refuses(tmp_path / "gone", "gone: no such folder")
    refuses(tmp_path, "no folder 'train', the images to train on")
    put(tmp_path / "train" / "cat" / "a.png")
    refuses(tmp_path, "no folder 'val' or 'valid' or 'validation'")
    refuses(tmp_path, "or 'test' or 'testing' or 't10k', the images to validate on; to hold out a fifth of each class")


def test_images_without_class_folders_are_an_error(pets):
    (pets / "val" / "dog" / "a.png").rename(pets / "val" / "a.png")
    (pets / "val" / "dog").rmdir()
    (pets / "val" / "cat" / "a.png").unlink()
    (pets / "val" / "cat").rmdir()
    refuses(pets, "val: no class folders; put the images in val/<class>/")


def test_an_empty_class_folder_of_train_is_an_error_that_names_it(pets):
    for name in ("ant", "bee"):
        (pets / "train" / name).mkdir()
        (pets / "train" / name / "notes.txt").write_text("no image")
    refuses(pets, "train: no images in class folder ant, bee; add some or remove the folder")


@pytest.mark.parametrize("empty_folder", [True, False])
def test_a_class_that_val_lacks_keeps_the_labels_of_the_others(pets, empty_folder):
    put(pets / "train" / "cow" / "a.png", 30)
    if empty_folder:
        (pets / "val" / "cow").mkdir()
    data = read_folder(pets)
    assert data.classes == ("cat", "cow", "dog")
    assert data.train.labels.tolist() == [0, 1, 2, 2]
    assert (values(data.val), data.val.labels.tolist()) == ([21, 12], [0, 2])


def test_a_held_out_part_of_empty_folders_is_an_error(pets):
    for path in (pets / "val").rglob("*.png"):
        path.unlink()
    refuses(pets, "val: no images; put the images to validate on in val/<class>/")


def test_a_class_that_only_val_has_is_an_error_that_names_it(pets):
    put(pets / "val" / "ant" / "a.png")
    refuses(pets, "val: not among the classes of train: ant; remove their folders here, or add images to train")


def test_as_many_classes_of_other_names_are_an_error(pets):
    (pets / "val" / "cat").rename(pets / "val" / "elk")
    refuses(pets, "val: not among the classes of train: elk; remove their folders here, or add images to train")
