"""idx files are read to the pixel under the names of MNIST and EMNIST, and never more than they announce."""

import gzip
import re

import numpy as np
import pytest

from transmix.data import idx
from transmix.data.dataset import DataError
from transmix.data.idx import holds_idx, read_idx, read_idx_files
from transmix.data.source import open_data
from transmix.runs.folder import read_classes
from transmix.training.loop import train

HEIGHT, WIDTH = 7, 5


def grey(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH), dtype=np.uint8)


def encoded(values, shape=None, kind=8):
    """Write the format by hand: two zeros, the type, the number of dimensions, each as 4 bytes, the values."""
    content = bytearray([0, 0, kind, len(shape or np.shape(values))])
    for length in shape or np.shape(values):
        content += int(length).to_bytes(4, "big")
    return bytes(content) + bytes(int(value) for value in np.ravel(values))


def write(folder, labels, split="train", prefix="", dot="-", zipped=False, seed=0):
    folder.mkdir(exist_ok=True)
    for what, values in ((f"images{dot}idx3", grey(len(labels), seed)), (f"labels{dot}idx1", labels)):
        content = encoded(values)
        name = f"{prefix}{split}-{what}-ubyte"
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)


@pytest.fixture
def mnist(tmp_path):
    folder = tmp_path / "mnist"
    write(folder, [2, 0, 1, 1])
    write(folder, [1, 2, 0], split="t10k", seed=1)
    return folder


def refuses(root, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_idx_files(root)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("inner", [".", "raw"])
@pytest.mark.parametrize("held_out", ["t10k", "test"])
def test_mnists_files_are_read_to_the_pixel(tmp_path, zipped, dot, inner, held_out):
    folder = tmp_path / "digits"
    folder.mkdir()
    write(folder / inner, [2, 0, 1, 1], zipped=zipped, dot=dot)
    write(folder / inner, [1, 2, 0], split=held_out, zipped=zipped, dot=dot, seed=1)
    assert holds_idx(folder)
    data = open_data(folder)
    assert (data.name, data.classes) == ("digits", ("0", "1", "2"))
    assert data.train.labels.tolist() == [2, 0, 1, 1]
    assert data.val.labels.tolist() == [1, 2, 0]
    assert data.train.labels.dtype == np.int64
    assert data.in_memory
    assert data.train.images.shape == (4, HEIGHT, WIDTH, 3)
    assert data.train.images.dtype == np.uint8
    for channel in range(3):
        np.testing.assert_array_equal(data.train.images[..., channel], grey(4))
        np.testing.assert_array_equal(data.val.images[..., channel], grey(3, seed=1))
    assert data.train.images.strides[-1] == 0  # one grey byte seen three times


def test_the_plain_file_is_taken_where_both_are_there(mnist):
    (mnist / "train-images-idx3-ubyte.gz").write_bytes(b"left over")
    assert len(read_idx_files(mnist).train) == 4


def test_names_from_a_file_name_the_classes(mnist):
    (mnist / "classnames.txt").write_text("T-shirt/top\nTrouser\nPullover\n\n")
    assert read_idx_files(mnist).classes == ("T-shirt/top", "Trouser", "Pullover")
    (mnist / "classnames.txt").write_text("T-shirt/top\nTrouser\n")
    refuses(mnist, f"{mnist} train image 0: label 2, which none of the 2 classes has")
    (mnist / "classnames.txt").write_text("a\nb\nc\nd\n")
    refuses(mnist, f"{mnist} training images: no image of class d")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crane\nbus\ncrane\n", ": crane is the name in line 1 and in line 3; rename one"),
        ("crane\n\nbus\n", " line 2: no name; write one class name a line"),
        ("\n", ": no class names; write one a line or remove the file"),
        (b"caf\xe9\nbus\n", ": cannot read the class names ("),
    ],
)
def test_a_list_of_names_that_is_not_one_is_an_error(mnist, text, message):
    (mnist / "classes.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    refuses(mnist, f"{mnist / 'classes.txt'}{message}")


# EMNIST.


@pytest.fixture
def letters(tmp_path):
    for split, seed in (("train", 0), ("test", 1)):
        write(tmp_path / "gzip", [3, 1, 2], split=split, prefix="emnist-letters-", zipped=True, seed=seed)
    return tmp_path


def test_emnists_images_are_turned_upright_and_its_letters_begin_at_1(letters):
    data = open_data(letters)
    assert (data.name, data.classes) == ("emnist-letters", ("1", "2", "3"))
    assert data.train.labels.tolist() == [2, 0, 1]
    np.testing.assert_array_equal(data.train.images[..., 0], grey(3).transpose(0, 2, 1))
    assert not np.array_equal(data.val.images[0, :5, :5, 0], grey(3, seed=1)[0, :5, :5])


def test_emnists_table_of_characters_names_the_classes(letters):
    mapping = letters / "gzip" / "emnist-letters-mapping.txt"
    mapping.write_text("1 65 97\n2 66 98\n3 67\n")
    data = read_idx_files(letters)
    assert data.classes == ("Aa", "Bb", "C")
    assert data.train.labels.tolist() == [2, 0, 1]
    mapping.write_text("1 65 97\n2 66 98\n")
    refuses(letters, "train image 0: label 3, which none of the 2 classes has")
    for text, problem in (
        ("1 A\n", ": not a table of labels"),
        ("1\n", ": a label without"),
        ("", ": a label without"),
    ):
        mapping.write_text(text)
        refuses(letters, f"{mapping}{problem}")


def test_two_data_sets_in_one_folder_are_an_error(letters):
    write(letters / "gzip", [0, 1], prefix="emnist-digits-")
    refuses(letters, "files of more than one data set (emnist-digits, emnist-letters); put each in a folder of its own")


# Damage.


def test_missing_files_are_errors(mnist, tmp_path):
    (tmp_path / "empty").mkdir()
    refuses(tmp_path / "empty", "empty: no training images such as train-images-idx3-ubyte here")
    assert not holds_idx(tmp_path / "empty")
    (mnist / "t10k-labels-idx1-ubyte").unlink()
    refuses(mnist, f"{mnist}: no file t10k-labels-idx1-ubyte, gzipped or not; complete the")
    (mnist / "t10k-images-idx3-ubyte").unlink()
    refuses(mnist, f"{mnist}: no file t10k-images-idx3-ubyte or test-images-idx3-ubyte, gzipped or not")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(grey(4))[:-1], ": 140 values are announced, only 139 are there"),
        (encoded(grey(4)) + b"x", ": 140 values are announced, more are there"),
        (encoded(grey(4))[:15], ": begins with 00 00 08 03, not with 00 00 08 03"),
        (b"", ": begins with nothing, not with 00 00 08 03 as an idx file of 3-dimensional bytes does"),
        (b"<html>not found", ": begins with 3c 68 74 6d, not with 00 00 08 03"),
        (encoded(grey(4), kind=13), ": holds 32-bit floats, but idx files of unsigned bytes alone are read; write the"),
        (encoded(grey(4), kind=11), ": holds 16-bit integers, but idx files of unsigned bytes alone are read; write"),
        (encoded([1, 2]), ": begins with 00 00 08 01"),
        (encoded([], shape=(0, 7, 5)), ": 0 x 7 x 5 bytes are announced, which it cannot hold"),
        (encoded(grey(4), shape=(2**32 - 1,) * 3), ": 4294967295 x 4294967295 x 4294967295 bytes are announced"),
        (encoded(grey(4), shape=(2**20, 7, 5)), ": 1048576 x 7 x 5 bytes are announced, which it cannot hold"),
        (encoded(grey(4), shape=(2**31, 7, 5)), ": 2147483648 x 7 x 5 bytes are announced, which it cannot hold"),
    ],
)
def test_damaged_files_are_errors_that_name_them(mnist, content, message, zipped):
    path = mnist / "train-images-idx3-ubyte"
    path.unlink()
    path = path.with_name(f"{path.name}.gz") if zipped else path
    path.write_bytes(gzip.compress(content) if zipped else content)
    if "only 139" in message and not zipped:
        message = ": 4 x 7 x 5 bytes are announced, which it cannot hold" if len(content) < 140 else message
    refuses(mnist, f"{path}{message}")


