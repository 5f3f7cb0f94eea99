"""The doctor finds what would stop or mislead training, names it, and passes what is sound."""

import io
import json
import os
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from transmix.cli import main
from transmix.data.dataset import DataError
from transmix.data.tables import read_parquet
from transmix.doctor import examine
from transmix.doctor.examine import Picture, look_at_content, look_at_pixels, same_pixels
from transmix.doctor.report import NOTES, PROBLEMS


def picture(seed, size=(6, 8)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def places(report, kind):
    return [finding.places for finding in report.of(kind)]


def singles(report, kind):
    return [finding.places[0] for finding in report.of(kind)]


@pytest.fixture
def pets(tmp_path):
    """Class folders with nothing wrong: two classes, three and one images."""
    root = tmp_path / "pets"
    for number, (split, name, count) in enumerate(
        [("train", "cat", 3), ("train", "dog", 3), ("val", "cat", 1), ("val", "dog", 1)]
    ):
        (root / split / name).mkdir(parents=True)
        for index in range(count):
            picture(10 * number + index).save(root / split / name / f"{index}.png")
    return root


def test_a_sound_data_set_is_called_sound(pets, capsys):
    report = examine(pets)
    assert (report.images, report.classes, report.findings, report.sound) == ({"train": 6, "val": 2}, 2, (), True)
    assert main(["doctor", str(pets)]) == 0
    shown = capsys.readouterr().out.splitlines()
    first = [f"{pets}: 6 images in train, 2 images in val; 2 classes", "layout: class folders in train and val"]
    assert shown == [*first, "classes: cat, dog", "", "problems: none", "", "notes: none"]


def png(bits, colour, rows, size=(8, 6)):
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def odd_content():
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000)
    alpha = picture(1).copy()
    alpha.putalpha(Image.new("L", (8, 6), 77))
    jpeg = encode(picture(2, (40, 40)), "JPEG")
    return {
        "text.jpg": (b"this is no image", "unreadable"),
        "cut.jpg": (jpeg[:-300], "truncated"),
        "cut.png": (encode(picture(3))[:80], "truncated"),
        "cut.gif": (encode(picture(3, (30, 30)), "GIF")[:-90], "truncated"),
        "cut.webp": (encode(picture(3, (30, 30)), "WEBP")[:-90], "truncated"),
        "nothing.png": (b"", "empty-file"),
        "bomb.png": (png(8, 2, b"", size=(30_000, 30_000)), "huge"),
        "is_png.jpg": (encode(picture(4)), "wrong-extension"),
        "deep.png": (encode(deep), "16-bit"),
        "float.tif": (encode(Image.fromarray(np.random.default_rng(0).random((6, 8), np.float32)), "TIFF"), "16-bit"),
        "ink.jpg": (encode(picture(5).convert("CMYK"), "JPEG"), "cmyk"),
        "few.png": (encode(picture(6).quantize(9)), "palette"),
        "glass.png": (encode(alpha), "alpha"),
        "turned.jpg": (encode(picture(7), "JPEG", exif=exif), "rotated"),
        "moving.webp": (encode(picture(8), "WEBP", save_all=True, append_images=[picture(9)]), "animated"),
        "pages.tif": (encode(picture(90), "TIFF", save_all=True, append_images=[picture(91)]), "animated"),
    }


@pytest.mark.parametrize("name", odd_content())
def test_each_kind_of_odd_file_is_found_and_named(pets, name):
    content, kind = odd_content()[name]
    (pets / "train" / "cat" / name).write_bytes(content)
    report = examine(pets, progress=False)
    found = [(finding.kind, finding.places) for finding in report.findings if finding.kind != "mixed-depth"]
    assert found == [(kind, (f"train/cat/{name}",))]
    assert report.sound == (kind in NOTES)
    assert (kind in PROBLEMS) != (kind in NOTES)


