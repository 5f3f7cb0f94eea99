"""Odd and hostile image files: each gives the pixels that another decoder or plain arithmetic gives, or is refused."""

import io
import os
import re
import socket
import struct
import time
import zlib

import numpy as np
import pytest
import torch
import torchvision.io
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from transmix.data.augment import EvaluationCrop, TrainingAugmentation
from transmix.data.dataset import DataError, UnreadableImageError
from transmix.data.decode import decode_image, image_size
from transmix.data.folder import read_folder
from transmix.data.grey import EACH_IMAGE
from transmix.data.grey_range import with_grey
from transmix.data.settings import Augmentation

H, W = 6, 8
rng = np.random.default_rng(0)
RGB = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
ALPHA = rng.integers(0, 256, (H, W), dtype=np.uint8)
GREY = RGB[..., 0]
DEEP = rng.integers(0, 65536, (H, W), dtype=np.uint16)
DEEP_RGB = rng.integers(0, 65536, (H, W, 3), dtype=np.uint16)
DEEP_BIG, DEEP_RGB_BIG = DEEP.astype(">u2"), DEEP_RGB.astype(">u2")
FLOATS = rng.random((H, W), dtype=np.float32)
INDEX = rng.integers(0, 3, (H, W), dtype=np.uint8)
PALETTE = np.array([[10, 20, 30], [40, 50, 60], [200, 90, 70]], dtype=np.uint8)
WAVES = (
    128
    + 100 * np.stack([np.sin(np.add.outer(np.arange(24) / a, np.arange(40) / b)) for a, b in ((4, 9), (7, 5), (9, 9))])
).astype(np.uint8)
WAVES = np.ascontiguousarray(WAVES.transpose(1, 2, 0))  # (24, 40, 3), smooth enough for lossy formats


# Writers that are not Pillow's.


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def filtered(rows):
    return b"".join(b"\0" + row.tobytes() for row in rows)


def packed(values, bits):
    """Pack (H, W) numbers of a few bits into bytes, the first in the highest bits."""
    per_byte = 8 // bits
    parts = values.reshape(len(values), -1, per_byte)
    return sum(parts[..., place] << (8 - bits * (place + 1)) for place in range(per_byte)).astype(np.uint8)


def png(rows, bits=8, colour=2, before=(), after=(), size=(W, H), interlace=0, parts=1, raw=None):
    raw = zlib.compress(filtered(rows), 1) if raw is None else raw
    cut = -(-len(raw) // parts)
    data = [(b"IDAT", raw[start : start + cut]) for start in range(0, len(raw), cut)]
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, interlace)
    chunks = [(b"IHDR", header), *before, *data, *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def interlaced(pixels):
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    parts = [pixels[y::down, x::right] for x, y, right, down in passes]
    rows = b"".join(filtered(part) for part in parts if part.size)
    return png(None, raw=zlib.compress(rows), interlace=1)


def tiff(data, bits, photometric, samples=1, kind=None, extra=None, size=(W, H), order="<", next_page=0):
    """One strip, not compressed; extra: tag -> list of 16-bit numbers."""
    tags = {256: [size[0]], 257: [size[1]], 258: [bits] * samples, 259: [1], 262: [photometric], 277: [samples]}
    tags |= {278: [size[1]], **({339: [kind] * samples} if kind else {}), **(extra or {})}
    tags |= {273: None, 279: None}
    body, entries = b"", []
    start = 8 + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        if tags[tag] is None:
            entries.append((tag, 4, 1, None))
            continue
        value = struct.pack(f"{order}{len(tags[tag])}H", *tags[tag])
        if len(value) > 4:
            body, value = body + value, struct.pack(f"{order}I", start + len(body))
        entries.append((tag, 3, len(tags[tag]), value.ljust(4, b"\0")))
    where = {273: struct.pack(f"{order}I", start + len(body)), 279: struct.pack(f"{order}I", len(data))}
    directory = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + (entry[3] or where[entry[0]]) for entry in entries)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(tags))
    return head + directory + struct.pack(f"{order}I", next_page) + body + data


def bmp(data, bits, size=(W, H), palette=b"", compression=0, masks=b""):
    offset = 54 + len(masks) + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(data), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + masks + palette + data


