"""One door to all data sets: a name or a folder in, images, labels and class names out."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from transmix.data.cifar import holds_cifar, read_cifar
from transmix.data.dataset import DataError, ImageData, Split, class_difference, keep_decoded, listing
from transmix.data.folder import holds_class_folders, read_folder
from transmix.data.parquet import holds_parquet, read_parquet
from transmix.recipes.settings import Data

LAYOUTS = {
    "Parquet files (train-*.parquet)": (holds_parquet, read_parquet),
    "CIFAR's binary files (data_batch_1.bin or train.bin)": (holds_cifar, read_cifar),
    "class folders (train/<class>/)": (holds_class_folders, read_folder),
}
"""The kinds of folder that can be read: for each, how it is recognised and what reads it."""


def open_data(name_or_path: str | os.PathLike[str], *, seed: int = 0) -> ImageData:
    """Open a data set by the name `digits` or by its folder, whose layout is recognised by what is in it.

    Args:
        name_or_path: `'digits'` for the built-in set of digits on textures, which needs no files; anything
            else is a folder (write `./digits` for one of that name).
        seed: Decides the built-in images; folders do not depend on it.

    Raises:
        DataError: If there is no such folder, its layout is not known, or its content is not usable.
    """
    if name_or_path == "digits":
        from transmix.data.digits import digits_on_textures

        return digits_on_textures(seed=seed)
    root = Path(name_or_path).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder of a data set, or 'digits'")
    found = {layout: read for layout, (holds, read) in LAYOUTS.items() if holds(root)}
    if len(found) == 1:
        return next(iter(found.values()))(root)
    if found:
        raise DataError(f"{root}: more than one data set: {' and '.join(found)}; move one away")
    content = listing(sorted(entry.name for entry in root.iterdir())) or "nothing"
    raise DataError(f"{root}: no data set; looked for {', '.join(LAYOUTS)}; found {content}")


def load_data(settings: Data, seed: int) -> ImageData:
    """Open the data set of a recipe and decode what fits into memory.

    Raises:
        DataError: as `open_data`.
    """
    data = open_data(settings.data or "", seed=seed)
    limit = int(settings.cache_gb * 1e9)
    return replace(data, train=keep_decoded(data.train, limit), val=keep_decoded(data.val, limit))


def check_same_classes(expected: Sequence[str], found: ImageData) -> None:
    """Check that a data set has exactly the classes of a run, in whatever order.

    Raises:
        DataError: If classes are missing or unexpected; the message names them.
    """
    difference = class_difference(expected, found.classes)
    if difference:
        raise DataError(f"{found.name}: classes differ from those of the run ({difference})")


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
    position = {name: index for index, name in enumerate(expected_classes)}
    unknown = [name for name in found_classes if name not in position]
    if unknown:
        raise DataError(f"the run has no class {listing(unknown)}; remove these from the data")
    new_labels = np.array([position[name] for name in found_classes], dtype=np.int64)
    return replace(split, labels=new_labels[split.labels])