def test_16_bit_colour_is_found_although_pillow_calls_it_rgb():
    content = png(16, 2, b"".join(b"\0" + bytes(6 * 8) for _ in range(6)))
    assert Image.open(io.BytesIO(content)).mode == "RGB"
    assert look_at_content(content).oddities == (("16-bit", "mode RGB;16B"),)


def test_an_image_that_pillow_warns_of_is_large(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    assert look_at_content(encode(picture(0)), ".png").oddities == (("large", "8 x 6"),)


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("nowhere"), lambda path: path.symlink_to("/dev/zero")]
)
@pytest.mark.timeout(30)
def test_what_is_no_file_is_found_and_not_waited_for(pets, make):
    make(pets / "val" / "dog" / "z.jpg")
    report = examine(pets)
    assert places(report, "not-a-file") == [("val/dog/z.jpg",)]
    assert not report.sound


def test_same_pixels_are_found_across_formats_and_splits_and_labels(pets):
    save = {".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}
    for seed, names in {
        100: ("train/cat/leak.png", "val/cat/leak.bmp"),
        101: ("train/cat/both.webp", "train/dog/both.png"),
        102: ("train/dog/twice.png", "train/dog/again.bmp", "train/dog/thrice.png"),
        103: ("train/cat/worse.png", "val/dog/worse.png"),
    }.items():
        for name in names:
            suffix = name[name.index(".") :]
            picture(seed).save(pets / name, save[suffix], **({"lossless": True} if suffix == ".webp" else {}))
    report = examine(pets)
    assert places(report, "leakage") == [
        ("train/cat/leak.png", "val/cat/leak.bmp"),
        ("train/cat/worse.png", "val/dog/worse.png"),
    ]
    conflicts = {finding.places: finding.detail for finding in report.of("conflict")}
    assert conflicts == {
        ("train/cat/both.webp", "train/dog/both.png"): "cat, dog",
        ("train/cat/worse.png", "val/dog/worse.png"): "cat, dog",
    }
    assert places(report, "duplicate") == [("train/dog/again.bmp", "train/dog/thrice.png", "train/dog/twice.png")]


def test_duplicates_alone_are_a_note():
    twins = [Picture(b"x", "train", "cat", place) for place in ("a", "b")]
    assert [finding.problem for finding in same_pixels(twins)] == [False]
    assert same_pixels([Picture(b"x", "train", "cat", "a"), Picture(b"y", "val", "cat", "b")]) == []


def test_a_fingerprint_tells_pixels_and_shape_apart_and_nothing_else():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    same = np.asfortranarray(image)
    other = image.copy()
    other[1, 3, 2] ^= 1
    assert look_at_pixels(image).pixels == look_at_pixels(same).pixels
    assert look_at_pixels(image).pixels != look_at_pixels(other).pixels
    assert look_at_pixels(image).pixels != look_at_pixels(image.reshape(4, 2, 3)).pixels


def test_folders_that_are_empty_or_differ_are_named_with_what_training_would_say(pets):
    (pets / "train" / "elk").mkdir()
    (pets / "val" / "elk").mkdir()
    picture(50).save(pets / "val" / "elk" / "a.png")
    (pets / "val" / "fox").mkdir()
    picture(51).save(pets / "val" / "fox" / "a.png")
    report = examine(pets)
    assert singles(report, "empty-class") == ["train/elk"]
    assert [finding.detail for finding in report.of("class-difference")] == ["not in train: fox"]
    assert "train: no images in class folder elk" in report.of("refused")[0].detail
    assert report.images == {"train": 6, "val": 4}


def test_a_data_set_without_a_validation_split_is_still_looked_at(pets):
    (pets / "val").rename(pets / "other")
    (pets / "train" / "cat" / "0.png").write_bytes(b"")
    report = examine(pets)
    assert singles(report, "empty-file") == ["train/cat/0.png"]
    assert "no folder 'val'" in report.of("refused")[0].detail


def test_everything_that_is_passed_over_is_told_from_what_should_not_be(pets):
    for name in ("train/.cache/a.png", "train/cat/.a.png", ".git/config", "train/cat/.trash/b.png"):
        (pets / name).parent.mkdir(exist_ok=True)
        picture(60).save(pets / name, "PNG")
    (pets / "train" / "README.txt").write_text("no class")
    (pets / "train" / "cat" / "Thumbs.db").write_text("no image")
    (pets / "cover.png").write_bytes(encode(picture(61)))
    (pets / "masks").mkdir()
    picture(62).save(pets / "train" / "lost.png")
    picture(63).save(pets / "train" / "dog" / "photo.jpeg_large", "JPEG")
    (pets / "train" / "dog" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(9))
    picture(64).save(pets / "train" / "dog" / "no_suffix", "PNG")
    (pets / "store").mkdir()
    (pets / "train" / "dog" / "more").symlink_to(pets / "store", target_is_directory=True)
    (pets / "train" / "dog" / "all").symlink_to(pets / "train", target_is_directory=True)
    (pets / "train" / "again").symlink_to(pets, target_is_directory=True)
    report = examine(pets)
    assert singles(report, "hidden") == [".git", "train/.cache", "train/cat/.a.png", "train/cat/.trash"]
    assert singles(report, "other-file") == ["cover.png", "masks", "store", "train/README.txt", "train/cat/Thumbs.db"]
    assert {finding.places[0]: finding.detail for finding in report.of("left-out")} == {
        "train/again": "a link to a folder that holds it, which is not followed",
        "train/dog/all": "a link to a folder that holds it, which is not followed",
        "train/dog/no_suffix": "its name does not end as an image's does",
        "train/dog/phone.heic": ".heic is read where pillow-heif is installed; install it, or convert the file",
        "train/dog/photo.jpeg_large": "its name does not end as an image's does",
        "train/lost.png": "in no class folder",
    }
    assert report.images == {"train": 6, "val": 2}


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing_nor_does_looking_touch_the_global_generator(pets, workers):
    (pets / "train" / "cat" / "0.png").write_bytes(b"text")
    before = torch.get_rng_state()
    report = examine(pets, workers=workers)
    assert singles(report, "unreadable") == ["train/cat/0.png"]
    assert torch.get_rng_state().equal(before)


def parquet(path, contents, labels):
    metadata = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}}
    table = pa.table({"image": pa.array(contents, pa.binary()), "label": labels})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(metadata)}), path)


