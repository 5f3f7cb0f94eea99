"""The data set to pack: its parts, and their images one after the other."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from transmix.data.dataset import DataError, ImageData, Split, UnreadableImageError
from transmix.data.encoded import EncodedImages, ImageFiles
from transmix.data.masks import Masks, NoMasksError, open_masks
from transmix.data.packed import PackedPart
from transmix.data.parts import TRAIN, WHOLE, Choice, NoHeldOutError, split_of
from transmix.data.source import open_data
from transmix.data.subset import fingerprint
from transmix.pack.images import Task

Open = Callable[[Choice], ImageData]
"""Opens the data set with other parts."""


@dataclass(frozen=True, eq=False)
class Source:
    """One part of a data set to pack.

    Attributes:
        part: What the index says of it.
        split: Its images and labels.
        masks: Its masks, if they are packed.
        root: The folder of the data set, left out of the images' names.
    """

    part: PackedPart
    split: Split
    masks: Masks | None
    root: Path

    def task(self, index: int) -> Task:
        """Return what a worker needs to pack an image."""
        images: Any = self.split.images
        where = self.split.where(index)
        try:
            mask = None if self.masks is None else self.masks(index)
            source = images.source(index) if isinstance(images, EncodedImages) else self.split.image(index)
        except UnreadableImageError as error:
            return Task(UnreadableImageError(error.where, error.reason), where)
        return Task(source, where, mask)

    def tasks(self, start: int, count: int) -> Iterator[list[Task]]:
        """Yield the tasks from an index on, `count` at a time."""
        for first in range(start, self.part.images, count):
            yield [self.task(index) for index in range(first, min(first + count, self.part.images))]

    def path(self, index: int) -> str:
        """Return the name of an image in the packed files; `part.folder` and it are its name below the root."""
        images: Any = self.split.images
        if self.part.told_apart_by == "path":
            name = os.fsdecode(images.files.paths[images.rows[index]])
        else:
            name = self.split.where(index).removeprefix(f"{self.root}{os.sep}")
        # names of files need not be UTF-8, and texts in Arrow do
        return os.fsencode(name).decode(errors="backslashreplace")

    @property
    def encoded(self) -> bool:
        """Whether the images are decoded each time that they are used."""
        return isinstance(self.split.images, EncodedImages)


@dataclass(frozen=True, eq=False)
class Sources:
    """A data set to pack.

    Attributes:
        classes: Class names.
        parts: Its parts, the training part first.
        notes: Notes for the user, one line each.
    """

    classes: tuple[str, ...]
    parts: tuple[Source, ...]
    notes: tuple[str, ...]


def open_sources(
    name: str, choice: Choice, sides: tuple[int, int | None], with_masks: bool, places: dict[str, Any]
) -> Sources:
    """Open all parts of a data set: the training part, the held-out part, and others whose names say val or test.

    Args:
        name: As for `open_data`.
        choice: Which part to hold out, or which fraction, and columns.
        sides: Shorter side of training images and of others; None: they stay whole.
        with_masks: Pack foreground masks too.
        places: Further arguments of `open_data`.

    Raises:
        DataError: As `open_data`; or it is not divided, and the images to validate on would not stay whole.
    """
    open_with: Open = lambda choice: open_data(name, choice=choice, **places)  # noqa: E731
    data, splits = _open(open_with, choice, sides[1])
    notes = [*data.notes]
    root = Path(name).expanduser()
    sources = []
    for part, split in splits.items():
        side = sides[0] if split is data.train else sides[1]
        sources.append(_source(part, replace(data, val=split), side, with_masks, root))
    for other in data.parts.others if len(splits) > 1 else ():
        try:
            opened = open_with(replace(choice, held_out=(other,), val_fraction=None))
        except DataError as error:
            notes.append(f"{other} is not packed: {error}")
            continue
        sources.append(_source(other, opened, sides[1], with_masks, root))
    return Sources(data.classes, tuple(sources), tuple(dict.fromkeys(notes)))


def _open(open_with: Open, choice: Choice, held_out_side: int | None) -> tuple[ImageData, dict[str, Split]]:
    """Return the data set, and its parts by name: the training part and, if there is one, the held-out part."""
    try:
        data = open_with(choice)
    except NoHeldOutError as error:
        if held_out_side is None:
            what = (
                f"{str(error).partition('; to hold out')[0]}; --val-fraction 0.2 holds out a fifth of each class, whole"
            )
            raise DataError(f"{what}; --val-short-side N packs all images as one part, resized") from error
        data = open_with(replace(choice, held_out=TRAIN, for_evaluation=True))
        return data, {data.parts.held_out: data.train}
    if choice.val_fraction is None:
        return data, {"train" if data.parts.held_out != "train" else WHOLE: data.train, data.parts.held_out: data.val}
    if any(split_of(other) == "val" for other in data.parts.others):
        raise DataError(f"{data.name}: has a part to validate on; leave --val-fraction out (a run takes it as well)")
    return data, {"train": data.train, "val": data.val}


def _source(name: str, data: ImageData, side: int | None, with_masks: bool, root: Path) -> Source:
    """Return a part from a data set that holds it out."""
    images: Any = data.val.images
    of, folder = "", ""
    if isinstance(images, EncodedImages) and isinstance(images.files, ImageFiles):
        of, folder = "path", os.path.relpath(images.files.folder, root) if root.is_dir() else ""
    elif isinstance(images, EncodedImages) and np.array_equal(images.rows, np.arange(len(images))):
        of = "row"
    masks = None
    if with_masks:
        try:
            masks = open_masks(data)
        except NoMasksError:
            masks = None
    about = PackedPart(name, len(data.val), side, fingerprint(data.val, data.classes), folder, of)
    return Source(about, data.val, masks, root)