def bmp_rows(pixels):
    """Rows from the last to the first, each filled up to a multiple of four bytes."""
    rows = [row.tobytes() for row in pixels[::-1]]
    return b"".join(row + bytes(-len(row) % 4) for row in rows)


def pillow(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(pixels=WAVES, mode=None, **options):
    image = Image.fromarray(pixels)
    return pillow(image.convert(mode) if mode else image, "JPEG", **{"quality": 92, **options})


def ycck():
    """Bytes that a reader takes for Y, Cb, Cr, K because Adobe's marker says so."""
    content = bytearray(jpeg(mode="CMYK"))
    content[content.index(b"Adobe") + 11] = 2
    return bytes(content)


def gif_of_a_small_frame():
    """A canvas of 4 x 3 whose only frame is 2 x 1, at (1, 1): one transparent pixel, one of colour 1."""
    frame = b"\x21\xf9\x04\x01\0\0\0\0\x2c" + struct.pack("<HHHHB", 1, 1, 2, 1, 0) + b"\x02\x02\x44\x0a\0"
    return b"GIF89a" + struct.pack("<HHBBB", 4, 3, 0x80, 1, 0) + bytes([10, 20, 30, 200, 100, 50]) + frame + b";"


def ico(payload, side):
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, side, side, 0, 0, 1, 32, len(payload), 22) + payload


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


# What the pixels must be: arithmetic, or torchvision's decoders.


def grey(values):
    return np.repeat(np.asarray(values)[..., None], 3, axis=-1)


def over_white(colour, alpha):
    opacity = np.asarray(alpha)[..., None] / 255
    return colour * opacity + 255 * (1 - opacity)


def torchvisions(content):
    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    pixels = torchvision.io.decode_image(encoded, "RGB", apply_exif_orientation=True)
    return pixels.permute(1, 2, 0).numpy()


def hidden(pixels, where):
    out = np.array(pixels)
    out[where] = 255
    return out


def two_bits():
    return rng.integers(0, 4, (H, W), dtype=np.uint8)


def key(*numbers):
    return [(b"tRNS", struct.pack(f">{len(numbers)}H", *numbers))]


