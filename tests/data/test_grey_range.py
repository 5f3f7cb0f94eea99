"""Grey of more than 8 bits has one scale in a data set: found over the training images or given."""

import io
import json
import re
import struct
import tarfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from transmix.data.dataset import DataError
from transmix.data.decode import decode_image
from transmix.data.grey import EACH_IMAGE
from transmix.data.grey_range import FIND, scale_grey
from transmix.data.settings import Data
from transmix.data.source import load_data, open_data
from transmix.doctor import examine

H, W = 12, 17
LOW, HIGH = 900, 1399


def encoded(values, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


def twelve_bits(seed, low=LOW, high=HIGH):
    return np.random.default_rng(seed).integers(low, high + 1, (H, W)).astype(np.uint16)


def scaled(values, low, high):
    """What is right, one pixel at a time."""
    out = np.empty((*values.shape, 3))
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            share = (float(values[row, column]) - low) / (high - low)
            out[row, column] = round(255 * min(max(share, 0.0), 1.0))
    return out


def put(root, images, kind="PNG", suffix="png"):
    """Write {(split, class, name): values} as class folders."""
    for (split, name, stem), values in images.items():
        (root / split / name).mkdir(parents=True, exist_ok=True)
        (root / split / name / f"{stem}.{suffix}").write_bytes(encoded(values, kind))
    return root


def four(make):
    """Two training images and two held-out ones, of two classes."""
    return {
        ("train", "a", "0"): make(0),
        ("train", "b", "0"): make(1),
        ("val", "a", "0"): make(2),
        ("val", "b", "0"): make(3),
    }


def pixels(data):
    return [split.images[index] for split in (data.train, data.val) for index in range(len(split))]


@pytest.fixture
def scans(tmp_path):
    """12 bits in 16-bit PNG files, the ends of the range in different training images."""
    images = four(twelve_bits)
    images["train", "a", "0"][0, 0], images["train", "b", "0"][0, 0] = LOW, HIGH
    return put(tmp_path / "scans", images), images


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.arange(H * W).reshape(H, W).astype(np.uint16), "PNG"),
        (np.arange(H * W).reshape(H, W).astype(np.uint16), "TIFF"),
        (np.arange(H * W).reshape(H, W).astype(np.uint16), "PPM"),
        ((np.arange(H * W).reshape(H, W) - 100).astype(np.int32), "TIFF"),
        ((np.arange(H * W).reshape(H, W) / 50 - 1).astype(np.float32), "TIFF"),
    ],
)
def test_a_range_maps_stored_values_to_0_to_255_and_clips(values, kind):
    low, high = float(np.quantile(values, 0.1)), float(np.quantile(values, 0.8))
    found = decode_image(encoded(values, kind), "x", (low, high))
    np.testing.assert_allclose(found, scaled(values, low, high), atol=1)
    assert (found.min(), found.max()) == (0, 255)


def test_one_bright_pixel_changes_no_other_pixel():
    ramp = np.linspace(0, 0.99, H * W, dtype=np.float32).reshape(H, W)
    spoilt = ramp.copy()
    spoilt[3, 4] = 1.02
    plain, bright = (decode_image(encoded(values, "TIFF"), "x", (0.0, 1.02)) for values in (ramp, spoilt))
    assert (plain != bright).any(axis=-1).sum() == 1
    assert abs(float(plain.mean()) - 255 / 1.02 * float(ramp.mean())) < 1
    control = [decode_image(encoded(values, "TIFF"), "x", EACH_IMAGE) for values in (ramp, spoilt)]
    assert (control[0] != control[1]).any(axis=-1).mean() > 0.9  # what one scale an image makes of them


def test_without_a_range_deep_grey_is_refused_and_8_bits_are_not():
    with pytest.raises(DataError, match=r"^x: grey of more than 8 bits, and its value range is unknown"):
        decode_image(encoded(twelve_bits(0)), "x")
    grey = np.arange(H * W, dtype=np.uint8).reshape(H, W)
    for scale in (None, (LOW, HIGH), EACH_IMAGE):
        np.testing.assert_array_equal(decode_image(encoded(grey), "x", scale)[..., 1], grey)


