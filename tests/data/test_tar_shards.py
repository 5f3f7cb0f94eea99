"""Tar shards are read by offset: to the pixel, in any order, by many processes, and resumed at the very sample."""

import io
import os
import re
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from transmix.data.augment import TrainingAugmentation
from transmix.data.dataset import DataError
from transmix.data.loader import TrainingBatches, TrainingSamples
from transmix.data.sampler import EpochSampler
from transmix.data.settings import Augmentation
from transmix.data.source import open_data
from transmix.data.tar_shards import holds_tar_shards, read_tar_shards


def pixels(number):
    """An image of (height, width) = (16, 20) that no other number has: its red is the number."""
    image = np.random.default_rng(number).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    image[..., 0] = number
    return image


def png(number, kind="png"):
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "webp" else {"quality": 95} if kind == "jpeg" else {}
    Image.fromarray(pixels(number)).save(buffer, kind, **options)
    return buffer.getvalue()


def write(path, members, **options):
    """Write (name, bytes) members, or ready TarInfos, with Python's tarfile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for member in members:
            info, content = (tarfile.TarInfo(member[0]), member[1]) if isinstance(member, tuple) else (member, b"")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(number, label, suffix="cls", folder=""):
    return [(f"{folder}{number:05d}.png", png(number)), (f"{folder}{number:05d}.{suffix}", str(label).encode())]


def shard(path, numbers, **options):
    """Write a shard whose samples have their number's parity as label."""
    return write(path, [member for number in numbers for member in sample(number, number % 2)], **options)


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "pets"
    for number in range(3):
        shard(folder / f"pets-train-{number:06d}.tar", range(10 * number, 10 * number + 10))
    shard(folder / "pets-val-000000.tar", range(100, 104))
    return folder


