"""Every kind of image file becomes the pixels a person would see, or an error that names it."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from transmix.data.dataset import DataError
from transmix.data.decode import decode_image, image_size
from transmix.data.grey import EACH_IMAGE

HEIGHT, WIDTH = 5, 7


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(content, grey=None):
    return decode_image(content, where="here", grey=grey)


def colours():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width, height):
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


UPRIGHT = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: np.swapaxes(stored, 0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.swapaxes(np.rot90(stored, 2), 0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied_to_pixels_and_size(orientation, kind):
    stored = colours()
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encode(Image.fromarray(stored), kind, exif=with_orientation(orientation), **options)
    expected = UPRIGHT[orientation](stored)
    np.testing.assert_array_equal(decode(content), expected)
    assert image_size(content, where="here") == expected.shape[:2]


def test_exif_orientation_is_applied_to_16_bit_greyscale():
    ramp = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    content = encode(Image.fromarray(ramp), exif=with_orientation(6))
    np.testing.assert_array_equal(decode(content, EACH_IMAGE)[..., 0], np.rot90(ramp, -1) >> 8)


def test_exif_data_behind_the_pixels_of_a_png_is_applied():
    sound, end = encode(Image.fromarray(colours())), png_chunk(b"IEND", b"")
    content = sound.removesuffix(end) + png_chunk(b"eXIf", with_orientation(6).tobytes()[6:]) + end
    np.testing.assert_array_equal(decode(content), np.rot90(colours(), -1))


@pytest.mark.parametrize("orientation", [0, 9, 4711])
def test_an_orientation_that_does_not_exist_counts_as_upright(orientation):
    content = encode(Image.fromarray(colours()), exif=with_orientation(orientation))
    np.testing.assert_array_equal(decode(content), colours())


def test_damaged_exif_data_does_not_cost_the_image():
    content = encode(Image.fromarray(colours()), exif=b"Exif\0\0" + b"no TIFF header")
    np.testing.assert_array_equal(decode(content), colours())
    assert image_size(content, where="here") == (HEIGHT, WIDTH)


@pytest.mark.parametrize("factor", [256, 257])
def test_8_bits_that_were_widened_to_16_come_back_exactly(factor):
    grey = np.arange(256, dtype=np.uint16).reshape(8, 32)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(grey * np.uint16(factor))), EACH_IMAGE)[..., 0], grey)


@pytest.mark.parametrize("scale", [1.0, 255.0, 65535.0])
def test_fractions_are_read_on_the_smallest_usual_scale_that_holds_them(scale):
    fractions = np.linspace(0, 0.9, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    content = encode(Image.fromarray((fractions * scale).astype(np.float32)), "TIFF")
    np.testing.assert_allclose(decode(content, EACH_IMAGE)[..., 0], fractions * 255, atol=0.51)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_of_no_usual_scale_are_stretched_from_black_to_white(dtype):
    values = np.linspace(-300_000, 500_000, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    pixels = decode(encode(Image.fromarray(values.astype(dtype)), "TIFF"), EACH_IMAGE)[..., 0]
    np.testing.assert_allclose(pixels, (values + 300_000) / 800_000 * 255, atol=0.51)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, -3.0, 1e9])
def test_an_even_image_of_fractions_is_no_division_by_zero(value):
    content = encode(Image.fromarray(np.full((HEIGHT, WIDTH), value, dtype=np.float32)), "TIFF")
    assert not decode(content, EACH_IMAGE).any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_an_error(value):
    content = encode(Image.fromarray(np.full((HEIGHT, WIDTH), value, dtype=np.float32)), "TIFF")
    with pytest.raises(DataError, match=r"^here: cannot read the image \(ValueError: pixels are not finite\)"):
        decode(content, EACH_IMAGE)


def test_pixels_are_8_bit_and_may_be_written_to(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "image.png")
    for source in (tmp_path / "image.png", (tmp_path / "image.png").open("rb")):
        pixels = decode(source)
        assert pixels.dtype == np.uint8
        pixels += 1
        np.testing.assert_array_equal(pixels, colours() + np.uint8(1))


@pytest.mark.parametrize("content", [b"", b"<html>404 not found</html>", b"\xff\xd8\xff"])
@pytest.mark.parametrize("read", [decode_image, image_size])
def test_what_is_no_image_is_an_error_that_says_so(read, content):
    with pytest.raises(DataError, match=r"^cat\.jpg: cannot read the image \(not an image, or of a kind"):
        read(content, where="cat.jpg")


@pytest.mark.parametrize("read", [decode_image, image_size])
def test_a_missing_file_is_an_error_that_names_it(read, tmp_path):
    with pytest.raises(DataError, match=r"^gone\.png: cannot read the image \(FileNotFoundError"):
        read(tmp_path / "gone.png", where="gone.png")


@pytest.mark.parametrize("read", [decode_image, image_size])
def test_a_decompression_bomb_is_an_error_and_never_unpacked(read):
    bomb = png_header(20_000, 20_000) + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")
    with pytest.raises(DataError, match=r"^here: cannot read the image \(DecompressionBombError"):
        read(bomb, where="here")


def test_a_large_image_below_the_limit_still_warns():
    with pytest.warns(Image.DecompressionBombWarning):
        assert image_size(png_header(10_000, 9_000) + png_chunk(b"IDAT", b""), where="here") == (9_000, 10_000)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_flipped_and_cut_bytes_never_raise_anything_but_a_data_error():
    draw = np.random.default_rng(0)
    pictures = [encode(Image.fromarray(colours()), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")]
    for picture in pictures * 60:
        damaged = bytearray(picture)
        for position in draw.integers(0, len(damaged), 4):
            damaged[position] = draw.integers(256)
        with contextlib.suppress(DataError):
            assert decode(bytes(damaged[: draw.integers(1, len(damaged) + 1)])).shape[2] == 3


def test_the_size_is_read_without_decoding_pixels(monkeypatch):
    loaded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: loaded.append(image.format))
    for kind in ("PNG", "JPEG", "BMP", "WEBP"):
        content = encode(Image.fromarray(np.zeros((400, 600, 3), dtype=np.uint8)), kind)
        assert image_size(content, where="here") == (400, 600)
    assert loaded == []
