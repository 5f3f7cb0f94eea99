"""CIFAR's python version is read to the pixel, and its pickles can build bytes and lists and nothing else."""

import os
import pickle
import re
import struct

import numpy as np
import pytest

from transmix.data import cifar_python
from transmix.data.cifar_python import holds_cifar_python, load_pickle, read_cifar_python
from transmix.data.dataset import DataError
from transmix.data.source import open_data
from transmix.runs.folder import read_classes
from transmix.training.loop import train

TEN = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
BATCHES = [f"data_batch_{number}" for number in range(1, 6)]


def pictures(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def rows(images):
    """Red, green and blue planes one after another, a row an image."""
    return np.stack([np.concatenate([image[:, :, channel].ravel() for channel in range(3)]) for image in images])


def write(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def as_python_2(value):
    """Write a pickle as Python 2 did: its text is bytes here, and arrays are of numpy.core."""
    if isinstance(value, dict):
        return b"}(" + b"".join(as_python_2(key) + as_python_2(part) for key, part in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(as_python_2, value)) + b"e"
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    height, width = value.shape
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + as_python_2(b"b") + b"tR"
    dtype = (
        b"cnumpy\ndtype\n(" + as_python_2(b"u1") + b"K\x00K\x01tR(K\x03" + as_python_2(b"|") + b"NNNJ\xff\xff\xff\xff"
    )
    dtype += b"J\xff\xff\xff\xffK\x00tb"
    shape = as_python_2(height) + as_python_2(width) + b"\x86"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + as_python_2(value.tobytes()) + b"tb"


@pytest.fixture
def cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number, file in enumerate(BATCHES):
        content = {b"data": rows(pictures(2, number)), b"labels": [2 * number + 1, 2 * number], b"batch_label": b"some"}
        (folder / file).write_bytes(b"\x80\x02" + as_python_2(content) + b".")
    write(folder / "test_batch", {"data": rows(pictures(10, 9)), "labels": list(range(10))}, protocol=4)
    (folder / "batches.meta").write_bytes(b"\x80\x02" + as_python_2({b"label_names": TEN, b"num_vis": 3072}) + b".")
    return folder


@pytest.fixture
def cifar100(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for file, labels, seed in (("train", [1, 0, 2, 1], 1), ("test", [2, 1, 0], 2)):
        content = {"data": rows(pictures(len(labels), seed)), "fine_labels": labels, "coarse_labels": [0] * len(labels)}
        write(folder / file, content)
    write(folder / "meta", {"fine_label_names": ["apple", "baby", "bear"], "coarse_label_names": ["fruit"]})
    return folder


def refuses(root, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_cifar_python(root)


def test_what_the_tests_write_as_python_2_is_what_a_plain_pickle_reads(cifar10):
    content = pickle.loads((cifar10 / "data_batch_2").read_bytes(), encoding="bytes")
    assert np.array_equal(content[b"data"], rows(pictures(2, 1)))
    assert content[b"labels"] == [3, 2]


def test_cifar10_is_read_in_the_order_of_its_batches(cifar10):
    data = read_cifar_python(cifar10)
    assert data.name == "cifar10"
    assert data.classes == tuple(name.decode() for name in TEN)
    assert data.train.labels.tolist() == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8]
    assert data.train.labels.dtype == np.int64
    assert data.in_memory
    np.testing.assert_array_equal(data.train.images, np.concatenate([pictures(2, number) for number in range(5)]))
    np.testing.assert_array_equal(data.val.images, pictures(10, 9))
    assert data.val.labels.tolist() == list(range(10))


def test_cifar100_takes_the_fine_labels(cifar100):
    data = read_cifar_python(cifar100)
    assert (data.name, data.classes) == ("cifar100", ("apple", "baby", "bear"))
    assert data.train.labels.tolist() == [1, 0, 2, 1]
    np.testing.assert_array_equal(data.train.images, pictures(4, 1))
    np.testing.assert_array_equal(data.val.images, pictures(3, 2))


@pytest.mark.parametrize("protocol", [1, 2, 3, 4])
def test_arrays_of_python_3_in_either_order_are_read_as_numpy_reads_them(tmp_path, protocol):
    for array in (rows(pictures(3, 0)), np.asfortranarray(rows(pictures(3, 0)))):
        write(tmp_path / "array", {"data": array}, protocol)
        np.testing.assert_array_equal(load_pickle(tmp_path / "array")["data"].pixels, array)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_parent_folder_will_do(name, request):
    folder = request.getfixturevalue(name)
    assert holds_cifar_python(folder)
    assert holds_cifar_python(folder.parent)
    assert open_data(folder.parent).name == name


def test_both_in_one_folder_and_neither_are_errors(cifar10, cifar100, tmp_path):
    refuses(tmp_path, f"holds both CIFAR-10 and CIFAR-100; name {cifar10} or {cifar100}")
    (tmp_path / "empty").mkdir()
    assert not holds_cifar_python(tmp_path / "empty")
    refuses(tmp_path / "empty", "empty: no data_batch_1 (CIFAR-10) or train (CIFAR-100) here")


def test_missing_files_are_an_error_that_lists_them(cifar10):
    for file in ("data_batch_4", "test_batch", "batches.meta"):
        (cifar10 / file).unlink()
    refuses(cifar10, f"{cifar10}: no file data_batch_4, test_batch, batches.meta; unpack the published archive again")


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_an_error(cifar10, share):
    path = cifar10 / "data_batch_3"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refuses(cifar10, f"{path}: cut off or not a pickle (")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": rows(pictures(2, 0)), "labels": [1]}, ": 2 x 3072 bytes of pixels for 1 labels; 1 x 3072 are"),
        ({"data": rows(pictures(2, 0))[:, :-1], "labels": [1, 0]}, ": 2 x 3071 bytes of pixels for 2 labels; 2 x 3072"),
        ({"data": rows(pictures(2, 0)).ravel(), "labels": [1, 0]}, ": 6144 bytes of pixels for 2 labels"),
        ({"data": rows(pictures(2, 0)), "labels": [1, 10]}, " record 1: label 10, but only 10 classes have a name"),
        ({"data": rows(pictures(2, 0)), "labels": [-1, 1]}, " record 0: label -1, but only 10 classes have a name"),
        ({"data": rows(pictures(2, 0)), "labels": [1, "1"]}, " record 1: label '1', but only"),
        ({"data": rows(pictures(2, 0)), "labels": [True, 1]}, " record 0: label True, but only"),
        ({"data": rows(pictures(2, 0))}, ": no list 'labels' in it; is this a file of CIFAR's python version?"),
        ({"data": [1, 2], "labels": [1, 0]}, ": no array 'data' in it"),
        ([1, 2], ": no array 'data' in it"),
        (
            {"data": np.zeros((2, 3072), np.int64), "labels": [1, 0]},
            ": refused, because it holds an array of 'i8' instead",
        ),
        ({"data": np.array([[None]]), "labels": [1]}, ": refused, because it holds an array of 'O8' instead of bytes"),
    ],
)
def test_other_counts_sizes_labels_and_kinds_are_errors(cifar10, content, message):
    path = cifar10 / "data_batch_2"
    write(path, content)
    refuses(cifar10, f"{path}{message}")


def test_a_class_without_a_held_out_image_is_said(cifar10):
    write(cifar10 / "test_batch", {"data": rows(pictures(9, 9)), "labels": [0, 1, 2, 3, 4, 6, 7, 8, 9]})
    assert open_data(cifar10).notes == ("test has no image of class dog: no score says how well it is recognised",)


def test_names_that_are_none_are_an_error(cifar10):
    write(cifar10 / "batches.meta", {"label_names": ["cat", 3]})
    refuses(cifar10, "batches.meta: label_names must be a list of names")


# Pickles that do something.


class Calls:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("function", "named"), [(os.system, "posix.system"), (eval, "eval"), (getattr, "getattr"), (np.load, "numpy.load")]
)
def test_a_pickle_that_calls_anything_is_refused_by_the_name_of_it_and_nothing_is_called(
    cifar10, tmp_path, function, named, protocol
):
    proof = tmp_path / "called"
    path = cifar10 / "data_batch_1"
    write(path, {"data": Calls(function, f"touch {proof}"), "labels": [0]}, protocol)
    if function is not np.load:
        named = named if "." in named else f"{'builtins' if protocol > 2 else '__builtin__'}.{named}"
        refuses(cifar10, f"{path}: refused, because it asks for {named}, which no file of CIFAR needs; fetch it again")
    else:
        refuses(cifar10, f"{path}: refused, because it asks for numpy")
    assert not proof.exists()


