"""Which files count as images: what the installed Pillow reads, behind links too; and a word for all the others."""

import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

import transmix
from transmix.data.dataset import DataError
from transmix.data.folder import read_folder
from transmix.data.formats import SHALLOW, SUFFIXES
from transmix.data.source import open_data
from transmix.doctor import examine

SUFFIX_TO_KIND = {
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".jp2": "JPEG2000",
    ".J2K": "JPEG2000",
    ".TIF": "TIFF",
    ".Bmp": "BMP",
    ".pnm": "PPM",
    ".apng": "PNG",
    ".ico": "ICO",
    ".AVIF": "AVIF",
}


def put(path, number=0, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, kind)


@pytest.fixture
def pets(tmp_path):
    for number, (split, name) in enumerate([("train", "cat"), ("train", "dog"), ("val", "cat"), ("val", "dog")]):
        put(tmp_path / "pets" / split / name / "0.png", number)
    return tmp_path / "pets"


def names(data):
    return [Path(os.fsdecode(path)).as_posix() for path in data.train.images.files.paths]


@pytest.mark.parametrize("suffix", SUFFIX_TO_KIND)
def test_every_suffix_of_a_kind_that_pillow_decodes_is_read(pets, suffix):
    put(pets / "train" / "cat" / f"x{suffix}", 9, SUFFIX_TO_KIND[suffix])
    data = read_folder(pets)
    assert f"cat/x{suffix}" in names(data)
    assert data.train.images[1].ndim == 3
    assert data.notes == ()
    assert examine(pets, progress=False).sound


def test_the_suffixes_are_those_of_the_decoders_that_this_pillow_has():
    libraries = {".jp2": "jpg_2000", ".avif": "avif", ".webp": "webp", ".jpg": "jpg"}
    assert {suffix for suffix in libraries if suffix in SUFFIXES} == {
        suffix for suffix, library in libraries.items() if features.check(library)
    }
    assert not SUFFIXES & {".heic", ".eps", ".tga", ".pdf", ".psd", ".h5", ".txt"}
    assert set(IMG_EXTENSIONS) <= SUFFIXES
    assert set(SHALLOW) < SUFFIXES


def test_counts_equal_image_folder_on_a_tree_with_links_and_upper_case(pets, tmp_path):
    store = tmp_path / "store"
    for number, suffix in enumerate(IMG_EXTENSIONS):
        put(store / "more" / f"{number}{suffix.upper()}", 20 + number, Image.registered_extensions()[suffix])
    put(store / "deep" / "er" / "x.Jpg", 30, "JPEG")
    (store / "more" / "notes.txt").write_text("no image")
    (pets / "train" / "cat" / "more").symlink_to(store / "more")
    (pets / "train" / "cat" / "again").symlink_to(store / "more")
    (pets / "train" / "dog" / "deep").symlink_to(store / "deep")
    (pets / "train" / "elk").symlink_to(store / "more")
    (pets / "val" / "elk").symlink_to(store / "more")
    (pets / "train" / "dog" / "one.PNG").symlink_to(store / "deep" / "er" / "x.Jpg")
    data = read_folder(pets)
    for split in ("train", "val"):
        expected = ImageFolder(pets / split)
        mine = getattr(data, split)
        assert list(data.classes) == expected.classes
        found = [
            (os.path.join(pets, split, os.fsdecode(path)), int(label))
            for path, label in zip(mine.images.files.paths, mine.labels, strict=True)
        ]
        assert sorted(found) == sorted((str(path), label) for path, label in expected.samples)
    assert len(data.train) == 2 + 3 * len(IMG_EXTENSIONS) + 2
    report = examine(pets, progress=False)
    assert report.images == {"train": len(data.train), "val": len(data.val)}


