"""Open any data set from a name or a folder: images, labels and class names."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Literal

from transmix import plugins
from transmix.data.bad_images import allowed_bad
from transmix.data.cifar import folders_with, holds_cifar, read_cifar
from transmix.data.class_names import class_name, positions
from transmix.data.dataset import DataError, ImageData, Split, classes_without, keep_decoded, listing, printable
from transmix.data.digits import digits_on_textures
from transmix.data.encoded import EncodedImages
from transmix.data.folder import data_folder, find_parts, holds_class_folders, read_folder, read_parts
from transmix.data.grey import Grey
from transmix.data.grey_range import FIND, scale_grey
from transmix.data.idx import holds_idx, read_idx_files
from transmix.data.label_lists import ENDINGS
from transmix.data.listed_images import CLS_LOC, folder_of
from transmix.data.no_data import no_data, no_folder
from transmix.data.packed import LAYOUT as PACKED
from transmix.data.packed import PackedFiles, holds_packed, read_packed
from transmix.data.parts import HELD_OUT, HELD_OUT_BEFORE, TRAIN, USUAL, Choice, unused_note
from transmix.data.settings import Data
from transmix.data.subset import choose, fingerprint, hold_out
from transmix.data.tables import HF_PREFIX, holds_parquet, holds_parquet_of_all, read_hf, read_parquet
from transmix.data.tar_shards import holds_shards_in_train, holds_tar_shards, read_tar_shards
from transmix.data.torchvision_sets import FOLDER, OLDER_NAMES, PREFIX, read_folder_of, read_published


def _fixed(read: Callable[[Path], ImageData]) -> Callable[[Path, Choice], ImageData]:
    """Make a reader of files with fixed parts reject a choice of another part."""

    @wraps(read)
    def read_with(root: Path, choice: Choice) -> ImageData:
        return _of_two_parts(read(root), choice, root)

    return read_with


def _of_two_parts(data: ImageData, choice: Choice, where: object) -> ImageData:
    """Return a data set of two parts with the part to hold out; the training part too can be evaluated on."""
    held_out = data.parts.held_out
    if choice.val_fraction is not None or choice.held_out in (HELD_OUT, HELD_OUT_BEFORE) or held_out in choice.held_out:
        return data
    if choice.for_evaluation and choice.held_out == TRAIN:
        return replace(data, val=data.train, parts=replace(data.parts, held_out="train"))
    if choice.for_evaluation:
        raise DataError(f"{where}: no part {choice.held_out[0]}; there are train and {held_out}: --split NAME")
    raise DataError(f"{where}: only {held_out} can be held out; leave --held-out out")


def _published(name: str, folder: str, file: str) -> tuple[Callable[[Path], bool], Callable[[Path, Choice], ImageData]]:
    """Return how to recognise the files of a published set in a folder or its published subfolder, and their reader."""
    return lambda top: bool(folders_with(top, folder, [file])), _fixed(lambda top: read_folder_of(name, top, folder))


CLASS_FOLDERS = "class folders (train/<class>/)"
DEEPEST = 5
"""So many folders are looked into, if each holds only the next."""

IMAGE_FILES = (CLASS_FOLDERS, "image files")
"""The layouts of single image files, with class folders or label lists."""

_PETS = "annotations/trainval.txt"
LAYOUTS = {
    PACKED: (holds_packed, read_packed),
    "Parquet files (train-*.parquet)": (holds_parquet, read_parquet),
    "CIFAR's binary files (data_batch_1.bin or train.bin)": (holds_cifar, _fixed(read_cifar)),
    "CIFAR-10's python files (data_batch_1)": _published("CIFAR10", "cifar-10-batches-py", "data_batch_1"),
    "CIFAR-100's python files (train)": _published("CIFAR100", "cifar-100-python", "train"),
    "idx files (train-images-idx3-ubyte)": (holds_idx, _fixed(read_idx_files)),
    "tar shards (train-*.tar or train/*.tar)": (holds_tar_shards, read_tar_shards),
    "Oxford-IIIT Pet (annotations/trainval.txt)": _published("OxfordIIITPet", "oxford-iiit-pet", _PETS),
    CLASS_FOLDERS: (
        lambda root: holds_class_folders(root) and not holds_shards_in_train(root),
        read_folder,
    ),
}
"""The kinds of folder that can be read: for each, how it is recognised and what reads it."""


SOURCES: dict[str, Callable[[int], ImageData]] = {
    "digits": lambda seed: digits_on_textures(seed),
    "digits48": lambda seed: digits_on_textures(seed, image_size=48, scale=(0.4, 0.65)),
    "small_digits": lambda seed: digits_on_textures(seed, image_size=48, scale=(0.4, 0.65), val_copies=12),
}
"""Data sets that need no files: name -> (seed) -> images, labels and class names. Installed packages may add more."""


def open_data(
    name_or_path: str | os.PathLike[str],
    *,
    seed: int = 0,
    download: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    choice: Choice = USUAL,
) -> ImageData:
    """Open a data set by name, or by folder; the layout is detected from the content.

    Args:
        name_or_path: `'digits'` or `'digits48'` for the built-in digits on textures, 32 and 48 pixels wide, which need
            no files; a name that an installed package adds; `'torchvision:CIFAR10'`; `'hf:PATH'`; a label list in its
            folder; anything else is a folder (write `./digits` for one of that name).
        seed: Seed of the built-in images; nothing else depends on it.
        download: Folder to download a torchvision set to, unless its files exist there.
        data_dir: Folder with the files; nothing is downloaded.
        choice: Which part to hold out and which columns to read.

    Raises:
        DataError: There is no such folder, its layout is unknown, its content is unusable, the download failed, or
            other images would be held out than when the run began.
    """
    if choice.val_fraction is not None and not 0 < choice.val_fraction < 1:
        raise DataError(f"val_fraction {choice.val_fraction:g} is not between 0 and 1")
    data = _open(str(name_or_path), seed, download or data_dir, download is not None, choice)
    if choice.val_fraction is not None:
        data = hold_out(data, choice.val_fraction)
        if not len(data.val):
            raise DataError(f"{name_or_path}: no class has two images, so that none can be held out; add images")
        if choice.fingerprint not in (None, fingerprint(data.val, data.classes)):
            raise DataError(
                f"{name_or_path}: its images are not those that the run began with: other images would be held out, "
                f"and of these some were trained on; restore them, or evaluate on a folder of new images: --data FOLDER"
            )
    return replace(data, notes=(*_notes(data), *data.notes))


def _open(name: str, seed: int, given: str | os.PathLike[str] | None, fetch: bool, choice: Choice) -> ImageData:
    root, place = Path(name).expanduser(), Path(given or FOLDER).expanduser()
    if name.startswith(PREFIX):
        return read_published(name[len(PREFIX) :], place, fetch, choice)
    if name.startswith(HF_PREFIX):
        return read_hf(name[len(HF_PREFIX) :], choice)
    if name in OLDER_NAMES and given:
        if not (place / name / "downloaded.json").is_file():  # which older versions of transmix left there
            return read_published(name, place, fetch, choice)
        root = place / name
    elif fetch:
        raise DataError(f"{name}: --download is for --data torchvision:NAME, and for {', '.join(OLDER_NAMES)}")
    elif name in plugins.names("data", SOURCES):
        return _of_two_parts(plugins.find("data", SOURCES, name)(seed), choice, name)
    return _open_folder(root, choice)


def _open_folder(given: Path, choice: Choice) -> ImageData:
    """Open a folder, or a label list in its folder; the layout is detected from the content."""
    if given.is_file() and given.suffix.lower() in ENDINGS:
        return read_folder(folder_of(given), choice, given)
    if not given.is_dir():
        raise DataError(no_folder(given))
    if (found := find_layout(given, choice)) is None:
        raise DataError(no_data(given, LAYOUTS))
    root, layout, read = found
    data = read(root, choice)
    if data.parts.columns is None and (choice.image_column or choice.label_column):
        remedy = "--image-column and --label-column are for Parquet files and label lists"
        raise DataError(f"{root}: {remedy}; this is {layout}")
    inside = (f"the data set is in {root}",) if root != given else ()
    return replace(data, notes=(*inside, *data.notes), parts=replace(data.parts, layout=data.parts.layout or layout))


def find_layout(given: Path, choice: Choice = USUAL) -> tuple[Path, str, Callable[[Path, Choice], ImageData]] | None:
    """Return the folder with the data set, its layout and what reads it; None if no layout is recognised.

    The folder is the given one, else its only subfolder, and so on, where an archive was unpacked into its own.

    Raises:
        DataError: There is more than one data set.
    """
    roots = [data_folder(given) if (given / CLS_LOC).is_dir() else given]
    while len(roots) < DEEPEST and (inside := data_folder(roots[-1])) != roots[-1]:
        roots.append(inside)
    for root in roots:
        found = {layout: read for layout, (holds, read) in LAYOUTS.items() if holds(root)}
        if len(found) > 1:
            raise DataError(f"{root}: more than one data set: {' and '.join(found)}; move one away")
        if found:
            return root, *found.popitem()
        if holds_parquet_of_all(root):
            return root, "Parquet files", read_parquet
        parts = find_parts(root, choice)
        if parts.parts:
            return root, IMAGE_FILES[1], lambda root, choice, parts=parts: read_parts(root, parts, choice)
    return None


def _notes(data: ImageData) -> Iterator[str]:
    """Return notes about unusual parts of a data set, one line each."""
    if unused := unused_note(data.parts):
        yield unused[1]
    if absent := listing(map(printable, classes_without(data.val.labels, data.classes))):
        why = "no score says how well it is recognised"
        yield f"{data.parts.held_out} has no image of class {absent}: {why}"


def choice_of(settings: Data, kept: Choice = USUAL) -> Choice:
    """Return a recipe's choice of parts and columns, completed by the choice saved in the run.

    Raises:
        DataError: it gives both a part and a fraction.
    """
    if settings.held_out is not None and settings.val_fraction is not None:
        raise DataError("--held-out and --val-fraction exclude each other; leave one out")
    fraction = kept.val_fraction if settings.val_fraction is None else settings.val_fraction
    return replace(
        kept,
        held_out=kept.held_out if settings.held_out is None else (settings.held_out,),
        image_column=settings.image_column or kept.image_column,
        label_column=settings.label_column or kept.label_column,
        val_fraction=fraction,
        fingerprint=kept.fingerprint if fraction == kept.val_fraction else None,
    )


def open_own(settings: Data, seed: int, kept: Choice = USUAL) -> ImageData:
    """Open the data set of a recipe; arguments and errors as `load_data`, but for the grey range."""
    places = {"download": settings.download, "data_dir": settings.data_dir}
    return open_data(settings.data or "", seed=seed, choice=choice_of(settings, kept), **places)


def load_data(settings: Data, seed: int, grey: Grey | Literal["find"] = FIND, kept: Choice = USUAL) -> ImageData:
    """Open the data set of a recipe, take the requested subset, and decode what fits into memory.

    Args:
        settings: recipe settings.
        seed: run seed.
        grey: the grey range saved in the run; "find": the recipe's, else computed over the training images.
        kept: part and columns saved in the run.

    Raises:
        DataError: as `open_data`, `scale_grey` and `choose`.
    """
    data = open_own(settings, seed, kept)
    data = scale_grey(data, settings.grey_range or FIND if grey == FIND else grey)
    data = replace(data, notes=(*data.notes, *_too_small(data, settings.image_size)))
    limit, bad = int(settings.cache_gb * 1e9), allowed_bad(settings)
    train = data.train if settings.train_images is None else choose(data.train, settings.train_images)
    return replace(data, train=keep_decoded(train, limit, bad), val=keep_decoded(data.val, limit, bad))


def _too_small(data: ImageData, image_size: int) -> Iterator[str]:
    """Return a note on training images that were packed smaller than the model's input."""
    files = data.train.images.files if isinstance(data.train.images, EncodedImages) else None
    if isinstance(files, PackedFiles) and (short_side := files.part.short_side) is not None and short_side < image_size:
        remedy = f"transmix pack --short-side {round(image_size / 0.778)} keeps more"
        yield f"{data.name} is packed to a shorter side of {short_side}, below image_size {image_size}: {remedy}"