def refuses(root, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_tar_shards(root)


def test_shards_are_read_to_the_pixel_in_the_order_of_their_names(shards):
    data = open_data(shards)
    assert (data.name, data.classes) == ("pets", ("0", "1"))
    assert (len(data.train), len(data.val)) == (30, 4)
    assert data.train.labels.tolist() == [0, 1] * 15
    assert data.train.labels.dtype == np.int64
    assert not data.in_memory
    for index in (29, 0, 13, 12, 7):
        np.testing.assert_array_equal(data.train.images[index], pixels(index))
        assert data.train.images.size(index) == (16, 20)
        assert data.train.images.where(index) == f"{shards}/pets-train-{index // 10:06d}.tar member {index:05d}.png"
    np.testing.assert_array_equal(data.val.images[3], pixels(103))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar_with_long_names_folders_and_other_members_is_read(tmp_path, form):
    long = f"{'deep/' * 30 if form != tarfile.USTAR_FORMAT else ''}käfer/{'n' * 60}"
    directory = tarfile.TarInfo("a")
    directory.type = tarfile.DIRTYPE
    members = [
        ("__meta__.json", b"{}"),
        directory,
        ("a/1.seg.png", b"not looked at"),
        ("a/1.PNG", png(1)),
        ("a/1.cls", b"1\n"),
        ("README", b"no suffix"),
        (".hidden.png", b""),
        (f"{long}.cls", b" 0 "),
        (f"{long}.caption.txt", b"not looked at"),
        (f"{long}.webp", png(2, "webp")),
    ]
    for split in ("train", "validation"):
        write(tmp_path / f"x_{split}.tar", members, format=form)
    data = read_tar_shards(tmp_path)
    assert data.train.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(data.train.images[0], pixels(1))
    np.testing.assert_array_equal(data.val.images[1], pixels(2))


def test_a_jpeg_is_what_pillow_decodes(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / f"{split}.tar", [("a.jpg", png(3, "jpeg")), ("a.cls", b"0")])
    expected = np.asarray(Image.open(io.BytesIO(png(3, "jpeg"))))
    np.testing.assert_array_equal(read_tar_shards(tmp_path).train.images[0], expected)


def test_folders_train_and_val_hold_shards_of_any_name(tmp_path):
    shard(tmp_path / "train" / "000000.tar", range(4))
    shard(tmp_path / "train" / "000001.tar", range(4, 6))
    shard(tmp_path / "test" / "a.tar", range(2))
    data = open_data(tmp_path)
    assert (len(data.train), len(data.val)) == (6, 2)
    (tmp_path / "train" / "cat").mkdir()  # class folders beside tars: the tars are what the folders were unpacked from
    (tmp_path / "val" / "cat").mkdir(parents=True)
    for split in ("train", "val"):
        Image.new("RGB", (4, 4)).save(tmp_path / split / "cat" / "a.png")
    assert not holds_tar_shards(tmp_path)
    assert open_data(tmp_path).classes == ("cat",)
    shard(tmp_path / "train-0.tar", range(2))
    with pytest.raises(DataError, match=r"more than one data set: tar shards .* and class folders .*; move one away"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("members", "labels", "classes"),
    [
        ([("a.json", b'{"label": 1}'), ("b.json", b'{"label": 0, "width": 3}')], [1, 0], ("0", "1")),
        ([("a.json", b'{"label": "dog"}'), ("b.json", b'{"label": "cat"}')], [1, 0], ("cat", "dog")),
        ([("a.txt", "gr\u00fcn\n".encode()), ("b.txt", b"blue")], [1, 0], ("blue", "gr\u00fcn")),
        ([("a.txt", b"0"), ("b.txt", b"1")], [0, 1], ("0", "1")),
        ([("a.json", b'{"width": 9}'), ("a.txt", b"1"), ("b.cls", b"0")], [1, 0], ("0", "1")),
        ([("a.cls", b"1"), ("a.json", b'{"label": 0}'), ("a.txt", b"a dog"), ("b.cls", b"0")], [1, 0], ("0", "1")),
    ],
)
def test_labels_come_from_cls_then_json_then_txt_as_numbers_or_names(tmp_path, members, labels, classes):
    members = sorted([*members, ("a.png", png(1)), ("b.png", png(2))])
    for split in ("train", "val"):
        write(tmp_path / f"{split}-0.tar", members)
    data = read_tar_shards(tmp_path)
    assert data.classes == classes
    assert data.train.labels.tolist() == labels


def test_a_file_of_names_names_the_classes_and_labels_may_use_them(shards):
    (shards / "classes.txt").write_text("cat\ndog\n")
    write(shards / "pets-val-000000.tar", [*sample(1, "dog", "txt"), *sample(2, 0)])
    data = read_tar_shards(shards)
    assert data.classes == ("cat", "dog")
    assert data.val.labels.tolist() == [1, 0]
    write(shards / "pets-val-000000.tar", [*sample(1, "elk", "txt"), *sample(2, 0)])
    refuses(shards, "pets-val-000000.tar member 00001.png: label elk is not among the 2 classes")
    (shards / "classes.txt").write_text("cat\n")
    refuses(shards, "pets-train-000000.tar member 00001.png: label 1 is not among the 1 classes")


# Damage.


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            [("a.cls", b"0")],
            "sample a: no image that is read (.jpg, .jpeg, .png, .webp and others) among .cls; image and label must be",
        ),
        (
            [("a.heic", b"x"), ("a.cls", b"0")],
            "sample a: no image that is read (.jpg, .jpeg, .png, .webp and others) among",
        ),
        ([("a.png", b"")], "sample a: no label (.cls, .json with an entry 'label', .txt); image and label must be"),
        ([("a.png", b""), ("b.png", b""), ("a.cls", b"0"), ("b.cls", b"0")], "sample a: no label"),
        ([("a.png", b""), ("a.jpg", b""), ("a.cls", b"0")], "sample a: more than one image (jpg, png)"),
        (
            [("a.png", b""), ("a.PNG", b""), ("a.cls", b"0")],
            "sample a: two members .png for one sample; give each sample its own name",
        ),
        (
            [("a.png", b""), ("a.cls", b"")],
            "sample a: the label in .cls is ''; write a number from 0 on, or a class name",
        ),
        ([("a.png", b""), ("a.json", b'{"label": 1.5}')], "sample a: the label in .json is 1.5"),
        ([("a.png", b""), ("a.json", b'{"label": true}')], "sample a: the label in .json is True"),
        ([("a.png", b""), ("a.json", b'{"label": [1]}')], "sample a: the label in .json is [1]"),
        ([("a.png", b""), ("a.json", b"{")], "sample a: cannot read .json ("),
        ([("a.png", b""), ("a.json", b"[" * 100_000)], "sample a: cannot read .json ("),
        ([("a.png", b""), ("a.json", b"[]")], "sample a: no label"),
        ([("a.png", b""), ("a.cls", b"\xff")], "sample a: cannot read .cls ("),
        ([("a.png", b""), ("a.cls", bytes(2**20 + 1))], "sample a: .cls has 1048577 bytes, too many for a label"),
        ([("a.png", b""), ("a.cls", b"-1")], "train-0.tar member a.png: label -1 is not among the 0 classes"),
        ([("a.png", b""), ("a.cls", b"999999999999")], "member a.png: label 999999999999 is not among the 1 classes"),
        (
            [("a.png", b""), ("a.cls", b"0"), ("b.png", b""), ("b.cls", b"cat")],
            "a.png: label 0 is a number, but others",
        ),
        ([("a.png", b""), ("a.cls", b"1"), ("b.png", b""), ("b.cls", b"1")], "train-0.tar: no image of class 0"),
        ([("README.md", b"")], "sample README: no image"),
        ([("README", b"")], "train-0.tar: no samples; remove the file or fetch it again"),
    ],
)
def test_samples_that_are_not_whole_are_errors_that_name_shard_and_sample(tmp_path, members, message):
    write(tmp_path / "train-0.tar", members)
    shard(tmp_path / "val-0.tar", range(2))
    refuses(tmp_path, message)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(shards, kind):
    link = tarfile.TarInfo("00001.png")
    link.type, link.linkname = kind, "/etc/passwd"
    path = write(shards / "pets-train-000001.tar", [link, ("00001.cls", b"0")])
    refuses(shards, f"{path}: 00001.png is a link or a special file; write it as a plain one")