def sound():
    """Name of the file -> (content, pixels, tolerance)."""
    four, two, one = (rng.integers(0, 2**bits, (H, W), dtype=np.uint8) for bits in (4, 2, 1))
    twelve = rng.integers(0, 4096, (H, W), dtype=np.uint16)
    wide = rng.integers(0, 2**32, (H, W), dtype=np.uint32)
    pairs = twelve.reshape(H, -1, 2).astype(np.uint32)
    triples = np.stack([pairs[..., 0] >> 4, (pairs[..., 0] & 15) << 4 | pairs[..., 1] >> 8, pairs[..., 1] & 255], -1)
    plte = [(b"PLTE", PALETTE.tobytes())]
    five = (RGB[..., 0] >> 3).astype(np.uint16) << 11 | (RGB[..., 1] >> 2).astype(np.uint16) << 5 | RGB[..., 2] >> 3
    six = np.stack([(five >> 11) * 255 // 31, (five >> 5 & 63) * 255 // 63, (five & 31) * 255 // 31], -1)
    frames = [Image.new("RGB", (W, H), colour) for colour in ("red", "blue")]
    rgba = np.dstack([RGB, ALPHA])
    lossless = {"lossless": True, "exact": True}
    waves = Image.fromarray(WAVES)
    red, square = np.full((H, W, 3), (255, 0, 0)), np.dstack([WAVES[:, :24], np.full((24, 24), 255, np.uint8)])
    red_ycbcr = np.full((H, W, 3), (76, 85, 255), dtype=np.uint8)
    small_frame = hidden(np.full((3, 4, 3), (200, 100, 50)), np.arange(12).reshape(3, 4) != 6)
    narrow = rng.integers(0, 256, (1, 5000, 3), dtype=np.uint8)
    found = {
        "rgb.png": (png(RGB), RGB),
        "many_chunks.png": (png(RGB, parts=9), RGB),
        "interlaced.png": (interlaced(RGB), RGB),
        "rgb16.png": (png(DEEP_RGB_BIG, 16), DEEP_RGB >> 8),
        "rgba.png": (png(rgba, colour=6), over_white(RGB, ALPHA), 1),
        "grey_alpha.png": (png(np.dstack([GREY, ALPHA]), colour=4), over_white(grey(GREY), ALPHA), 1),
        "grey.png": (png(GREY, colour=0), grey(GREY)),
        "grey1.png": (png(packed(one, 1), 1, 0), grey(one * 255)),
        "grey2.png": (png(packed(two, 2), 2, 0), grey(two * 85)),
        "grey4.png": (png(packed(four, 4), 4, 0), grey(four * 17)),
        "grey16.png": (png(DEEP_BIG, 16, 0), grey(DEEP >> 8)),
        "grey_key.png": (png(GREY, colour=0, before=key(GREY[2, 3])), hidden(grey(GREY), GREY[2, 3] == GREY)),
        "grey1_key.png": (png(packed(one, 1), 1, 0, key(0)), grey(one * 0 + 255)),
        "grey2_key.png": (png(packed(two, 2), 2, 0, key(1)), hidden(grey(two * 85), two == 1)),
        "grey4_key.png": (png(packed(four, 4), 4, 0, key(3)), hidden(grey(four * 17), four == 3)),
        "grey16_key.png": (png(DEEP_BIG, 16, 0, key(DEEP[2, 3])), hidden(grey(DEEP >> 8), DEEP[2, 3] == DEEP)),
        "rgb_key.png": (png(RGB, before=key(*RGB[2, 3])), hidden(RGB, (RGB[2, 3] == RGB).all(-1))),
        "rgb16_key.png": (
            png(DEEP_RGB_BIG, 16, before=key(*DEEP_RGB[2, 3])),
            hidden(DEEP_RGB >> 8, (DEEP_RGB[2, 3] == DEEP_RGB).all(-1)),
        ),
        "palette.png": (png(INDEX, colour=3, before=plte), PALETTE[INDEX]),
        "palette2.png": (png(packed(INDEX, 2), 2, 3, plte), PALETTE[INDEX]),
        "palette_alpha.png": (
            png(INDEX, colour=3, before=[*plte, (b"tRNS", bytes([0, 100]))]),
            over_white(PALETTE[INDEX], np.array([0, 100, 255])[INDEX]),
            1,
        ),
        "icc.png": (png(RGB, before=[(b"iCCP", b"odd\0\0" + zlib.compress(b"no profile"))]), RGB),
        "gamma.png": (png(RGB, before=[(b"gAMA", struct.pack(">I", 100_000))]), RGB),
        "text.png": (png(RGB, before=[(b"zTXt", b"a\0\0" + zlib.compress(b"b" * 9000))]), RGB),
        "no_end.png": (png(RGB)[:-12], RGB),
        "and_garbage.png": (png(RGB) + b"<html>" * 99, RGB),
        "narrow.png": (png(narrow, size=(5000, 1)), narrow),
        "tall.png": (png(narrow.reshape(5000, 1, 3), size=(1, 5000)), narrow.reshape(5000, 1, 3)),
        "one.png": (png(RGB[:1, :1], size=(1, 1)), RGB[:1, :1]),
        "png.jpg": (png(RGB), RGB),
        "bmp.png": (bmp(bmp_rows(RGB[..., ::-1]), 24), RGB),
        "rows_down.bmp": (bmp(bmp_rows(RGB[::-1, :, ::-1]), 24, (W, -H)), RGB),
        "palette.bmp": (
            bmp(bmp_rows(INDEX), 8, palette=np.insert(PALETTE[:, ::-1], 3, 0, 1).tobytes()),
            PALETTE[INDEX],
        ),
        "rgb565.bmp": (
            bmp(bmp_rows(five.astype("<u2")), 16, compression=3, masks=struct.pack("<3I", 63488, 2016, 31)),
            six,
            8,  # whether 31 of 31 is 248 or 255 is left to the reader
        ),
        "grey.tif": (tiff(GREY.tobytes(), 8, 1), grey(GREY)),
        "white_is_0.tif": (tiff(GREY.tobytes(), 8, 0), grey(255 - GREY)),
        "ycbcr.tif": (pillow(Image.fromarray(red_ycbcr, mode="YCbCr"), "TIFF", compression="tiff_lzw"), red, 2),
        "grey16.tif": (tiff(DEEP.tobytes(), 16, 1), grey(DEEP >> 8)),
        "grey16_big_endian.tif": (tiff(DEEP_BIG.tobytes(), 16, 1, order=">"), grey(DEEP >> 8)),
        "grey16_white_is_0.tif": (tiff(DEEP.tobytes(), 16, 0), grey(255 - (DEEP >> 8))),
        "grey12.tif": (tiff(triples.astype(np.uint8).tobytes(), 12, 1), grey(twelve >> 4)),
        "grey32.tif": (
            tiff(wide.tobytes(), 32, 1),
            grey(np.rint((wide - float(wide.min())) / float(wide.max() - wide.min()) * 255)),
        ),
        "float.tif": (tiff(FLOATS.tobytes(), 32, 1, kind=3), grey(np.rint(FLOATS * 255))),
        "rgb.tif": (tiff(RGB.tobytes(), 8, 2, 3), RGB),
        "rgb16.tif": (tiff(DEEP_RGB.tobytes(), 16, 2, 3), DEEP_RGB >> 8),
        "ink.tif": (tiff(packed(one, 1).tobytes(), 1, 0), grey(255 - one * 255)),
        "cmyk.tif": (
            tiff(rgba.tobytes(), 8, 5, 4),
            (255 - RGB.astype(int)) * (255 - ALPHA[..., None].astype(int)) / 255,
            1.5,
        ),
        "pages.tif": (pillow(waves, "TIFF", save_all=True, append_images=frames), WAVES),
        "lzw.tif": (pillow(waves, "TIFF", compression="tiff_lzw"), WAVES),
        "deflate.tif": (pillow(waves, "TIFF", compression="tiff_deflate"), WAVES),
        "rgb.ppm": (b"P6 # a comment\n8 6\n255\n" + RGB.tobytes(), RGB),
        "words.ppm": (b"P3\n8 6\n255\n" + " ".join(map(str, RGB.ravel())).encode(), RGB),
        "rgb16.ppm": (b"P6 8 6 65535\n" + DEEP_RGB_BIG.tobytes(), DEEP_RGB / 257, 1),
        "grey16.pgm": (b"P5 8 6 65535\n" + DEEP_BIG.tobytes(), grey(DEEP >> 8), 1),
        "to_100.pgm": (b"P5 8 6 100\n" + (GREY // 3).tobytes(), grey(np.rint(GREY // 3 * 2.55)), 1),
        "bits.pbm": (b"P4 8 6\n" + packed(one, 1).tobytes(), grey(255 - one * 255)),
        "floats.ppm": (b"Pf\n8 6\n-1.0\n" + FLOATS[::-1].tobytes(), grey(np.rint(FLOATS * 255))),
        "see_through.gif": (pillow(Image.fromarray(INDEX), "GIF", transparency=1), hidden(grey(INDEX), INDEX == 1)),
        "animated.gif": (pillow(frames[0], "GIF", save_all=True, append_images=frames[1:]), red),
        "small_frame.gif": (gif_of_a_small_frame(), small_frame),
        "lossless.webp": (pillow(waves, "WEBP", **lossless), WAVES),
        "alpha.webp": (pillow(Image.fromarray(rgba), "WEBP", **lossless), over_white(RGB, ALPHA), 1),
        "animated.webp": (pillow(frames[0], "WEBP", save_all=True, append_images=frames[1:], **lossless), red),
        "rgb.ico": (ico(png(square, colour=6, size=(24, 24)), 24), WAVES[:, :24]),
        "lossy.avif": (pillow(waves, "AVIF", quality=100, subsampling="4:4:4"), WAVES, 4),
        "deep.jp2": (pillow(Image.fromarray(DEEP), "JPEG2000"), grey(DEEP >> 8)),
    }
    by_torchvision = {
        "lossy.webp": pillow(waves, "WEBP", quality=90),
        "still.gif": pillow(waves.quantize(16), "GIF"),
        "baseline.jpg": jpeg(),
        "progressive.jpg": jpeg(progressive=True),
        "subsampled.jpg": jpeg(subsampling=2),
        "wide_blocks.jpg": jpeg(subsampling="4:1:1"),
        "restarts.jpg": jpeg(restart_marker_blocks=2),
        "grey.jpg": jpeg(mode="L"),
        "adobe_rgb.jpg": jpeg(keep_rgb=True),
        "cmyk.jpg": jpeg(mode="CMYK"),
        "ycck.jpg": ycck(),
        "icc.jpg": jpeg(icc_profile=b"no profile" * 9000),
        "comment.jpg": jpeg(comment=b"x" * 60_000),
        "and_garbage.jpg": jpeg() + b"<html>" * 999,
        "and_another.jpg": jpeg() + jpeg(RGB),
        "is_jpeg.png": jpeg(),
        **{f"turned_{number}.jpg": jpeg(exif=exif(number)) for number in range(1, 9)},
    }
    found |= {name: (content, torchvisions(content), 1) for name, content in by_torchvision.items()}
    return {name: (*case, 0)[:3] for name, case in found.items()}


def bomb(kind, label):
    return png(RGB, before=[(kind, label + zlib.compress(bytes(8_000_000)))])


def flipped(content, position):
    return content[:position] + bytes([content[position] ^ 0x40]) + content[position + 1 :]


def refused():
    """Name of the file -> content."""
    whole, head = jpeg(), b"\0\0\0\x18ftyp"
    sof = whole.index(b"\xff\xc0")
    sized = {height: whole[: sof + 5] + struct.pack(">H", height) + whole[sof + 7 :] for height in (0, 65_000)}
    return {
        "empty.jpg": b"",
        "text.jpg": b"not an image",
        "page.png": b"<!DOCTYPE html><title>404</title>",
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "phone.jpg": head + b"heic\0\0\0\0mif1heic" + bytes(200),
        "phone.avif": head + b"avif\0\0\0\0mif1avif" + bytes(200),
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(gotcha) print\n",
        "pickle.jpg": b"\x80\x04\x95\x0c\0\0\0\0\0\0\0\x8c\x02os\x94.",
        "archive.jpg": b"PK\x03\x04" + bytes(60),
        "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
        "targa.jpg": pillow(Image.fromarray(RGB), "TGA"),
        "late.jpg": b"x" * 10 + whole,
        "header.jpg": whole[:20],
        "half.jpg": whole[: len(whole) // 2],
        "no_rows.jpg": sized[0],
        "half.png": png(RGB)[:70],
        "half.gif": pillow(Image.fromarray(WAVES), "GIF")[:300],
        "half.webp": pillow(Image.fromarray(WAVES), "WEBP")[:200],
        "broken_chunk.png": png(RGB)[:60] + b"\0\0\0\5\0\1\2\3no chunk",
        "half.bmp": bmp(bmp_rows(RGB[..., ::-1]), 24)[:100],
        "half.tif": tiff(RGB.tobytes(), 8, 2, 3)[:-30],
        "half.ppm": b"P6 8 6 255\n" + RGB.tobytes()[:-1],
        "wide.png": png(RGB, size=(30_000, 30_000)),
        "wide.gif": b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b"\x2c" + bytes(20),
        "wide.bmp": bmp(bmp_rows(RGB), 24, (2**30, 2**30)),
        "wide.tif": tiff(RGB.tobytes(), 8, 2, 3, size=(60_000, 60_000)),
        "wide.ppm": b"P6 99999999 99999999 255\n" + bytes(99),
        "text_bomb.png": bomb(b"zTXt", b"a\0\0"),
        "profile_bomb.png": bomb(b"iCCP", b"a\0\0"),
        "words_bomb.png": bomb(b"iTXt", b"a\0\1\0\0\0"),
        "header_sum.png": flipped(png(RGB), 30),
        "data.png": flipped(png(None, raw=zlib.compress(filtered(RGB), 0)), 60),
        "filter.png": png(None, raw=zlib.compress(b"".join(b"\7" + row.tobytes() for row in RGB))),
        "no_palette.png": png(INDEX, colour=3),
        "few_rows.png": png(RGB[:3]),
        "few_rows_grey.png": png(GREY[:5], colour=0),
        "few_rows_interlaced.png": png(None, interlace=1, raw=zlib.compress(filtered(RGB[::8, ::8]) + bytes(9))),
        "few_codes.gif": gif_of_a_small_frame().replace(struct.pack("<HH", 2, 1), struct.pack("<HH", 3, 2), 1),
        "few_strips.tif": tiff(RGB.tobytes(), 8, 2, 3, extra={257: [2 * H]}),
        "no_columns.png": png(RGB, size=(0, H)),
        "half_floats.tif": tiff(FLOATS.astype(np.float16).tobytes(), 16, 1, kind=3),
        "signed.tif": tiff(GREY.tobytes(), 8, 1, kind=2),
        "nan.tif": tiff(np.full((H, W), np.nan, np.float32).tobytes(), 32, 1, kind=3),
    }


SOUND, REFUSED = sound(), refused()


@pytest.mark.parametrize("name", SOUND)
def test_an_odd_file_gives_the_pixels_that_another_decoder_or_arithmetic_gives(name):
    content, expected, tolerance = SOUND[name]
    pixels = decode_image(content, where=name, grey=EACH_IMAGE)
    assert pixels.shape == expected.shape
    np.testing.assert_allclose(pixels.astype(float), expected, atol=tolerance)
    assert image_size(content, where=name) == expected.shape[:2]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_hostile_file_is_refused_by_name_and_quickly(name):
    started = time.process_time()  # what others do on this machine does not count
    said = rf"^{re.escape(name)}: cannot read the image \(.+\); replace or remove it$"
    with pytest.raises(UnreadableImageError, match=said):
        decode_image(REFUSED[name], where=name, grey=EACH_IMAGE)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("bands", "dtype", "photometric", "what"),
    [
        (2, np.uint8, 1, "2 bands of 8 bits: write one of them as grey, or three as RGB of 8 bits"),
        (5, np.uint16, 1, "5 bands of 16 bits: write one of them as grey, or three as RGB of 8 bits"),
        (13, np.uint16, 1, "13 bands of 16 bits: write one of them as grey, or three as RGB of 8 bits"),
        (3, np.float32, 2, "3 bands of 32 bits, floating point: write one of them as grey, or three as RGB of 8 bits"),
        (3, np.int16, 2, "3 bands of 16 bits, signed: write one of them as grey, or three as RGB of 8 bits"),
        (1, np.float64, 1, "1 band of 64 bits, floating point: write it as grey of 8 bits"),
    ],
)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("read", [decode_image, image_size])
def test_a_tiff_of_other_bands_is_called_so(bands, dtype, photometric, what, order, read):
    data = np.zeros((H, W, bands), dtype).astype(np.dtype(dtype).newbyteorder(order))
    kind = {"u": 1, "i": 2, "f": 3}[data.dtype.kind]
    content = tiff(data.tobytes(), 8 * data.itemsize, photometric, bands, kind, order=order)
    message = f"x.tif: cannot read the image (TIFF with {what}); replace or remove it"
    for source in (content, io.BytesIO(content)):
        with pytest.raises(UnreadableImageError, match=f"^{re.escape(message)}$"):
            read(source, "x.tif")


def test_of_bands_beyond_red_green_and_blue_the_first_three_are_taken_and_the_doctor_says_so():
    from transmix.doctor.examine import look_at_content

    content = tiff(np.dstack([RGB, ALPHA, ALPHA]).tobytes(), 8, 2, 5, extra={338: [0, 0]})
    np.testing.assert_array_equal(decode_image(content, "x"), RGB)
    assert [kind for kind, _ in look_at_content(content, ".tif").oddities] == ["bands"]


def test_the_zoo_is_large_and_its_pixels_would_tell_a_wrong_decoder():
    assert len(SOUND) + len(REFUSED) > 100
    differing = {name for name, (_, expected, atol) in SOUND.items() if np.abs(expected - expected[::-1]).max() > atol}
    flat = "grey1_key.png one.png narrow.png animated.gif animated.webp small_frame.gif ycbcr.tif"
    assert set(SOUND) - differing <= set(flat.split())


CUT = ("rgb.png", "interlaced.png", "palette_alpha.png", "baseline.jpg", "progressive.jpg", "still.gif", "lossy.webp",
       "lossless.webp", "rgb.tif", "lzw.tif", "rows_down.bmp", "rgb.ppm", "lossy.avif")  # fmt: skip


@pytest.mark.parametrize("name", CUT)
def test_a_file_cut_anywhere_is_refused_or_has_all_its_pixels(name):
    content, expected, tolerance = SOUND[name]
    refusals = 0
    for length in range(0, len(content), max(1, len(content) // 150)):
        try:
            pixels = decode_image(content[:length], where=name)
        except UnreadableImageError:
            refusals += 1
        else:
            np.testing.assert_allclose(pixels.astype(float), expected, atol=tolerance)
    assert refusals > 100


def test_a_png_with_any_byte_changed_is_refused_or_has_the_same_pixels():
    content = png(RGB, parts=2, before=[(b"tEXt", b"a\0b")])
    for position in range(len(content)):
        try:
            pixels = decode_image(flipped(content, position), where="x")
        except UnreadableImageError:
            continue
        np.testing.assert_array_equal(pixels, RGB)


@pytest.mark.parametrize("shape", [(1, 50_000), (50_000, 1), (2, 9_001)])
def test_a_narrow_image_takes_no_memory_that_matters(shape):
    image = np.broadcast_to(np.uint8(7), (*shape, 3))
    assert (EvaluationCrop(224, 0.875)(np.ascontiguousarray(image)) == 7).all()
    augment = TrainingAugmentation(Augmentation(crop="pad", rand_augment=None, random_erasing=0.0), 224)
    assert (augment(np.ascontiguousarray(image), 0) == 7).all()


class Everything(Dataset):
    """The images of a split, or what is said of those that cannot be read."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        try:
            return self.images[index]
        except DataError as error:
            return str(error)


ODD_NAMES = ["ünïcödé 图.png", "n" * 250 + ".png", "two\nlines.png", "-rf.png", "%s{0}.png", b"\xff\xfe.png"]


@pytest.fixture
def zoo(tmp_path):
    """A data set of class folders with everything in it, also what is no file; and what each file should give."""
    wanted = {name: case[1:] for name, case in SOUND.items()} | dict.fromkeys(REFUSED)
    folder = tmp_path / "train" / "odd"
    (tmp_path / "val" / "odd").mkdir(parents=True)
    (tmp_path / "val" / "odd" / "a.png").write_bytes(SOUND["rgb.png"][0])
    folder.mkdir(parents=True)
    for name, content in ({name: case[0] for name, case in SOUND.items()} | REFUSED).items():
        (folder / name).write_bytes(content)
    for name in map(os.fsdecode, ODD_NAMES):
        (folder / name).write_bytes(SOUND["rgb.png"][0])
        wanted[name] = (RGB, 0)
    (folder / "directory.jpg").mkdir()
    (folder / "directory.jpg" / "inside.png").write_bytes(SOUND["rgb.png"][0])
    wanted["inside.png"] = (RGB, 0)
    (folder / "link.png").symlink_to("rgb.png")
    wanted["link.png"] = (RGB, 0)
    (folder / "dangling.jpg").symlink_to("nowhere")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.jpg")
    wanted |= dict.fromkeys(["dangling.jpg", "circle.jpg", "device.jpg", "pipe.jpg"])
    if len(str(folder)) < 90:  # a socket's path has a bound
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "socket.jpg"))
        wanted["socket.jpg"] = None
    return tmp_path, wanted


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_no_file_of_the_zoo_stops_or_hangs_a_worker(zoo):
    root, wanted = zoo
    images = with_grey(read_folder(root).train, EACH_IMAGE).images
    seen = {}
    for index, got in enumerate(DataLoader(Everything(images), batch_size=None, num_workers=2)):
        path = images.source(index)
        seen[path.name] = got
        if wanted.get(path.name) is None:
            assert isinstance(got, str), path
            assert got.startswith(f"{path}: cannot read the image (")
        else:
            expected, tolerance = wanted[path.name]
            np.testing.assert_allclose(np.asarray(got, dtype=float), expected, atol=tolerance)
    assert set(seen) == set(wanted)


def test_a_file_that_may_not_be_read_is_refused_by_name(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(SOUND["rgb.png"][0])
    path.chmod(0)
    was_root = os.geteuid() == 0
    try:
        if was_root:
            os.seteuid(65534)
        with pytest.raises(UnreadableImageError, match=r"secret\.png: cannot read the image \(PermissionError"):
            decode_image(path, where=str(path))
    finally:
        if was_root:
            os.seteuid(0)
