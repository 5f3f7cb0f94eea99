"""Check every image of a data set in several processes."""

import hashlib
import io
import os
import stat
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

from transmix.data.class_names import odd_names
from transmix.data.dataset import DataError, ImageData, Split, classes_without, listing
from transmix.data.decode import decode_image, orientation, stored_as
from transmix.data.encoded import EncodedImages, ImageFiles
from transmix.data.formats import FORMAT_OF, FORMATS, JPEG
from transmix.data.grey import EACH_IMAGE, Grey, GreyRange, as_range
from transmix.data.grey_range import check_levels, deep_values_of, leaves, leaving_notes, range_of, with_grey
from transmix.data.listed_images import folder_of
from transmix.data.loader import choose_workers
from transmix.data.packed import PackedFiles, damaged_shards
from transmix.data.parts import USUAL, Choice, unused_note
from transmix.data.source import IMAGE_FILES, find_layout, open_data
from transmix.doctor.folders import list_folders
from transmix.doctor.report import NOTES, PROBLEMS, Finding, Report

FEW = 500
"""With no more images than these, starting processes takes longer than looking."""


def examine(
    data: str | os.PathLike[str],
    *,
    workers: int | None = None,
    progress: bool = True,
    grey_range: GreyRange | None = None,
    choice: Choice = USUAL,
) -> Report:
    """Check every image of a data set.

    Args:
        data: data set, as for `--data`.
        workers: number of worker processes; None: chosen from the CPU cores.
        progress: show a progress bar, if stderr is a terminal.
        grey_range: pixel values for black and white in grey images of more than 8 bits; None: minimum and maximum over
            the training images.
        choice: which part to hold out, or which fraction; and which columns to read.

    Raises:
        DataError: there is no such data set. A data set that exists but cannot be opened is a finding.

    Example:
        >>> report = examine("PETS")  # doctest: +SKIP
        >>> [finding.places for finding in report.of("leakage")]  # doctest: +SKIP
        [('train/cat/17.jpg', 'val/cat/3.jpg')]
    """
    splits, classes, findings, layout = _open(data, choice)
    root = Path(data).expanduser()
    root = root if root.is_dir() else folder_of(root)
    place = lambda images, index, name: _place(images, index, name, root)  # noqa: E731
    grey, remarks = find_grey(str(data), splits, grey_range, place)
    findings += remarks
    splits = {name: with_grey(split, grey or EACH_IMAGE) for name, split in splits.items()}
    seen: list[Picture] = []
    with tqdm(total=sum(map(len, splits.values())), unit=" images", disable=None if progress else True) as bar:
        for name, split in splits.items():
            for index, look in enumerate(_looks(split, workers)):
                bar.update()
                where = place(split.images, index, name)
                findings += [Finding(kind, (where,), detail) for kind, detail in look.oddities]
                if look.pixels is not None:
                    seen.append(Picture(look.pixels, name, classes[split.labels[index]], where))
    findings += same_pixels(seen) + _damage(splits, progress)
    order = [*PROBLEMS, *NOTES]
    findings.sort(key=lambda finding: (order.index(finding.kind), finding.places))
    images = {name: len(split) for name, split in splits.items()}
    return Report(str(data), images, len(classes), tuple(findings), grey, layout, classes)


def _open(data: str | os.PathLike[str], choice: Choice) -> tuple[dict[str, Split], tuple[str, ...], list[Finding], str]:
    """Open a data set; also folders of images that training rejects.

    Returns:
        Its splits, classes, findings and layout.
    """
    root = Path(data).expanduser()
    try:
        opened = open_data(data, choice=choice)
    except DataError as error:
        if not root.is_dir() and not root.is_file():
            raise
        splits, classes, findings, layout = _list_files(root, choice)
        return splits, classes, [Finding("refused", (str(data),), str(error)), *findings], layout
    splits, findings = {"train": opened.train, opened.parts.held_out: opened.val}, _about(opened)
    if isinstance(opened.train.images, EncodedImages) and isinstance(opened.train.images.files, ImageFiles):
        findings += _list_files(root, choice)[2]
    return splits, opened.classes, findings, opened.parts.layout