@pytest.mark.timeout(30)
def test_links_that_lead_back_end_and_are_named(pets, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    put(a / "a.png", 40)
    put(b / "b.png", 41)
    (a / "to_b").symlink_to(b)
    (b / "to_a").symlink_to(a)
    (pets / "train" / "cat" / "a").symlink_to(a)
    (pets / "train" / "cat" / "up").symlink_to("..")
    (pets / "train" / "cat" / "self").symlink_to(".")
    (pets / "train" / "all").symlink_to(".")
    data = read_folder(pets)
    assert data.classes == ("cat", "dog")
    assert names(data) == ["cat/0.png", "cat/a/a.png", "cat/a/to_b/b.png", "dog/0.png"]
    loops = {one.places[0] for one in examine(pets, progress=False).of("left-out")}
    assert loops == {"train/all", "train/cat/a/to_b/to_a", "train/cat/self", "train/cat/up"}


def test_every_image_that_is_not_trained_on_is_counted_and_named(pets):
    left = {
        "train/cat/phone.HEIC": b"\0\0\0\x18ftypheic" + bytes(9),
        "train/cat/raw.NEF": b"MM\0*" + bytes(9),
        "train/cat/new.jxl": b"\xff\x0a",
        "train/dog/no_suffix": (pets / "val" / "cat" / "0.png").read_bytes(),
        "train/dog/saved.jpg_large": b"\xff\xd8\xff" + bytes(9),
        "train/lost.png": (pets / "val" / "dog" / "0.png").read_bytes(),
        "val/lost.heic": b"x",
    }
    fine = {"train/cat/._0.png": b"\0\5\x16\7", "train/cat/notes.txt": b"a cat", "train/dog/Thumbs.db": b"\xd0\xcf"}
    before = read_folder(pets)
    for name, content in (left | fine).items():
        (pets / name).write_bytes(content)
    data = read_folder(pets)
    assert len(data.train) == len(before.train)
    assert before.notes == ()
    assert data.notes == (f"skipped 7 files that look like images; transmix doctor {pets} names each",)
    report = examine(pets, progress=False)
    assert {one.places[0] for one in report.of("left-out")} == left.keys()
    assert not report.sound
    on_disk = {path.relative_to(pets).as_posix() for path in pets.rglob("*") if path.is_file()}
    trained = {f"train/{name}" for name in names(data)} | {"val/cat/0.png", "val/dog/0.png"}
    assert {one.places[0] for one in report.findings} == on_disk - trained


def test_a_folder_that_cannot_be_listed_is_an_error(pets, monkeypatch):
    listed = os.scandir

    def scandir(path):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    (pets / "train" / "cat" / "secret").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    message = f"{pets}/train/cat/secret: cannot list the folder (Permission denied); make it readable, or remove it"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        read_folder(pets)
    report = examine(pets, progress=False)
    assert [one.places for one in report.of("left-out")] == [("train/cat/secret",)]


def content(number, kind):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue(), pixels


def shards(root, members):
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}-000000.tar", "w") as tar:
            for name, body in members:
                info = tarfile.TarInfo(name)
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
    return root


@pytest.mark.parametrize("suffix", ["tif", "TIFF", "bmp", "ppm", "gif", "jp2"])
def test_shards_hold_every_kind_that_folders_do(tmp_path, suffix):
    kind = {"tif": "TIFF", "tiff": "TIFF", "bmp": "BMP", "ppm": "PPM", "gif": "GIF", "jp2": "JPEG2000"}[suffix.lower()]
    body, _ = content(0, kind)
    data = open_data(shards(tmp_path, [(f"a.{suffix}", body), ("a.cls", b"0"), (f"b.{suffix}", body), ("b.cls", b"1")]))
    expected = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))
    np.testing.assert_array_equal(data.train.images[1], expected)


def test_a_sample_with_one_of_the_usual_kinds_is_that_image_as_before(tmp_path):
    (photo, _), (mask, pixels) = content(0, "TIFF"), content(1, "PNG")
    members = [("a.png", mask), ("a.tif", photo), ("a.cls", b"0"), ("b.png", mask), ("b.cls", b"1")]
    np.testing.assert_array_equal(open_data(shards(tmp_path, members)).train.images[0], pixels)
    members = [("a.bmp", content(0, "BMP")[0]), ("a.tif", photo), ("a.cls", b"0")]
    with pytest.raises(DataError, match=r"sample a: more than one image \(bmp, tif\)"):
        open_data(shards(tmp_path, members))


HEIF_PLUGIN = """
from PIL import Image, ImageFile

class Plugin(ImageFile.ImageFile):
    format, format_description = "HEIF", "a stand-in"

    def _open(self):
        self._size, self._mode, self.tile = (3, 2), "L", [ImageFile._Tile("raw", (0, 0, 3, 2), 12, "L")]

def register_heif_opener():
    Image.register_open("HEIF", Plugin, lambda start: start[4:12] == b"ftypheic")
    Image.register_extensions("HEIF", [".heic", ".heif"])
"""


def test_heic_is_read_where_its_plugin_is_installed(pets, tmp_path):
    (pets / "train" / "cat" / "1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(range(6)))
    (tmp_path / "pillow_heif.py").write_text(HEIF_PLUGIN)
    code = (
        f"from transmix.data.folder import read_folder\ndata = read_folder({str(pets)!r})\n"
        "print(len(data.train), data.notes, data.train.images[1].mean(axis=-1).tolist())"
    )
    places = os.pathsep.join([str(tmp_path), str(Path(transmix.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": places},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "3 () [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]"