def test_a_shard_that_is_cut_off_anywhere_is_an_error(shards):
    path = shards / "pets-train-000001.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        ends = [member.offset for member in tar.getmembers()]
        end = tar.offset
    between_members_and_inside_them = [0, 1, 511, 512, *ends[1:5], ends[3] + 100, ends[4] + 600, end - 512, end]
    for length in between_members_and_inside_them:
        path.write_bytes(whole[:length])
        refuses(shards, f"{path}: truncated, or not a tar file (")
    path.write_bytes(whole[: end + 512])
    assert len(read_tar_shards(shards).train) == 30


def test_a_flipped_byte_in_any_header_is_an_error(shards):
    path = shards / "pets-train-000001.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        offsets = [member.offset for member in tar.getmembers()]
    for offset in offsets[::3]:
        path.write_bytes(whole[: offset + 126] + bytes([whole[offset + 126] ^ 1]) + whole[offset + 127 :])  # the size
        refuses(shards, f"{path}: truncated, or not a tar file (")


def test_a_header_that_leads_back_is_an_error(shards):
    path = shards / "pets-train-000001.tar"
    whole = bytearray(path.read_bytes())
    info = tarfile.TarInfo("00010.png")
    info.size = -1536
    whole[:512] = info.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(whole)
    refuses(shards, f"{path}: truncated, or not a tar file (")