def _list_files(root: Path, choice: Choice) -> tuple[dict[str, Split], tuple[str, ...], list[Finding], str]:
    """List the files of a folder of images; nothing for another layout."""
    if root.is_file():
        return list_folders(folder_of(root), choice, root)
    try:
        found = find_layout(root, choice)
    except DataError:
        return {}, (), [], ""
    if found is None or found[1] not in IMAGE_FILES:
        return {}, (), [], "" if found is None else found[1]
    return list_folders(found[0], choice)


def _about(data: ImageData) -> list[Finding]:
    """Return findings about unusual parts and class names of a data set."""
    findings = [Finding("odd-name", names, what) for names, what in odd_names(data.classes)]
    held_out = data.parts.held_out
    if unused := unused_note(data.parts):
        on_test, said = unused
        kind, places = ("chosen-on-test", (held_out,)) if on_test else ("unused-part", data.parts.unused)
        findings.append(Finding(kind, places, said))
    if absent := classes_without(data.val.labels, data.classes):
        findings.append(Finding("class-not-held-out", (held_out,), listing(absent)))
    return findings


def _damage(splits: dict[str, Split], progress: bool) -> list[Finding]:
    """Return the files of a packed data set that are not what was packed; nothing for another layout."""
    images: Any = splits["train"].images if "train" in splits else None
    if not isinstance(images, EncodedImages) or not isinstance(images.files, PackedFiles):
        return []
    found = []
    with tqdm(unit="B", unit_scale=True, disable=None if progress else True) as bar:
        for path, problem, size in damaged_shards(images.files.root):
            bar.update(size)
            found += [Finding("damaged-file", (path.name,), problem)] if problem else []
    return found


def find_grey(
    data: str, splits: dict[str, Split], given: GreyRange | None, place: Callable[[Any, int, str], str]
) -> tuple[GreyRange | None, list[Finding]]:
    """Find the grey range of the training images, and the findings about it.

    Args:
        data: name of the data set.
        splits: name -> split; the range is that of "train".
        given: a range to check instead.
        place: (images, index, split) -> name of an image.
    """
    if "train" not in splits:
        return given, []
    values = {name: deep_values_of(split) for name, split in splits.items()}
    findings = []
    try:
        grey = given or range_of(values["train"].values(), data)
        if given is not None:
            check_levels(values["train"].values(), given, data)
        for name, split in splits.items():
            if name != "train" and grey is None:
                leaving_notes(split, grey, data)
    except DataError as error:
        return given, [Finding("refused", (data,), str(error))]
    for name, split in splits.items():
        greys = {index: one for index, one in values[name].items() if not one.colour}
        if 0 < len(greys) < len(split):
            findings.append(Finding("mixed-depth", (name,), f"{len(greys)} of {len(split)} images"))
        findings += [
            Finding("grey-range", (place(split.images, index, name),), as_range((one.low, one.high)))
            for index, one in greys.items()
            if grey is not None and leaves(one, grey)
        ]
    return grey, findings


class Picture(NamedTuple):
    """Fingerprint and origin of a decoded image."""

    pixels: bytes  # a fingerprint
    split: str
    label: str
    place: str


def same_pixels(images: list[Picture]) -> list[Finding]:
    """Find groups of images with equal pixels: in both splits, with different labels, or simple duplicates."""
    groups = defaultdict(list)
    for image in images:
        groups[image.pixels].append(image)
    findings = []
    for group in groups.values():
        if len(group) == 1:
            continue
        places, labels = tuple(image.place for image in group), sorted({image.label for image in group})
        leaks = len({image.split for image in group}) > 1
        if leaks:
            findings.append(Finding("leakage", places))
        if len(labels) > 1:
            findings.append(Finding("conflict", places, ", ".join(labels)))
        elif not leaks:
            findings.append(Finding("duplicate", places))
    return findings


class Look(NamedTuple):
    """Result of checking one image.

    Attributes:
        pixels: fingerprint of the decoded pixels; equal for equal pixels; None if it cannot be decoded.
        oddities: (kind of finding, detail).
    """

    pixels: bytes | None
    oddities: tuple[tuple[str, str], ...] = ()


def look_at_pixels(image: np.ndarray) -> Look:
    """Check a decoded image, (H, W, 3) uint8."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return Look(digest.digest())


def _look_at_file(path: Path, grey: Grey) -> Look:
    """Check an image file, or another entry with an image suffix; `grey` as in `decode_image`."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return Look(None, (("not-a-file", "a folder, pipe, socket or device"),))
        content = path.read_bytes()
    except OSError as error:
        return Look(None, (("not-a-file", error.strerror or str(error)),))
    return look_at_content(content, path.suffix.lower(), grey)


