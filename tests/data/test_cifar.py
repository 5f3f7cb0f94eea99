"""CIFAR's published binary files are read byte by byte as described, and damage to them is an error."""

import re

import numpy as np
import pytest

from transmix.data.cifar import holds_cifar, read_cifar
from transmix.data.dataset import DataError
from transmix.data.source import open_data

TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)]


def records(labels, seed, coarse=False):
    """Write records one byte after another: labels, then 1,024 bytes of red, of green and of blue."""
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
    content = bytearray()
    for image, label in zip(images, labels, strict=True):
        content += bytes([99, label] if coarse else [label])
        for channel in range(3):
            for row in range(32):
                content += bytes(image[row, :, channel].tolist())
    return images, bytes(content)


@pytest.fixture
def cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, file in enumerate(BATCHES):
        (folder / file).write_bytes(records([2 * number + 1, 2 * number], seed=number)[1])
    (folder / "test_batch.bin").write_bytes(records(range(10), seed=9)[1])
    (folder / "batches.meta.txt").write_text("\n".join(TEN) + "\n\n")
    return folder


@pytest.fixture
def cifar100(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    (folder / "train.bin").write_bytes(records([1, 0, 2, 1], seed=1, coarse=True)[1])
    (folder / "test.bin").write_bytes(records([2, 1, 0], seed=2, coarse=True)[1])
    (folder / "fine_label_names.txt").write_text("apple\naquarium_fish\nbaby\n")
    (folder / "coarse_label_names.txt").write_text("fish\nfruit\n")
    return folder


def refuses(root, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_cifar(root)


def test_cifar10_is_read_in_the_order_of_its_batches(cifar10):
    data = read_cifar(cifar10)
    assert data.name == "cifar10"
    assert data.classes == tuple(TEN)
    assert data.train.labels.tolist() == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8]
    assert data.train.labels.dtype == np.int64
    expected = np.concatenate([records([0, 0], seed=number)[0] for number in range(5)])
    np.testing.assert_array_equal(data.train.images, expected)
    assert isinstance(data.train.images, np.ndarray)
    assert data.train.images.shape == (10, 32, 32, 3)
    assert data.train.images.dtype == np.uint8
    np.testing.assert_array_equal(data.val.images, records(range(10), seed=9)[0])
    assert data.val.labels.tolist() == list(range(10))


def test_cifar100_takes_the_fine_labels(cifar100):
    data = read_cifar(cifar100)
    assert data.name == "cifar100"
    assert data.classes == ("apple", "aquarium_fish", "baby")
    assert data.train.labels.tolist() == [1, 0, 2, 1]
    np.testing.assert_array_equal(data.train.images, records([0] * 4, seed=1)[0])
    assert data.val.labels.tolist() == [2, 1, 0]
    np.testing.assert_array_equal(data.val.images, records([0] * 3, seed=2)[0])


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_parent_folder_will_do(name, request):
    folder = request.getfixturevalue(name)
    assert holds_cifar(folder)
    assert holds_cifar(folder.parent)
    assert read_cifar(folder.parent).name == name


def test_both_in_one_folder_are_an_error_that_names_them(cifar10, cifar100):
    refuses(cifar10.parent, f"holds both CIFAR-10 and CIFAR-100; name {cifar10} or {cifar100}")


def test_a_folder_without_cifar_is_an_error(tmp_path):
    assert not holds_cifar(tmp_path)
    refuses(tmp_path, f"{tmp_path}: no data_batch_1.bin (CIFAR-10) or train.bin (CIFAR-100) here")


def test_missing_files_are_an_error_that_lists_them(cifar10):
    for file in ("data_batch_1.bin", "test_batch.bin", "batches.meta.txt"):
        (cifar10 / file).unlink()
    refuses(cifar10, "no file data_batch_1.bin, test_batch.bin, batches.meta.txt; unpack the published archive")


DAMAGED = [
    ("cifar10", "data_batch_3.bin", b"", "data_batch_3.bin: 0 bytes are not a whole number of records of 3073 bytes"),
    ("cifar10", "data_batch_3.bin", bytes(3072), "data_batch_3.bin: 3072 bytes are not a whole number of records of"),
    ("cifar10", "data_batch_3.bin", bytes(6145), "data_batch_3.bin: 6145 bytes are not a whole number of records of"),
    ("cifar100", "train.bin", bytes(6146), "train.bin: 6146 bytes are not a whole number of records of 3074 bytes"),
    ("cifar10", "data_batch_2.bin", records([9, 10], 0)[1], "_2.bin record 1: label 10, but only 10 classes have"),
    ("cifar100", "train.bin", records([0, 2], 1, coarse=True)[1], "train: no image of class aquarium_fish"),
]


@pytest.mark.parametrize(("name", "file", "content", "message"), DAMAGED)
def test_a_damaged_file_is_an_error_that_names_file_and_record(name, file, content, message, request):
    folder = request.getfixturevalue(name)
    (folder / file).write_bytes(content)
    refuses(folder, message)


def test_a_class_without_a_held_out_image_is_said(cifar10):
    (cifar10 / "test_batch.bin").write_bytes(records([0, 1, 2, 3, 4, 6, 7, 8], seed=9)[1])
    assert open_data(cifar10).notes == (
        "test has no image of class dog, truck: no score says how well it is recognised",
    )
