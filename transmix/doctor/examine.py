"""Check every image of a data set in several processes."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from transmix.data.class_names import odd_names
from transmix.data.dataset import DataError, ImageData, Split, classes_without, listing
from transmix.data.encoded import EncodedImages, ImageFiles
from transmix.data.folder import read_folder
from transmix.data.grey import EACH_IMAGE, GreyRange, as_range
from transmix.data.grey_range import check_levels, deep_values_of, leaving_notes, range_of, with_grey
from transmix.data.loader import choose_workers
from transmix.data.parts import unused_note
from transmix.data.source import LAYOUTS, open_data
from transmix.doctor.folders import list_class_folders
from transmix.doctor.look import Look, look_at_content, look_at_file, look_at_pixels
from transmix.doctor.report import NOTES, PROBLEMS, Finding, Report

FEW = 500
"""With no more images than these, starting processes takes longer than looking."""


def examine(
    data: str | os.PathLike[str],
    *,
    workers: int | None = None,
    progress: bool = True,
    grey_range: GreyRange | None = None,
) -> Report:
    """Check every image of a data set.

    Args:
        data: data set, as for `--data`.
        workers: number of worker processes; None: chosen from the CPU cores.
        progress: show a progress bar, if stderr is a terminal.
        grey_range: pixel values for black and white in grey images of more than 8 bits; None: minimum and maximum over
            the training images.

    Raises:
        DataError: there is no such data set. A data set that exists but cannot be opened is a finding.

    Example:
        >>> report = examine("PETS")  # doctest: +SKIP
        >>> [finding.places for finding in report.of("leakage")]  # doctest: +SKIP
        [('train/cat/17.jpg', 'val/cat/3.jpg')]
    """
    splits, classes, findings = _open(data)
    place = lambda images, index, name: _place(images, index, name, Path(data))  # noqa: E731
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
    findings += same_pixels(seen)
    order = [*PROBLEMS, *NOTES]
    findings.sort(key=lambda finding: (order.index(finding.kind), finding.places))
    return Report(str(data), {name: len(split) for name, split in splits.items()}, len(classes), tuple(findings), grey)


def _open(data: str | os.PathLike[str]) -> tuple[dict[str, Split], tuple[str, ...], list[Finding]]:
    """Open a data set; also class folders that training rejects."""
    root, refusal = Path(data).expanduser(), []
    try:
        opened = open_data(data)
    except DataError as error:
        if not root.is_dir():
            raise
        opened, refusal = None, [Finding("refused", (str(data),), str(error))]
    about = [] if opened is None else _about(opened)
    if root.is_dir() and [read for holds, read in LAYOUTS.values() if holds(root)] == [read_folder]:
        splits, classes, findings = list_class_folders(root)
        return splits, classes, refusal + about + findings
    if opened is None:
        return {}, (), refusal
    return {"train": opened.train, opened.parts.held_out: opened.val}, opened.classes, about


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
            if grey is not None and not (grey[0] <= one.low and one.high <= grey[1])
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


def _look(images: Any, index: int) -> Look:
    if isinstance(images, EncodedImages):
        source = images.source(index)
        look = look_at_file if isinstance(source, Path) else look_at_content
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
        return os.path.relpath(images.where(index), root.expanduser())
    if hasattr(images, "where"):
        return images.where(index).removeprefix(f"{root.expanduser()}{os.sep}")
    return f"{split} {index}"