@pytest.mark.parametrize("harm", [lambda zipped: zipped[:-9], lambda zipped: zipped[:40] + b"\xff" * 9 + zipped[49:]])
def test_damaged_gzip_is_an_error(mnist, harm):
    path = mnist / "train-labels-idx1-ubyte.gz"
    (mnist / "train-labels-idx1-ubyte").unlink()
    path.write_bytes(harm(gzip.compress(encoded(np.random.default_rng(0).integers(0, 3, 400)))))
    refuses(mnist, f"{path}: truncated or damaged (")


def test_a_gzip_bomb_is_not_unpacked_further_than_announced(mnist, monkeypatch):
    path = mnist / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(encoded(grey(4)) + bytes(20_000_000)))
    asked = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda file, size=-1: asked.append(size) or read(file, size))
    with pytest.raises(DataError, match=r"140 values are announced, more are there"):
        read_idx(path, 3)
    assert asked == [16, 141]
    monkeypatch.setattr(idx, "LARGEST_BYTES", 100)
    with pytest.raises(DataError, match=r"4 x 7 x 5 bytes are announced, which it cannot hold"):
        read_idx(path, 3)


def test_other_counts_and_labels_that_training_does_not_have_are_errors(mnist):
    labels = mnist / "t10k-labels-idx1-ubyte"
    labels.write_bytes(encoded([1, 2, 0, 0]))
    refuses(mnist, f"{labels}: 4 labels for the 3 images of t10k-images-idx3-ubyte")
    labels.write_bytes(encoded([1, 3, 0]))
    refuses(mnist, f"{mnist} held-out image 1: label 3, which none of the 3 classes has")


def test_a_class_without_a_held_out_image_is_said_and_what_is_held_out_is_t10k(mnist):
    (mnist / "t10k-labels-idx1-ubyte").write_bytes(encoded([1, 1, 0]))
    data = open_data(mnist)
    assert data.parts.held_out == "t10k"
    assert data.notes == ("t10k has no image of class 2: no score says how well it is recognised",)


def test_two_steps_are_trained_on_it(tmp_path, small_recipe):
    write(tmp_path / "mnist", [0, 1, 2] * 6, zipped=True)
    write(tmp_path / "mnist", [0, 1, 2], split="t10k", zipped=True)
    assert train(small_recipe(tmp_path / "mnist", max_steps=2), tmp_path / "run")["step"] == 2
    assert read_classes(tmp_path / "run") == ("0", "1", "2")
