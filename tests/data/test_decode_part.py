"""A part of an image is what decoding all of it would show there, at the reduced size where a JPEG allows it."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from transmix.data.boxes import Box
from transmix.data.dataset import UnreadableImageError
from transmix.data.decode import _whole_jpeg, decode_image, decode_part

HEIGHT, WIDTH = 160, 240


def scene(height=HEIGHT, width=WIDTH):
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + 2 * columns) / 20)]
    return (128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def encoded(pixels, orientation=1, mode="RGB", kind="JPEG", **more):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).convert(mode).save(file, kind, exif=exif, **({"quality": 92} | more))
    return file.getvalue()


def part(content, box):
    seen = []
    pixels = decode_part(content, "x.jpg", lambda height, width: seen.append((height, width)) or box)
    assert seen == [decode_image(content, "x.jpg").shape[:2]]
    return pixels


def averaged(pixels, step):
    height, width = pixels.shape[0] // step, pixels.shape[1] // step
    blocks = pixels[: height * step, : width * step].reshape(height, step, width, step, 3)
    return blocks.mean((1, 3))


@pytest.mark.parametrize("more", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"keep_rgb": True}])
@pytest.mark.parametrize("orientation", [1, *range(2, 9)])
def test_an_unreduced_part_has_the_very_pixels(orientation, more):
    content, box = encoded(scene(), orientation, **more), Box(7, 11, 60, 90)
    whole = decode_image(content, "x.jpg")
    assert np.array_equal(part(content, box), box.cut(whole))
    assert not np.array_equal(part(content, box), Box(7, 12, 60, 90).cut(whole))


def test_pillow_gives_the_same_pixels_where_torchvision_decodes_no_more(monkeypatch):
    content, box = encoded(scene()), Box(7, 11, 60, 90)
    found = part(content, box)
    monkeypatch.setitem(sys.modules, "torchvision.io", None)
    with pytest.raises(ImportError):
        _whole_jpeg(content)
    assert np.array_equal(part(content, box), found)


@pytest.mark.parametrize("step", [2, 4, 8])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_reduced_part_is_within_a_level_of_the_average_of_its_pixels(step, orientation):
    content, box = encoded(scene(), orientation), Box(2, 3, 12, 14, step)
    expected = averaged(box.cut(decode_image(content, "x.jpg")), step)
    found = part(content, box)
    assert found.shape == (12, 14, 3)
    assert np.abs(found - expected).mean() < 1.0
    moved = averaged(Box(2, 4, 12, 14, step).cut(decode_image(content, "x.jpg")), step)
    assert np.abs(found - moved).mean() > 3.0


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_image_that_the_grid_does_not_divide_is_not_reduced(orientation):
    content, box = encoded(scene(161, 243), orientation), Box(2, 3, 12, 14, 2)
    assert np.array_equal(part(content, box), box.cut(decode_image(content, "x.jpg")))


@pytest.mark.parametrize(("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("P", "PNG")])
def test_other_images_are_never_reduced(mode, kind):
    content, box = encoded(scene(), mode=mode, kind=kind), Box(2, 3, 12, 14, 4)
    assert np.array_equal(part(content, box), box.cut(decode_image(content, "x.jpg")))


@pytest.mark.parametrize("step", [1, 2])
def test_a_damaged_file_is_refused_as_when_all_of_it_is_decoded(step):
    content = encoded(scene())[:-800]
    with pytest.raises(UnreadableImageError) as expected:
        decode_image(content, "x.jpg")
    with pytest.raises(UnreadableImageError) as found:
        decode_part(content, "x.jpg", lambda *_: Box(0, 0, 9, 9, step))
    assert str(found.value).split("(")[0] == str(expected.value).split("(")[0]
    assert "image file is truncated" in str(found.value)