def test_parquet_files_are_examined_as_they_are_stored(tmp_path):
    good = [encode(picture(seed)) for seed in range(4)]
    parquet(
        tmp_path / "train-00000-of-00001.parquet",
        [*good[:3], b"<html>", encode(picture(9).convert("CMYK"), "JPEG")],
        [0, 1, 0, 1, 0],
    )
    parquet(tmp_path / "test-00000-of-00001.parquet", [good[0], good[3]], [0, 1])
    report = examine(tmp_path)
    assert singles(report, "unreadable") == ["train-00000-of-00001.parquet row 3"]
    assert singles(report, "cmyk") == ["train-00000-of-00001.parquet row 4"]
    assert places(report, "leakage") == [("train-00000-of-00001.parquet row 0", "test-00000-of-00001.parquet row 0")]


def test_arrays_are_named_by_split_and_number(tmp_path):
    draw = np.random.default_rng(0)
    records = [bytes([0, label]) + draw.integers(0, 256, 3072, dtype=np.uint8).tobytes() for label in (0, 1, 2)]
    (tmp_path / "train.bin").write_bytes(b"".join(records))
    (tmp_path / "test.bin").write_bytes(records[0] + records[1][:1] + b"\2" + records[1][2:] + b"\0\1" + bytes(3072))
    (tmp_path / "fine_label_names.txt").write_text("apple\nbaby\nbear\n")
    report = examine(tmp_path)
    assert places(report, "leakage") == [("train 0", "test 0"), ("train 1", "test 1")]
    assert [(finding.places, finding.detail) for finding in report.of("conflict")] == [
        (("train 1", "test 1"), "baby, bear")
    ]


