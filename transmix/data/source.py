"""One door to all data sets: a name or a folder in, images, labels and class names out."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Literal

import numpy as np

from transmix import plugins
from transmix.data.bad_images import allowed_bad
from transmix.data.cifar import holds_cifar, read_cifar
from transmix.data.cifar_python import holds_cifar_python, read_cifar_python
from transmix.data.class_names import class_name
from transmix.data.dataset import DataError, ImageData, Split, classes_without, keep_decoded, listing, printable
from transmix.data.folder import holds_class_folders, read_folder
from transmix.data.grey import Grey
from transmix.data.grey_range import FIND, scale_grey
from transmix.data.idx import holds_idx, read_idx_files
from transmix.data.oxford_pets import holds_oxford_pets, read_oxford_pets
from transmix.data.parquet import holds_parquet, read_parquet
from transmix.data.parts import (
    HELD_OUT,
    HELD_OUT_BEFORE,
    USUAL,
    Choice,
    chosen_on_test,
    left_unused,
)
from transmix.data.settings import Data
from transmix.data.subset import choose
from transmix.data.tar_shards import holds_shards_in_train, holds_tar_shards, read_tar_shards


def _holds_class_folders(root: Path) -> bool:
    return holds_class_folders(root) and not holds_shards_in_train(root)


def _fixed(read: Callable[[Path], ImageData]) -> Callable[[Path, Choice], ImageData]:
    """Make a reader of files that leave no choice refuse one that was asked for."""

    @wraps(read)
    def read_with(root: Path, choice: Choice) -> ImageData:
        data = read(root)
        if choice.held_out not in (HELD_OUT, HELD_OUT_BEFORE, (data.parts.held_out,)):
            raise DataError(f"{root}: only {data.parts.held_out} can be held out; leave --held-out away")
        return data

    return read_with


LAYOUTS = {
    "Parquet files (train-*.parquet)": (holds_parquet, read_parquet),
    "CIFAR's binary files (data_batch_1.bin or train.bin)": (holds_cifar, _fixed(read_cifar)),
    "CIFAR's python files (data_batch_1 or train)": (holds_cifar_python, _fixed(read_cifar_python)),
    "idx files (train-images-idx3-ubyte)": (holds_idx, _fixed(read_idx_files)),
    "tar shards (train-*.tar or train/*.tar)": (holds_tar_shards, read_tar_shards),
    "Oxford-IIIT Pet (annotations/trainval.txt)": (holds_oxford_pets, _fixed(read_oxford_pets)),
    "class folders (train/<class>/)": (_holds_class_folders, read_folder),
}
"""The kinds of folder that can be read: for each, how it is recognised and what reads it."""


def _digits(seed: int) -> ImageData:
    from transmix.data.digits import digits_on_textures

    return digits_on_textures(seed=seed)


def _digits48(seed: int) -> ImageData:
    from transmix.data.digits import digits_on_textures

    return digits_on_textures(seed=seed, image_size=48, scale=(0.4, 0.65))


SOURCES: dict[str, Callable[[int], ImageData]] = {"digits": _digits, "digits48": _digits48}
"""Data sets that need no files: name -> (seed) -> images, labels and class names. Installed packages may add more."""


def open_data(
    name_or_path: str | os.PathLike[str],
    *,
    seed: int = 0,
    download: str | os.PathLike[str] | None = None,
    choice: Choice = USUAL,
) -> ImageData:
    """Open a data set by a name in `SOURCES` or by its folder, whose layout is recognised by what is in it.

    Args:
        name_or_path: `'digits'` or `'digits48'` for the built-in digits on textures, 32 and 48 pixels wide, which need
            no files; a name that an installed package adds; anything else is a folder (write `./digits` for one of
            that name).
        seed: Decides the built-in images; folders do not depend on it.
        download: If given, `name_or_path` is the name of a published data set, which is fetched into this folder
            unless it is there.
        choice: What to take where the files leave a choice: the part to hold out, columns.

    Raises:
        DataError: If there is no such folder, its layout is not known, its content is not usable, or it cannot be
            fetched.
    """
    if download is not None:
        from transmix.data.download import download as fetch

        name_or_path = fetch(str(name_or_path), download)
    if name_or_path in plugins.names("data", SOURCES):
        return plugins.find("data", SOURCES, str(name_or_path))(seed)
    root = Path(name_or_path).expanduser()
    if not root.is_dir():
        other = f" (--download FOLDER makes FOLDER/{root})" if _is_published(name_or_path) else ", or 'digits'"
        raise DataError(f"{root}: no such folder; give the folder of a data set{other}")
    found = {layout: read for layout, (holds, read) in LAYOUTS.items() if holds(root)}
    if len(found) == 1:
        data = next(iter(found.values()))(root, choice)
        if data.parts.columns is None and (choice.image_column or choice.label_column):
            raise DataError(
                f"{root}: --image-column and --label-column are for Parquet files; this is {next(iter(found))}"
            )
        return replace(data, notes=(*_notes(data), *data.notes))
    if found:
        raise DataError(f"{root}: more than one data set: {' and '.join(found)}; move one away")
    content = listing(sorted(entry.name for entry in root.iterdir())) or "nothing"
    raise DataError(f"{root}: no data set; looked for {', '.join(LAYOUTS)}; found {content}")


def _notes(data: ImageData) -> Iterator[str]:
    """Say what is odd about the parts of a data set, a line each."""
    for said in (chosen_on_test(data.parts), left_unused(data.parts)):
        if said is not None:
            yield said
    if absent := classes_without(data.val.labels, data.classes):
        yield (
            f"{data.parts.held_out} has no image of class {listing(map(printable, absent))}: no score says how well it "
            "is recognised"
        )


def _is_published(name: str | os.PathLike[str]) -> bool:
    from transmix.data.download import NAMED

    return name in NAMED


def choice_of(settings: Data, kept: Choice = USUAL) -> Choice:
    """Return what a recipe asks to take of a data set, and for the rest what a run has kept."""
    return Choice(
        kept.held_out if settings.held_out is None else (settings.held_out,),
        settings.image_column or kept.image_column,
        settings.label_column or kept.label_column,
    )


def load_data(settings: Data, seed: int, grey: Grey | Literal["find"] = FIND, kept: Choice = USUAL) -> ImageData:
    """Open the data set of a recipe, take as much of it as asked for, and decode what fits into memory.

    Args:
        settings: of the recipe.
        seed: of the run.
        grey: the grey range that the run has kept; "find": as the recipe says, or over the training images.
        kept: which part and columns the run has kept.

    Raises:
        DataError: as `open_data`, `scale_grey` and `choose`.
    """
    data = open_data(settings.data or "", seed=seed, download=settings.download, choice=choice_of(settings, kept))
    data = scale_grey(data, settings.grey_range or FIND if grey == FIND else grey)
    limit, bad = int(settings.cache_gb * 1e9), allowed_bad(settings)
    train = data.train if settings.train_images is None else choose(data.train, settings.train_images)
    return replace(data, train=keep_decoded(train, limit, bad), val=keep_decoded(data.val, limit, bad))


def in_classes(expected: Sequence[str], data: ImageData) -> ImageData:
    """Return a data set whose labels are positions in the classes of a run, matched by name.

    Args:
        expected: The classes of the run, of which the data set may lack some.
        data: Whatever order its classes are in.

    Raises:
        DataError: If it has a class that the run lacks; the message names it.
    """
    try:
        train, val = (relabel_to(expected, split, data.classes) for split in (data.train, data.val))
    except DataError as error:
        raise DataError(f"{data.name}: {error}") from error
    found = set(map(class_name, data.classes))
    absent = [name for name in expected if class_name(name) not in found]
    notes = (f"{data.name} has no class {listing(map(printable, absent))}, which the run has",) if absent else ()
    return replace(data, classes=tuple(expected), train=train, val=val, notes=(*data.notes, *notes))


def relabel_to(expected_classes: Sequence[str], split: Split, found_classes: Sequence[str]) -> Split:
    """Translate labels, by class name, to the order in which a run lists its classes.

    Args:
        expected_classes: The classes of the run.
        split: Images with labels (N,) that are positions in `found_classes`.
        found_classes: The classes of the data set.

    Returns:
        The same images and masks with labels (N,) int64 that are positions in `expected_classes`.

    Raises:
        DataError: If the run has no class of some name.
    """
    position = {class_name(one): index for index, one in enumerate(expected_classes)}
    if unknown := [one for one in found_classes if class_name(one) not in position]:
        raise DataError(f"the run has no class {listing(map(printable, unknown))}; remove these from the data")
    order = np.array([position[class_name(one)] for one in found_classes], dtype=np.int64)
    return replace(split, labels=order[split.labels])