def look_at_content(content: bytes, suffix: str | None = None, grey: Grey = EACH_IMAGE) -> Look:
    """Check an encoded image; `suffix` of its name, or None; `grey` as in `decode_image`."""
    if not content:
        return Look(None, (("empty-file", ""),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's about large images and odd metadata: they become findings
        try:
            image = decode_image(content, "", grey)
        except DataError as error:
            return Look(None, (_refusal(content, error),))
        return Look(look_at_pixels(image).pixels, tuple(_oddities(content, suffix)))


def _refusal(content: bytes, error: DataError) -> tuple[str, str]:
    cause = error.__cause__
    reason = getattr(error, "reason", "") or str(error)
    if isinstance(cause, Image.DecompressionBombError):
        return "huge", str(cause)
    if "truncated" in str(cause) or isinstance(cause, EOFError) or _ends_early(content):
        return "truncated", reason
    return "unreadable", reason


def _ends_early(content: bytes) -> bool:
    """Whether the end marker is missing, or the file is shorter than its header says."""
    if content.startswith(JPEG):
        return b"\xff\xd9" not in content[-64:]
    if content.startswith(b"\x89PNG"):
        return b"IEND" not in content[-64:]
    if content.startswith(b"RIFF"):
        return len(content) < 8 + int.from_bytes(content[4:8], "little")
    return content.startswith(b"GIF8") and b";" not in content[-2:]


def _oddities(content: bytes, suffix: str | None) -> list[tuple[str, str]]:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        stored = stored_as(image)
        limit = Image.MAX_IMAGE_PIXELS or float("inf")
        return [
            oddity
            for oddity, holds in {
                ("wrong-extension", f"is {image.format}"): suffix is not None
                and FORMAT_OF.get(suffix, image.format) != ("JPEG" if image.format == "MPO" else image.format),
                ("16-bit", f"mode {stored}"): ";16" in stored or ";12" in stored or stored[:1] in ("I", "F"),
                ("bands", f"{stored}"): image.format == "TIFF" and stored.startswith(("RGBX", "RGBAX")),
                ("cmyk", ""): image.mode == "CMYK",
                ("palette", ""): image.mode in ("P", "PA"),
                ("alpha", ""): image.has_transparency_data,
                ("rotated", f"orientation {orientation(image)}"): orientation(image) in range(2, 9),
                ("animated", ""): _has_more_frames(image),
                ("large", f"{image.width} x {image.height}"): image.width * image.height > limit,
            }.items()
            if holds
        ]


def _has_more_frames(image: Any) -> bool:
    """Whether there is an animation or a second page; a camera's preview image (MPO) does not count."""
    try:
        return image.format != "MPO" and getattr(image, "is_animated", False)
    except Exception:  # a second frame that is damaged, where the first is sound
        return False


def _look(images: Any, index: int) -> Look:
    if isinstance(images, EncodedImages):
        source = images.source(index)
        look = _look_at_file if isinstance(source, Path) else look_at_content
        return look(source, grey=images.grey)  # type: ignore[arg-type]
    try:
        return look_at_pixels(images[index])
    except DataError as error:
        return Look(None, (("unreadable", str(error)),))


def _look_at_each(images: Any, positions: list[int]) -> list[Look]:
    return [_look(images, index) for index in positions]


def _looks(split: Split, workers: int | None) -> Iterator[Look]:
    """Check a split's images, in order."""
    encoded = isinstance(split.images, EncodedImages)
    if workers is None:
        workers = choose_workers(None, False, 1) if encoded and len(split) > FEW else 0
    look_at_each = partial(_look_at_each, split.images)  # in the worker, as what collates a batch
    generator = torch.Generator()  # else it would draw from the global one
    positions: Any = range(len(split))
    for batch in DataLoader(positions, 64, num_workers=workers, collate_fn=look_at_each, generator=generator):
        yield from batch


def _place(images: Any, index: int, split: str, root: Path) -> str:
    """Return the name of an image: its path relative to the data set, or its index in the split, from 0."""
    if isinstance(images, EncodedImages) and isinstance(images.files, ImageFiles):
        return os.path.relpath(images.where(index), root)
    if hasattr(images, "where"):
        return images.where(index).removeprefix(f"{root}{os.sep}")
    return f"{split} {index}"