def test_a_size_that_leads_back_is_an_error_and_not_a_loop_without_end(shards):
    info = tarfile.TarInfo("a.png")
    info.pax_headers = {"size": "-1536"}
    path = write(shards / "pets-train-000001.tar", [info, ("a.cls", b"0")], format=tarfile.PAX_FORMAT)
    refuses(shards, f"{path}: truncated, or not a tar file (the data of a.png exceeds the end of the file)")


def test_compressed_shards_are_refused_with_the_remedy(shards):
    plain = shards / "pets-train-000002.tar"
    write(plain, sample(1, 0))
    plain.rename(shards / "pets-train-000002.tar.gz")
    refuses(shards, "compressed shards (pets-train-000002.tar.gz) cannot be read by offset; decompress them")


def test_missing_shards_and_splits_are_errors(shards, tmp_path):
    (shards / "pets-train-000001.tar").unlink()
    refuses(shards, f"{shards}: shards are missing between the first and the last: pets-train-1 (zeros left out)")
    shard(shards / "pets-train-000001.tar", range(3))
    shard(shards / "train" / "0.tar", range(3))
    refuses(shards, f"shards of train both here and in {shards / 'train'}; move one of them away")
    (shards / "train" / "0.tar").unlink()
    (shards / "pets-val-000000.tar").unlink()
    refuses(shards, f"{shards}: no shards val-*.tar or valid-*.tar or validation-*.tar")
    (tmp_path / "empty").mkdir()
    assert not holds_tar_shards(tmp_path / "empty")
    refuses(tmp_path / "empty", "no shards train-*.tar, the images to train on")


def test_a_broken_image_is_an_error_that_names_shard_and_member(shards):
    path = write(shards / "pets-train-000002.tar", [("x/1.png", png(1)[:200]), ("x/1.cls", b"0"), *sample(2, 1)])
    data = read_tar_shards(shards)
    with pytest.raises(DataError, match=re.escape(f"{path} member x/1.png: cannot read the image (")):
        data.train.images[20]


def test_a_shard_that_shrinks_or_goes_during_training_is_an_error(shards):
    data = read_tar_shards(shards)
    path = shards / "pets-train-000002.tar"
    os.truncate(path, 2000)
    with pytest.raises(DataError, match=re.escape(f"{path}: was truncated after training began; restore")):
        data.train.images[29]
    path.unlink()
    with pytest.raises(DataError, match=re.escape(f"{path}: cannot read the shard (No such file or directory)")):
        data.train.images[29]


# Training.


def batches(data, rank, workers=2, first_step=0):
    order = EpochSampler(len(data.train), seed=5, batch=3, step_batch=6, rank=rank, world=2)
    order.start_at(0, first_step)
    plain = Augmentation(crop="none", flip=0.0, rand_augment=None, random_erasing=0.0)
    loader = TrainingBatches(
        TrainingSamples(data.train, TrainingAugmentation(plain, 16), seed=5), order, workers, pin=False
    )
    return list(loader)


def test_two_ranks_with_two_workers_each_see_every_sample_exactly_once(shards):
    data = read_tar_shards(shards)
    seen = [batches(data, rank) for rank in (0, 1)]
    reds = [image[0].unique().tolist() for rank in seen for images, _ in rank for image in images]
    assert Counter(red for (red,) in reds) == Counter(range(30))  # each image whole, each once
    labels = [label for rank in seen for _, labels in rank for label in labels.tolist()]
    assert labels == [red % 2 for (red,) in reds]
    assert [len(rank) for rank in seen] == [5, 5]
    same_rank_twice = [image[0].unique().item() for images, _ in [*seen[0], *seen[0]] for image in images]
    assert Counter(same_rank_twice) != Counter(range(30))


def test_a_loader_that_goes_on_in_mid_epoch_gives_the_rest_of_the_same_batches(shards):
    data = read_tar_shards(shards)
    whole, rest = batches(data, 1), batches(data, 1, workers=0, first_step=2)
    for (images, labels), (others, other_labels) in zip(whole[2:], rest, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)