def in_classes(expected: Sequence[str], data: ImageData) -> ImageData:
    """Return a data set whose labels are indices into the classes of a run, matched by name.

    Args:
        expected: The classes of the run; the data set may lack some.
        data: Data set with its classes in any order.

    Raises:
        DataError: It has a class that the run lacks; the message names it.
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
    """Convert labels, by class name, to a run's class order.

    Args:
        expected_classes: The classes of the run.
        split: Images with labels (N,), indices into `found_classes`.
        found_classes: The classes of the data set.

    Returns:
        The same images and masks with labels (N,) int64, indices into `expected_classes`.

    Raises:
        DataError: A class name is missing in the run.
    """
    order = positions(found_classes, expected_classes)
    if unknown := [one for one, position in zip(found_classes, order, strict=True) if position < 0]:
        known = f"its classes are {listing(map(printable, expected_classes))}"
        remedy = f"take their images out of the data, or call them as the run does; {known}"
        raise DataError(f"the run has no class {listing(map(_with_nearest(expected_classes), unknown))}; {remedy}")
    return replace(split, labels=order[split.labels])


def _with_nearest(classes: Sequence[str]) -> Callable[[str], str]:
    """Return a function that writes an unknown class name with the known one that it may mean: 'Dog (dog?)'."""
    plain = {re.sub(r"[^a-z0-9]", "", one.lower()): one for one in classes}

    def write(name: str) -> str:
        near = plain.get(re.sub(r"[^a-z0-9]", "", name.lower()))
        return printable(name) + (f" ({printable(near)}?)" if near else "")

    return write