def test_a_data_set_that_cannot_be_opened_is_a_problem_and_one_that_is_not_there_bad_usage(tmp_path, capsys):
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(b"PAR1")
    report = examine(tmp_path)
    assert [finding.kind for finding in report.findings] == ["refused"]
    assert main(["doctor", str(tmp_path)]) == 1
    assert "not opened" in capsys.readouterr().out
    with pytest.raises(DataError, match="gone: no such folder"):
        examine(tmp_path / "gone")
    assert main(["doctor", str(tmp_path / "gone")]) == 2
    assert main(["doctor"]) == 2
    assert main(["doctor", str(tmp_path), "--jsn", "x"]) == 2
    assert all(line.startswith("transmix: ") for line in capsys.readouterr().err.splitlines())


def test_the_summary_counts_first_then_names_a_few_and_all_on_demand(pets, tmp_path, capsys):
    for index in range(5):
        (pets / "train" / "cat" / f"bad{index}.jpg").write_bytes(b"text")
    (pets / "train" / "cat" / "two\nlines.jpg").write_bytes(b"text")
    target = tmp_path / "report.json"
    assert main(["doctor", str(pets), "--json", str(target)]) == 1
    shown = capsys.readouterr().out
    assert shown.index("        6  unreadable") < shown.index("train/cat/bad0.jpg")
    assert "bad3" not in shown
    assert "    and 3 more; --all lists them" in shown
    assert main(["doctor", str(pets), "--all"]) == 1
    shown = capsys.readouterr().out
    assert all(f"    train/cat/bad{index}.jpg  (not an image" in shown for index in range(5))
    assert "    train/cat/two\\nlines.jpg  (" in shown
    written = json.loads(target.read_text())
    assert written["problems"] == {"unreadable": 6}
    assert written["sound"] is False
    assert written["findings"][0] | {"detail": ""} == {
        "kind": "unreadable",
        "problem": True,
        "places": ["train/cat/bad0.jpg"],
        "detail": "",
    }
    assert main(["doctor", str(pets), "--json", str(tmp_path / "no" / "where.json")]) == 2


def test_a_name_that_no_terminal_can_show_is_shown(pets, capsys):
    (pets / "train" / "cat" / os.fsdecode(b"\xff\x1b[2J.jpg")).write_bytes(b"text")
    assert main(["doctor", str(pets)]) == 1
    assert b"train/cat/\\udcff\\x1b[2J.jpg" in capsys.readouterr().out.encode()


LEAKS = dict(
    zip(
        (12970, 22242, 4226, 7384, 9449, 41878, 26728, 47832, 48544, 28177),
        (5575, 9926, 9355, 9814, 2681, 1331, 3002, 7007, 2506, 6921),
        strict=True,
    )
)
"""Train -> val: what `transmix doctor` finds in all 60,000 images of CIFAR-100, in ten seconds on one core."""


def test_cifar100_has_ten_images_that_are_in_train_and_in_val(real_images):
    data = read_parquet(real_images / "cifar100")
    chosen = {"train": {*LEAKS, *range(0, 50_000, 20)}, "val": {*LEAKS.values(), *range(0, 10_000, 20)}}
    seen = [
        Picture(look_at_content(split.images.source(index)).pixels, name, "any", f"{name} {index}")
        for name, split in (("train", data.train), ("val", data.val))
        for index in sorted(chosen[name])
    ]
    leaks = {finding.places for finding in same_pixels(seen) if finding.kind == "leakage"}
    assert leaks == {(f"train {train}", f"val {val}") for train, val in LEAKS.items()}