def test_a_plain_pickle_would_have_called_it(tmp_path):
    pickle.loads(pickle.dumps(Calls(os.system, f"touch {tmp_path / 'called'}")))
    assert (tmp_path / "called").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nndarray\n(I1000000000000\ntR.",  # call the array type for 10^12 numbers
        b"\x80\x02cnumpy\nndarray\n)\x81.",  # make an instance of it without calling
        b"cnumpy.core.multiarray\n_reconstruct\n}(X\x01\x00\x00\x00aK\x01ub.",  # give a stand-in attributes
        b"cnumpy\ndtype\n(N}(X\x08\x00\x00\x00__call__K\x01utb.",
        b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01K\x02\x85Ncos\nsystem\nC\x00tb.",
        b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01K\x02\x85N\x89C\x02abtb.",  # an array without a type
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct.system\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"(cos\nsystem\no.",
        b"(X\x02\x00\x00\x00idios\nsystem\n.",
        b"Ppersistent\n.",
        b"\x80\x02\x82\x01.",  # an extension code
        b"\x80\x05\x97.",  # an out-of-band buffer
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fa.",  # 2^63 bytes
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
        b"PK\x03\x04 a zip file",
    ],
)
def test_crafted_pickles_are_refused_and_leave_nothing_behind(cifar10, content):
    (cifar10 / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_1: (refused, because it|cut off or not a pickle|no array)"):
        read_cifar_python(cifar10)
    cifar_python_still_works = load_pickle(cifar10 / "data_batch_2")
    assert cifar_python_still_works[b"labels"] == [3, 2]


def test_a_file_far_too_large_is_not_even_opened(cifar10, monkeypatch):
    monkeypatch.setattr(cifar_python, "LARGEST_BYTES", 6000)
    refuses(
        cifar10, f"data_batch_1: {(cifar10 / 'data_batch_1').stat().st_size} bytes, more than any file of CIFAR has"
    )


def test_two_steps_are_trained_on_it(cifar100, small_recipe, tmp_path):
    labels = [0, 1, 2] * 6
    write(cifar100 / "train", {"data": rows(pictures(18, 1)), "fine_labels": labels})
    summary = train(small_recipe(cifar100.parent, max_steps=2), tmp_path / "run")
    assert summary["step"] == 2
    assert read_classes(tmp_path / "run") == ("apple", "baby", "bear")