def test_twelve_bits_keep_their_levels_on_one_scale_in_both_splits(scans):
    root, images = scans
    data = load_data(Data(str(root)), seed=0)
    assert data.grey == (LOW, HIGH)
    for found, values in zip(pixels(data), images.values(), strict=True):
        np.testing.assert_array_equal(found, scaled(values, LOW, HIGH))
        assert len(np.unique(found)) > 60
    assert data.notes == (
        "grey range 900 to 1399, found over 2 training images of more than 8 bits (--grey-range sets it)",
    )


def test_a_held_out_image_that_leaves_the_range_is_clipped_and_counted_and_the_doctor_names_it(scans, capsys):
    root, images = scans
    images["val", "b", "0"][2, 3] = 4000
    put(root, images)
    data = load_data(Data(str(root)), seed=0)
    assert data.grey == (LOW, HIGH)
    np.testing.assert_array_equal(data.val.images[1], scaled(images["val", "b", "0"], LOW, HIGH))
    low = int(images["val", "b", "0"].min())
    note = (
        f"1 of 2 images to evaluate on leave the grey range 900 to 1399: their values {low} to 4000 are clipped to it"
    )
    assert data.notes[1:] == (note,)
    report = examine(root, progress=False)
    assert report.grey == (LOW, HIGH)
    assert [(one.places, one.detail) for one in report.of("grey-range")] == [(("val/b/0.png",), f"{low} to 4000")]
    assert report.sound


def test_a_given_range_wins_and_the_doctor_looks_at_it(scans):
    root, images = scans
    data = load_data(Data(str(root), grey_range=(0, 2000)), seed=0)
    np.testing.assert_array_equal(data.train.images[0], scaled(images["train", "a", "0"], 0, 2000))
    assert data.notes == ()
    report = examine(root, progress=False, grey_range=(1000.0, 1300.0))
    assert len(report.of("grey-range")) == 4


def test_fewer_training_images_have_the_same_scale(scans):
    root, _ = scans
    (root / "train" / "a" / "1.png").write_bytes(encoded(twelve_bits(7, 400, 1399)))
    assert load_data(Data(str(root), train_images=2), seed=0).grey == load_data(Data(str(root)), seed=0).grey
    assert load_data(Data(str(root)), seed=0).grey[0] < LOW


def test_8_bit_images_beside_deep_ones_stay_as_they_are_and_it_is_said(scans):
    root, _ = scans
    grey = np.arange(H * W, dtype=np.uint8).reshape(H, W)
    (root / "train" / "a" / "1.png").write_bytes(encoded(grey))
    data = load_data(Data(str(root)), seed=0)
    assert data.grey == (LOW, HIGH)
    np.testing.assert_array_equal(data.train.images[1][..., 0], grey)
    assert data.notes[1] == (
        "the other 1 training images are not rescaled: make sure that they mean the same by black and white"
    )
    found = examine(root, progress=False).of("mixed-depth")
    assert [(one.places, one.detail) for one in found] == [(("train",), "2 of 3 images")]


def test_an_image_that_is_not_finite_is_left_out_of_the_range_and_refused(tmp_path):
    images = four(lambda seed: np.random.default_rng(seed).random((H, W)).astype(np.float32))
    images["train", "a", "bad"] = np.full((H, W), np.nan, np.float32)
    images["train", "b", "bad"] = np.full((H, W), np.inf, np.float32)
    root = put(tmp_path, images, "TIFF", "tif")
    data = scale_grey(open_data(root), FIND)
    assert isinstance(data.grey, tuple)
    assert 0 <= data.grey[0] < data.grey[1] <= 1
    with pytest.raises(DataError, match=r"bad\.tif: cannot read the image \(ValueError: pixels are not finite\)"):
        data.train.images[1]


def refuses(root, message, **settings):
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        load_data(Data(str(root), **settings), seed=0)
    if not settings:
        assert message in [one.detail.replace(f"{root}: ", f"{root.name}: ") for one in examine(root).of("refused")]


