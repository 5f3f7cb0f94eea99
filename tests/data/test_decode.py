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


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied_to_jpeg(orientation):
    stored = np.zeros((24, 40, 3), dtype=np.uint8)
    stored[:8, :8] = 255
    content = encode(Image.fromarray(stored), "JPEG", quality=100, exif=with_orientation(orientation))
    expected = UPRIGHT[orientation](stored)
    np.testing.assert_allclose(decode(content).astype(int), expected, atol=4)
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


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_a_16_bit_ramp_is_rescaled_and_not_clipped(kind):
    ramp = np.linspace(0, 65535, 16 * 24).astype(np.uint16).reshape(16, 24)
    pixels = decode(encode(Image.fromarray(ramp), kind), EACH_IMAGE)
    np.testing.assert_array_equal(pixels, np.repeat((ramp >> 8)[..., None], 3, axis=2))
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_a_16_bit_ramp_of_the_other_byte_order_is_rescaled_the_same():
    ramp = np.linspace(0, 65535, HEIGHT * WIDTH).astype(">u2").reshape(HEIGHT, WIDTH)
    content = encode(Image.frombytes("I;16B", (WIDTH, HEIGHT), ramp.tobytes()), "TIFF")
    assert Image.open(io.BytesIO(content)).mode == "I;16B"
    np.testing.assert_array_equal(decode(content, EACH_IMAGE)[..., 0], ramp.astype(int) // 256)


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


def over_white(colour, alpha):
    opacity = alpha[..., None] / 255
    return colour * opacity + 255 * (1 - opacity)


def test_alpha_is_laid_over_white():
    alpha = np.linspace(0, 255, HEIGHT * WIDTH).astype(np.uint8).reshape(HEIGHT, WIDTH)
    pixels = decode(encode(Image.fromarray(np.dstack([colours(), alpha]))))
    np.testing.assert_allclose(pixels, over_white(colours(), alpha), atol=1)


def test_grey_with_alpha_is_laid_over_white():
    grey, alpha = colours()[..., 0], colours()[..., 1]
    pixels = decode(encode(Image.fromarray(np.dstack([grey, alpha]), mode="LA")))
    np.testing.assert_allclose(pixels, over_white(np.dstack([grey] * 3), alpha), atol=1)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_colour_becomes_white(kind):
    indices = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 3
    palette = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], dtype=np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    expected = palette[indices]
    np.testing.assert_array_equal(decode(encode(image, kind)), expected)
    expected[indices == 1] = 255
    np.testing.assert_array_equal(decode(encode(image, kind, transparency=1)), expected)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "I;16"])
def test_a_colour_that_is_declared_transparent_becomes_white(mode):
    image = Image.new(mode, (WIDTH, HEIGHT))
    image.putpixel((2, 1), (3, 4, 5) if mode == "RGB" else 1)
    hidden = (0, 0, 0) if mode == "RGB" else 0
    pixels = decode(encode(image, transparency=hidden), (0, 65535))
    expected = np.full((HEIGHT, WIDTH, 3), 255)
    expected[1, 2] = {"1": (255, 255, 255), "L": (1, 1, 1), "RGB": (3, 4, 5), "I;16": (0, 0, 0)}[mode]
    np.testing.assert_array_equal(pixels, expected)


def test_greyscale_and_black_and_white_get_three_equal_channels():
    grey = colours()[..., 0]
    np.testing.assert_array_equal(decode(encode(Image.fromarray(grey))), np.dstack([grey] * 3))
    ink = grey > 127
    np.testing.assert_array_equal(decode(encode(Image.fromarray(ink))), np.dstack([ink * 255] * 3))


def test_cmyk_is_converted():
    inks = np.zeros((16, 24, 4), dtype=np.uint8)
    inks[:, :8, 0], inks[:, 8:16, 3] = 255, 255  # cyan, black, paper
    expected = np.zeros((16, 24, 3))
    expected[:, :8], expected[:, 16:] = (0, 255, 255), 255
    np.testing.assert_array_equal(decode(encode(Image.fromarray(inks, mode="CMYK"), "TIFF")), expected)
    jpeg = encode(Image.fromarray(inks, mode="CMYK"), "JPEG", quality=100)
    np.testing.assert_allclose(decode(jpeg).astype(int), expected, atol=4)


def test_ycbcr_is_converted():
    red = np.tile(np.array([76, 85, 255], dtype=np.uint8), (HEIGHT, WIDTH, 1))
    image = Image.fromarray(red, mode="YCbCr")
    pixels = decode(encode(image, "TIFF", compression="tiff_lzw"))  # Pillow 12 refuses its own uncompressed ones
    np.testing.assert_allclose(pixels.astype(int), np.tile([254, 0, 0], (HEIGHT, WIDTH, 1)), atol=2)


def test_pixels_are_8_bit_and_may_be_written_to(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "image.png")
    for source in (tmp_path / "image.png", (tmp_path / "image.png").open("rb")):
        pixels = decode(source)
        assert pixels.dtype == np.uint8
        pixels += 1
        np.testing.assert_array_equal(pixels, colours() + np.uint8(1))


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue")]
    pixels = decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    np.testing.assert_array_equal(pixels, np.tile([255, 0, 0], (HEIGHT, WIDTH, 1)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_truncated_file_is_an_error_that_names_it(kind):
    content = encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)), kind)
    with pytest.raises(DataError, match=r"^photos/cat\.x: cannot read the image \(.+\); replace or remove it$"):
        decode_image(content[: len(content) // 2], where="photos/cat.x")


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
        assert image_size(png_header(10_000, 9_000) + png_chunk(b"IDAT", b""), where="here") == (
            9_000,
            10_000,
        )


def test_a_png_with_a_broken_chunk_is_an_error():
    sound = encode(Image.fromarray(colours()))
    pixels = sound.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", sound[pixels - 8 : pixels - 4])
    first_half = png_chunk(b"IDAT", sound[pixels : pixels + length // 2])
    content = sound[: pixels - 8] + first_half + b"\0\0\0\5" + b"\0\1\2\3" + b"no chunk"
    with pytest.raises(DataError, match=r"^here: cannot read the image \(SyntaxError: broken PNG file"):
        decode(content)


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
