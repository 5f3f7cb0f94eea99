"""What is packed is the data set, smaller: same labels, classes, parts and names; and it goes on where it stopped."""

import errno
import io
import json
import os
import pickle
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from transmix.cli import main
from transmix.data import tables
from transmix.data.dataset import DataError
from transmix.data.decode import decode_image
from transmix.data.grey_range import scale_grey
from transmix.data.masks import BACKGROUND, FOREGROUND, UNSURE, NoMasksError, open_masks
from transmix.data.packed import INDEX, PackedIndex, PackedPart, Shard, open_shard, read_index
from transmix.data.parts import Choice
from transmix.data.settings import Data
from transmix.data.source import load_data, open_data
from transmix.data.subset import fingerprint
from transmix.doctor import examine
from transmix.pack import PackSettings, pack, write
from transmix.pack.shards import Row, opened_shard, schema_of
from transmix.pack.write import PackError
from transmix.runs import atomic_write

SMALL = PackSettings(short_side=24, shard_mb=1)


def smooth(seed, size):
    """Draw an image (H, W, 3) without fine detail, so that a JPEG of it is near to it."""
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return small.resize(size[::-1], Image.Resampling.BICUBIC)


def turned(image, path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, quality=95, exif=exif)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Class folders: one image of each kind to train on, larger than 24 pixels or not; two to validate on."""
    root = tmp_path_factory.mktemp("data") / "photos"
    for part in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (root / part).mkdir(parents=True)
    cat, dog = root / "train" / "cat", root / "train" / "dog"
    smooth(0, (60, 90)).save(cat / "large.jpg", quality=95)
    turned(smooth(1, (60, 90)), cat / "turned.jpg", 6)
    turned(smooth(2, (20, 30)), cat / "small_turned.jpg", 3)
    smooth(3, (200, 300)).convert("L").save(cat / "grey.jpg", quality=95)
    smooth(4, (24, 40)).save(dog / "as_short.jpg")
    smooth(5, (60, 40)).convert("P").save(dog / "palette.png")
    seen = smooth(6, (50, 70))
    seen.putalpha(Image.linear_gradient("L").resize((70, 50)))
    seen.save(dog / "alpha.png")
    smooth(7, (70, 50)).convert("CMYK").save(dog / "ink.jpg", quality=95)
    deep = np.random.default_rng(8).integers(900, 1400, (40, 50), dtype=np.uint16)
    Image.fromarray(deep).save(dog / "deep.png")
    smooth(9, (60, 70)).save(root / "val" / "cat" / "a.jpg")
    smooth(10, (70, 60)).save(root / "val" / "dog" / "b.jpg")
    return root


@pytest.fixture(scope="module")
def packed(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "out"
    return out, pack(photos, out, SMALL, workers=0)


def files_of(out):
    return {path.name: path.read_bytes() for path in sorted(Path(out).iterdir())}


def at(split, name):
    return next(index for index in range(len(split)) if f"/{name})" in f"{split.where(index)})")


def test_the_packed_set_has_the_labels_classes_parts_and_names_of_its_source(photos, packed):
    before, after = open_data(photos), open_data(packed[0])
    assert after.classes == before.classes
    for part in ("train", "val"):
        one, other = getattr(before, part), getattr(after, part)
        assert one.labels.tolist() == other.labels.tolist()
        assert other.labels.dtype == np.int64
        for index in range(len(one)):
            name = os.path.relpath(one.where(index), photos)
            assert other.where(index) == f"{packed[0]}/{part}-00000.arrow row {index} ({name})"
            assert other.images.size(index) == replace(other.images, grey=(900, 1399))[index].shape[:2]
    assert after.parts.held_out == "val"
    assert fingerprint(before.train, before.classes) == fingerprint(after.train, after.classes)
    assert packed[1].count("images") == 11
    assert packed[1].source_bytes == sum(path.stat().st_size for path in photos.rglob("*.*"))


@pytest.mark.parametrize("name", ["large.jpg", "turned.jpg", "grey.jpg", "palette.png", "alpha.png", "ink.jpg"])
def test_larger_images_are_near_to_what_pillow_makes_of_the_whole_image(name, photos, packed):
    before, after = open_data(photos).train, open_data(packed[0]).train
    index = at(before, name)
    whole, small = before.images[index], after.images[index]
    height, width = whole.shape[:2]
    assert min(small.shape[:2]) == 24
    assert small.shape[1] == round(width * 24 / min(height, width))
    expected = io.BytesIO()
    resized = Image.fromarray(whole).resize(small.shape[1::-1], Image.Resampling.LANCZOS)
    resized.convert("L" if name == "grey.jpg" else "RGB").save(expected, "JPEG", quality=90, subsampling="4:2:0")
    assert np.abs(np.asarray(Image.open(expected).convert("RGB")).astype(float) - small).mean() < 1
    assert np.abs(np.asarray(resized).astype(float) - small).mean() < 6
    with Image.open(io.BytesIO(after.images.source(index))) as image:
        assert image.format == "JPEG"
        assert image.mode == ("L" if name == "grey.jpg" else "RGB")
        assert not image.getexif()


@pytest.mark.parametrize("name", ["small_turned.jpg", "as_short.jpg", "deep.png"])
def test_images_that_are_small_or_deep_keep_their_bytes(name, photos, packed):
    after = open_data(packed[0]).train
    index = at(after, name)
    assert after.images.source(index) == next(photos.rglob(name)).read_bytes()


def test_held_out_images_keep_their_bytes_unless_told_otherwise(photos, packed, tmp_path):
    before, after = open_data(photos).val, open_data(packed[0]).val
    assert [after.images.source(index) for index in (0, 1)] == [before.images.source(i).read_bytes() for i in (0, 1)]
    pack(photos, tmp_path / "out", replace(SMALL, val_short_side=32), workers=0)
    smaller = open_data(tmp_path / "out")
    assert [smaller.val.images[index].shape[:2] for index in (0, 1)] == [(32, 37), (37, 32)]
    assert "the held-out images are resized too" in smaller.notes[1]
    assert len(open_data(packed[0]).notes) == 1


def test_deep_grey_has_the_range_of_the_source(photos, packed):
    before, after = (scale_grey(open_data(data), "find") for data in (photos, packed[0]))
    assert before.grey == after.grey == (900, 1399)
    index = at(before.train, "deep.png")
    assert np.array_equal(before.train.images[index], after.train.images[index])


@pytest.mark.parametrize("workers", [2])
def test_the_files_do_not_depend_on_the_number_of_workers(workers, photos, packed, tmp_path):
    pack(photos, tmp_path / "out", SMALL, workers=workers)
    assert files_of(tmp_path / "out") == files_of(packed[0])


def test_what_goes_to_a_spawned_worker_is_small_and_opens_the_files_again(packed):
    split = open_data(packed[0]).train
    content = pickle.dumps(split.images)
    assert len(content) < 2000
    again = pickle.loads(content)
    assert again.where(1) == split.where(1)
    assert again.source(1) == split.images.source(1)


def test_arrays_are_packed_without_loss_and_told_apart_as_before(tmp_path):
    draw = np.random.default_rng(0)
    root = tmp_path / "cifar-10-batches-bin"
    root.mkdir()
    for number in range(1, 7):
        content = b"".join(bytes([label]) + draw.bytes(3072) for label in range(10))
        (root / (f"data_batch_{number}.bin" if number < 6 else "test_batch.bin")).write_bytes(content)
    (root / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    summary = pack(root, tmp_path / "out", PackSettings(short_side=288), workers=0)
    before, after = open_data(root), open_data(tmp_path / "out")
    for one, other in ((before.train, after.train), (before.val, after.val)):
        assert np.array_equal(one.images, np.stack([other.images[index] for index in range(len(one))]))
        assert one.labels.tolist() == other.labels.tolist()
        assert fingerprint(one, before.classes) == fingerprint(other, after.classes)
    assert after.parts.held_out == "test"
    assert summary.decoding is None


NAMES = ["cat", "dog"]


def write_parquet(path, sizes, group, masks=True, seed=0):
    """Write images of these sizes, with trimaps, in row groups of some rows; return the trimaps."""
    draw = np.random.default_rng(seed)
    columns = {"image": [], "mask": []}
    trimaps = [draw.integers(1, 4, size).astype(np.uint8) for size in sizes]
    for number, (size, trimap) in enumerate(zip(sizes, trimaps, strict=True)):
        for name, image in (("image", smooth(seed + number, size)), ("mask", Image.fromarray(trimap))):
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            columns[name].append({"bytes": buffer.getvalue(), "path": None})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": NAMES}}
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = {name: pa.array(column, kind) for name, column in columns.items() if masks or name == "image"}
    table["label"] = pa.array([number % 2 for number in range(len(sizes))], pa.int64())
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), path, row_group_size=group)
    return trimaps


@pytest.fixture
def parquet(tmp_path):
    root = tmp_path / "parquet"
    write_parquet(root / "train-00000-of-00002.parquet", [(40, 50), (20, 30), (50, 40)], 2)
    write_parquet(root / "train-00001-of-00002.parquet", [(30, 30), (36, 48)], 1, seed=10)
    write_parquet(root / "test-00000-of-00001.parquet", [(40, 50), (20, 30)], 2, seed=20)
    write_parquet(root / "validation-00000-of-00001.parquet", [(40, 50), (20, 30)], 2, seed=30)
    return root


def test_parquet_is_packed_with_all_its_parts_and_with_masks_in_the_size_of_the_images(parquet, tmp_path):
    pack(parquet, tmp_path / "out", SMALL, workers=0)
    for part in ("validation", "test"):
        before, after = (open_data(data, choice=Choice((part,))) for data in (parquet, tmp_path / "out"))
        assert after.parts.held_out == part
        assert after.classes == before.classes == ("cat", "dog")
        assert fingerprint(before.val, before.classes) == fingerprint(after.val, after.classes)
        assert all(np.array_equal(before.val.images[i], after.val.images[i]) for i in range(2))
        assert all(np.array_equal(open_masks(before)(i), open_masks(after)(i)) for i in range(2))
    before, after = open_data(parquet), open_data(tmp_path / "out")
    assert before.train.labels.tolist() == after.train.labels.tolist() == [0, 1, 0, 0, 1]
    assert "train-00001-of-00002.parquet row 1)" in after.train.where(4)
    masks, whole = open_masks(after, "train"), open_masks(before, "train")
    assert {BACKGROUND, FOREGROUND, UNSURE} == set(np.unique(masks(0)))
    for index in range(5):
        size = after.train.images[index].shape[1::-1]
        resized = Image.fromarray(whole(index)).resize(size, Image.Resampling.NEAREST)
        assert np.array_equal(masks(index), np.asarray(resized))


def test_without_masks_there_are_none(parquet, tmp_path):
    pack(parquet, tmp_path / "out", replace(SMALL, masks=False), workers=0)
    with pytest.raises(NoMasksError, match="no foreground masks"):
        open_masks(open_data(tmp_path / "out"))


def test_masks_that_only_some_files_have_are_not_dropped(parquet, tmp_path):
    write_parquet(parquet / "train-00001-of-00002.parquet", [(30, 30)], 1, masks=False)
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet: no foreground masks"):
        pack(parquet, tmp_path / "out", SMALL, workers=0)


def test_parquet_is_read_one_row_group_after_the_other(parquet, monkeypatch):
    reads = []
    read = tables.ParquetRows._read
    monkeypatch.setattr(tables.ParquetRows, "_read", lambda self, at: reads.append(at) or read(self, at))
    in_order, whole = open_data(parquet, choice=Choice(in_order=True)), open_data(parquet)
    assert reads == []
    for split, other in ((in_order.train, whole.train), (in_order.val, whole.val)):
        assert [split.images.source(i) for i in range(len(split))] == [
            other.images.source(i) for i in range(len(other))
        ]
        assert [split.where(index) for index in range(len(split))] == [
            other.where(index) for index in range(len(other))
        ]
    assert reads == [0, 1, 2, 3, 0]


def test_datasets_opens_the_files_with_images_and_class_names(packed, tmp_path):
    datasets = pytest.importorskip("datasets")
    after = open_data(packed[0])
    mapped = datasets.Dataset.from_file(str(packed[0] / "train-00000.arrow"))
    loaded = datasets.load_dataset("arrow", data_files=str(packed[0] / "train-*.arrow"), cache_dir=str(tmp_path))
    for found in (mapped, loaded["train"]):
        assert found.features["label"].names == list(after.classes)
        assert found["label"] == after.train.labels.tolist()
        index = at(after.train, "large.jpg")
        assert np.array_equal(np.asarray(found[index]["image"]), after.train.images[index])


# Parts


@pytest.fixture
def undivided(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "all" / name).mkdir(parents=True)
        for number in range(4):
            smooth(number, (40, 50)).save(tmp_path / "all" / name / f"{number}.jpg")
    return tmp_path / "all"


def test_a_fraction_is_held_out_as_training_does_and_stays_whole(undivided, tmp_path):
    with pytest.raises(
        DataError, match=r"--val-fraction 0\.2 holds out a fifth of each class, whole; --val-short-side N"
    ):
        pack(undivided, tmp_path / "out", SMALL, workers=0)
    choice = Choice(val_fraction=0.25)
    pack(undivided, tmp_path / "out", SMALL, choice=choice, workers=0)
    before, after = open_data(undivided, choice=choice), open_data(tmp_path / "out")
    assert fingerprint(before.val, before.classes) == fingerprint(after.val, after.classes)
    assert [after.val.images[index].shape for index in (0, 1)] == [(40, 50, 3)] * 2
    assert [after.train.images[index].shape for index in (0, 5)] == [(24, 30, 3)] * 2


def test_all_images_as_one_part_are_divided_by_the_run_as_before(undivided, tmp_path):
    pack(undivided, tmp_path / "out", replace(SMALL, val_short_side=24), workers=0)
    choice = Choice(val_fraction=0.25)
    before, after = (open_data(data, choice=choice) for data in (undivided, tmp_path / "out"))
    assert fingerprint(before.val, before.classes) == fingerprint(after.val, after.classes)
    with pytest.raises(DataError, match="not divided into train and val"):
        open_data(tmp_path / "out")


def test_training_on_larger_images_than_were_packed_is_said(packed):
    found = load_data(Data(data=str(packed[0]), image_size=32, grey_range=(900, 1399)), seed=0)
    assert (
        found.notes[-1]
        == "out is packed to a shorter side of 24, below image_size 32: transmix pack --short-side 41 keeps more"
    )
    found = load_data(Data(data=str(packed[0]), image_size=24, grey_range=(900, 1399)), seed=0)
    assert not any("below image_size" in note for note in found.notes)


# Interruptions


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Class folders of noise, of which each MB fills a file: three files of training images, one of the others."""
    root, draw = tmp_path_factory.mktemp("many") / "many", np.random.default_rng(0)
    for part, count in (("train", 10), ("val", 2)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (220, 300, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.jpg", quality=95)
    return root


NOISE = PackSettings(short_side=216, quality=95, shard_mb=1)


@pytest.fixture(scope="module")
def whole(many, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    pack(many, out, NOISE, workers=0)
    assert sorted(files_of(out)) == [INDEX, "train-00000.arrow", "train-00001.arrow", "val-00000.arrow"]
    return out


def waits_before(name, count, monkeypatch):
    """Make the count-th call of a function of `write` never return."""
    call, calls = getattr(write, name), []

    def counted(*given, **named):
        calls.append(given)
        if len(calls) == count:
            signal.pause()
        return call(*given, **named)

    monkeypatch.setattr(write, name, counted)


STOPS = {
    "a file without its entry in the index": ("write_json", lambda first: 2, "train-00000.arrow", 0),
    "half of the second file": ("Row", lambda first: first + 3, "train-00001.arrow.tmp", 1),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the child is forked")
@pytest.mark.parametrize("stop", STOPS)
def test_after_a_kill_it_goes_on_to_the_same_files(stop, many, whole, tmp_path, monkeypatch):
    name, count, state, entries = STOPS[stop]
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        waits_before(name, count(read_index(whole).shards[0].images), monkeypatch)
        pack(many, out, NOISE, workers=0, progress=False)
        os._exit(0)
    try:
        while not (out / state).exists():
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before"
            time.sleep(0.02)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert len(read_index(out).shards) == entries
    with pytest.raises(
        DataError, match=re.escape(f"of 24 images are packed; to continue, with the same options: transmix pack {many}")
    ):
        open_data(out)
    pack(many, out, NOISE, workers=0)
    assert files_of(out) == files_of(whole)


def test_a_full_disk_is_one_line_and_goes_on_to_the_same_files(many, whole, tmp_path, monkeypatch):
    out, calls, write_out = tmp_path / "out", [], os.fsync

    def fsync(file):
        calls.append(file)
        if len(calls) == 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_out(file)

    with monkeypatch.context() as patch:
        patch.setattr(atomic_write.os, "fsync", fsync)
        with pytest.raises(
            PackError, match=r"cannot write .*No space left on device \(free some space there\); the same command"
        ):
            pack(many, out, NOISE, workers=0)
    assert not list(out.glob("*.tmp"))
    assert not read_index(out).complete
    pack(many, out, NOISE, workers=0)
    assert files_of(out) == files_of(whole)


def test_a_finished_one_is_left_alone(many, whole, monkeypatch):
    before = {path.name: path.stat().st_mtime_ns for path in whole.iterdir()}
    assert pack(many, whole, NOISE, workers=0).count("images") == 24
    assert {path.name: path.stat().st_mtime_ns for path in whole.iterdir()} == before


@pytest.mark.parametrize(
    ("settings", "choice", "message"),
    [
        (replace(NOISE, quality=90), Choice(), "was begun with --quality 95, not 90"),
        (replace(NOISE, val_short_side=40), Choice(), "was begun with --val-short-side None, not 40"),
        (NOISE, Choice(val_fraction=0.5), "has a part to validate on; leave --val-fraction out"),
    ],
)
def test_other_settings_are_refused(settings, choice, message, many, whole):
    with pytest.raises(DataError, match=re.escape(message)):
        pack(many, whole, settings, choice=choice, workers=0)


def an_image_more(root):
    shutil.copy(root / "train" / "cat" / "0.jpg", root / "train" / "cat" / "copy.jpg")


def another_name(root):
    (root / "train" / "cat" / "0.jpg").rename(root / "train" / "cat" / "00.jpg")


def another_class(root):
    (root / "val" / "dog").rename(root / "val" / "wolf")
    (root / "train" / "dog").rename(root / "train" / "wolf")


def other_pixels(root):
    shutil.copy(root / "train" / "cat" / "0.jpg", root / "train" / "dog" / "9.jpg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (an_image_more, "with 20 images in train, not 21"),
        (another_name, "whose images or labels in train are others than now"),
        (another_class, "which has other classes than"),
        (other_pixels, "dog/9.jpg is packed otherwise now: the images changed since"),
    ],
)
def test_another_source_is_refused(change, message, many, whole, tmp_path):
    shutil.copytree(many, tmp_path / "other")
    assert pack(tmp_path / "other", whole, NOISE, workers=0).index.complete
    change(tmp_path / "other")
    with pytest.raises(DataError, match=re.escape(message)):
        pack(tmp_path / "other", whole, NOISE, workers=0)


def test_a_folder_of_something_else_is_left_alone(photos, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds other files \(notes\.txt\); give a new folder"):
        pack(photos, tmp_path, SMALL)
    with pytest.raises(DataError, match="is in the data set itself; choose a folder outside"):
        pack(photos, photos / "out", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_two_processes_do_not_pack_to_one_folder(photos, packed):
    fcntl = pytest.importorskip("fcntl")
    folder = os.open(packed[0], os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(PackError, match="another process is packing to it"):
        pack(photos, packed[0], SMALL)
    os.close(folder)


# Images that cannot be read


def test_unreadable_images_are_all_named_or_left_out(photos, tmp_path, capsys):
    root, out = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(photos, root)
    for name in ("train/cat/grey.jpg", "train/dog/deep.png", "val/dog/b.jpg"):
        (root / name).write_bytes((root / name).read_bytes()[:90])
    with pytest.raises(DataError) as caught:
        pack(root, out, SMALL, workers=0)
    assert str(caught.value).startswith("3 images cannot be read: ")
    for name in ("train/cat/grey.jpg", "train/dog/deep.png", "val/dog/b.jpg"):
        assert f"{root}/{name} (" in str(caught.value)
        assert f"{root}/{name}\t" in (out / "bad_images.txt").read_text()
    with pytest.raises(DataError, match="more than max_bad_images 2 images"):
        pack(root, out, SMALL, workers=0, max_bad=2)
    assert main(["pack", str(root), str(out), "--short-side", "24", "--shard-mb", "1", "--on-bad-image", "skip"]) == 0
    assert f"3 images cannot be read and are left out; {out}/bad_images.txt lists them" in capsys.readouterr().out
    before, after = open_data(photos), open_data(out)
    assert (len(after.train), len(after.val)) == (len(before.train) - 2, 1)
    index = at(after.train, "alpha.png")
    assert "row 3 " in after.train.where(index)
    assert after.train.labels[index] == before.train.labels[at(before.train, "alpha.png")]
    assert len((out / "bad_images.txt").read_text().splitlines()) == 3


# Damage


@pytest.fixture
def copied(packed, tmp_path):
    shutil.copytree(packed[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_doctor_finds_a_flipped_byte(copied, capsys):
    assert not examine(copied, progress=False, workers=0).of("damaged-file")
    path = copied / "train-00000.arrow"
    content = bytearray(path.read_bytes())
    content[-600] ^= 1
    path.write_bytes(content)
    found = examine(copied, progress=False, workers=0).of("damaged-file")
    assert [(one.places, one.detail) for one in found] == [
        (("train-00000.arrow",), "its content is not what was packed")
    ]
    assert main(["doctor", str(copied), "--workers", "0"]) == 1
    assert "layout: packed images (packed.json)" in capsys.readouterr().out


@pytest.mark.parametrize("stride", [7])
def test_no_flipped_byte_gives_more_than_an_error(copied, stride):
    """Bytes of the file's structure too: what is not noticed at once must not end the process."""
    path, shard = copied / "val-00000.arrow", read_index(copied).of("val")[0]
    whole = path.read_bytes()
    messages = set()
    for position in [*range(0, 1500, stride), *range(len(whole) - 1000, len(whole), stride)]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :])
        try:
            for row in open_shard(copied, shard)["image"].to_pylist():
                decode_image(row["bytes"] or b"", "")
        except DataError as error:
            messages.add(str(error).partition("(")[0])
        except UnicodeDecodeError:
            messages.add("text")
    assert any("not a readable Arrow file" in message for message in messages)


def test_a_truncated_file_and_a_damaged_index_are_errors(copied):
    path = copied / "val-00000.arrow"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=rf"val-00000.arrow: {len(content) - 1} bytes, but {len(content)} were packed"):
        open_data(copied)
    path.unlink()
    with pytest.raises(DataError, match=r"val-00000\.arrow: cannot be read"):
        open_data(copied)
    index = json.loads((copied / INDEX).read_text())
    (copied / INDEX).write_text(json.dumps(index | {"packed_images": 2}))
    with pytest.raises(DataError, match="version 2, and only 1 is read; update transmix"):
        open_data(copied)
    (copied / INDEX).write_text("{")
    with pytest.raises(DataError, match="cannot read the index"):
        open_data(copied)


def test_a_run_trains_from_it_and_is_evaluated_on_it_and_on_the_source_alike(
    many, whole, small_recipe, tmp_path, capsys
):
    from transmix.recipes import dump_recipe
    from transmix.runs.folder import RunError, check_packed

    recipe, run = tmp_path / "small.yaml", tmp_path / "run"
    recipe.write_text(dump_recipe(small_recipe(whole, max_steps=2, crop="random-resized")))
    assert main(["train", "--recipe", str(recipe), "--out", str(run)]) == 0
    assert f"packed from {many}: train resized to a shorter side of 216, val whole" in capsys.readouterr().out
    scores = []
    for data in (whole, many):
        assert (
            main(["evaluate", str(run), "--workers", "0", "--data", str(data), "--out", str(tmp_path / "e.json")]) == 0
        )
        scores.append(json.loads((tmp_path / "e.json").read_text())["scores"])
    assert scores[0] == scores[1]

    order = ["train", "--recipe", str(recipe), "--data", str(many), "--out", str(run), "--resume", "--max-steps", "3"]
    assert main(order) != 0
    assert "was trained on packed images, and many is not packed: other pixels; resume" in capsys.readouterr().err
    about = json.loads((run / "data.json").read_text())
    assert about.pop("packed") is True
    (run / "data.json").write_text(json.dumps(about))  # as runs wrote it before there were packed images
    check_packed(run, open_data(many))
    with pytest.raises(RunError, match="was trained on images that are not packed, and out is packed: other pixels"):
        check_packed(run, open_data(whole))


# Memory


IMAGES, IMAGE_BYTES = 100_000, 1500


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A packed part of 100,000 images that are only bytes, each with its number."""
    root = tmp_path_factory.mktemp("long")
    with opened_shard(root / "train-00000.arrow", schema_of(NAMES, False)) as writer:
        for number in range(IMAGES):
            writer.add(Row(number.to_bytes(4, "big") + bytes(IMAGE_BYTES), f"cat/{number}.jpg", number % 2, None))
    part = PackedPart("train", IMAGES, 288, "", "train", "path")
    shard = Shard("train-00000.arrow", "train", 0, IMAGES, IMAGES, writer.size, writer.sha256, 0, 0)
    index = PackedIndex("SOURCE", {}, tuple(NAMES), (part,), (shard,), True)
    (root / INDEX).write_text(json.dumps(index.as_json()))
    return root


def own_memory():
    """Return the megabytes of this process that no file backs, and that it shares with nobody."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:")) / 1024


def memory_over(images, keep):
    """Read all images in another process, in random order; return its memory after a tenth, and at the end."""
    ends = os.pipe()
    if (child := os.fork()) == 0:
        order, kept, found = np.random.default_rng(0).permutation(len(images)), [], []
        for done, row in enumerate(order, start=1):
            content = images.source(row)
            assert int.from_bytes(content[:4], "big") == row
            if keep:
                kept.append(content)
            if done in (len(order) // 10, len(order)):
                found.append(own_memory())
        os.write(ends[1], json.dumps(found).encode())
        os._exit(0)
    os.close(ends[1])
    with os.fdopen(ends[0]) as answers:
        found = json.loads(answers.read())
    os.waitpid(child, 0)
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read as Linux says it")
def test_the_memory_of_a_worker_is_flat_over_100_000_images(long):
    choice = Choice(("train",), for_evaluation=True)
    images = open_data(long, choice=choice).val.images
    early, late = memory_over(images, keep=False)
    assert late - early < 8
    early, late = memory_over(images, keep=True)
    assert late - early > 0.8 * IMAGES * IMAGE_BYTES / 2**20  # what is kept would be seen