def test_a_range_that_a_hot_pixel_spoils_is_refused_with_a_better_one(scans):
    root, images = scans
    images["train", "a", "0"][5, 5] = 65535
    put(root, images)
    usual = [np.percentile(images["train", name, "0"], [1, 99]) for name in "ab"]
    low, high = min(one[0] for one in usual), max(one[1] for one in usual)
    refuses(
        root,
        f"scans: 98 % of the values of each grey training image of more than 8 bits lie in {low:.6g} to {high:.6g}, to "
        f"which the grey range 900 to 65535 leaves fewer than 8 of 256 levels; give the values for black and "
        f"white, for example --grey-range {low:.6g} {high:.6g}",
    )
    assert load_data(Data(str(root), grey_range=(LOW, HIGH)), seed=0).grey == (LOW, HIGH)
    with pytest.raises(DataError, match="which the grey range 0 to 1 leaves fewer than 8 of 256 levels"):
        load_data(Data(str(root), grey_range=(0, 1)), seed=0)


def test_where_no_range_can_be_known_that_is_an_error(tmp_path):
    even = put(tmp_path / "even", four(lambda _: np.full((H, W), 700, np.uint16)))
    refuses(
        even,
        "even: every pixel of the 2 grey training images of more than 8 bits is 700, which says nothing of their "
        "range; give the values for black and white: --grey-range LOW HIGH",
    )
    images = four(lambda _: np.zeros((H, W), np.uint8))
    images["val", "b", "0"] = twelve_bits(0)
    root = put(tmp_path / "late", images)
    refuses(
        root,
        f"late: 1 of 2 images to evaluate on are grey of more than 8 bits, the first is {root}/val/b/0.png, and their "
        "value range is unknown; give the values for black and white: --grey-range LOW HIGH",
    )


def deep_colour(high):
    """A 16-bit RGB PNG, which Pillow reads by the upper 8 bits and does not write."""
    values = np.random.default_rng(high).integers(0, high, (H, W, 3)).astype(">u2")
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    header = struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def test_deep_colour_of_which_the_upper_8_bits_hold_little_is_refused(tmp_path):
    root = tmp_path / "colour"
    for split in ("train", "val"):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            (root / split / name / "0.png").write_bytes(deep_colour(4096))
    refuses(
        root,
        "colour: the 2 training images of 16 bits a channel in colour have no value above 8191; of such images the "
        "upper 8 bits are read, which would leave fewer than 32 levels; write them with 8 bits a channel",
    )
    (root / "train" / "b" / "1.png").write_bytes(deep_colour(65536))
    assert load_data(Data(str(root)), seed=0).grey is None


def test_parquet_cells_and_tar_members_have_the_same_scale(scans, tmp_path):
    _, images = scans
    shards, table = tmp_path / "shards", tmp_path / "table"
    shards.mkdir()
    table.mkdir()
    for split in ("train", "val"):
        files = {name: encoded(images[split, name, "0"]) for name in "ab"}
        columns = {"image": pa.array(files.values(), pa.binary()), "label": pa.array([0, 1])}
        pq.write_table(pa.table(columns), table / f"{split}.parquet")
        with tarfile.open(shards / f"{split}-000000.tar", "w") as tar:
            for name, content in files.items():
                for member, body in ((f"{name}.PNG", content), (f"{name}.cls", name.encode())):
                    info = tarfile.TarInfo(member)
                    info.size = len(body)
                    tar.addfile(info, io.BytesIO(body))
    for root in (shards, table):
        data = scale_grey(open_data(root), FIND)
        assert data.grey == (LOW, HIGH)
        for found, values in zip(pixels(data), images.values(), strict=True):
            np.testing.assert_array_equal(found, scaled(values, LOW, HIGH))


def test_a_run_from_before_scales_each_image_as_it_did(scans):
    root, images = scans
    data = scale_grey(open_data(root), EACH_IMAGE)
    assert data.notes == ()
    np.testing.assert_array_equal(data.train.images[0][..., 0], images["train", "a", "0"] >> 8)


def test_the_report_of_the_doctor_holds_the_range(scans, tmp_path, capsys):
    from transmix.cli import main

    root, _ = scans
    assert main(["doctor", str(root), "--json", str(tmp_path / "report.json")]) == 0
    line = "grey range 900 to 1399: becomes black to white in grey images of more than 8 bits"
    assert line in capsys.readouterr().out.splitlines()[:4]
    assert json.loads((tmp_path / "report.json").read_text())["grey_range"] == [LOW, HIGH]
    assert main(["doctor", str(root), "--grey-range", "5", "5"]) == 2
    assert "grey_range needs two numbers, black below white, not 5 5" in capsys.readouterr().err
