"""One door to all data sets: a name or a folder in, images, labels and class names out."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from transmix.data.bad import allowed_bad
from transmix.data.cifar import holds_cifar, read_cifar
from transmix.data.cifar_python import holds_cifar_python, read_cifar_python
from transmix.data.dataset import DataError, ImageData, Split, class_difference, keep_decoded, listing
from transmix.data.folder import holds_class_folders, read_folder
from transmix.data.grey import Grey
from transmix.data.grey_range import FIND, scale_grey
from transmix.data.idx import holds_idx, read_idx_files
from transmix.data.oxford_pets import holds_oxford_pets, read_oxford_pets
from transmix.data.parquet import holds_parquet, read_parquet
from transmix.data.subset import choose
from transmix.data.tar_shards import holds_shards_in_train, holds_tar_shards, read_tar_shards
from transmix.recipes.settings import Data


def _holds_class_folders(root: Path) -> bool:
    return holds_class_folders(root) and not holds_shards_in_train(root)


LAYOUTS = {
    "Parquet files (train-*.parquet)": (holds_parquet, read_parquet),
    "CIFAR's binary files (data_batch_1.bin or train.bin)": (holds_cifar, read_cifar),
    "CIFAR's python files (data_batch_1 or train)": (holds_cifar_python, read_cifar_python),
    "idx files (train-images-idx3-ubyte)": (holds_idx, read_idx_files),
    "tar shards (train-*.tar or train/*.tar)": (holds_tar_shards, read_tar_shards),
    "Oxford-IIIT Pet (annotations/trainval.txt)": (holds_oxford_pets, read_oxford_pets),
    "class folders (train/<class>/)": (_holds_class_folders, read_folder),
}
"""The kinds of folder that can be read: for each, how it is recognised and what reads it."""


def open_data(
    name_or_path: str | os.PathLike[str], *, seed: int = 0, download: str | os.PathLike[str] | None = None
) -> ImageData:
    """Open a data set by the name `digits` or by its folder, whose layout is recognised by what is in it.

    Args:
        name_or_path: `'digits'` for the built-in set of digits on textures, which needs no files; anything
            else is a folder (write `./digits` for one of that name).
        seed: Decides the built-in images; folders do not depend on it.
        download: If given, `name_or_path` is the name of a published data set, which is fetched into this folder
            unless it is there.

    Raises:
        DataError: If there is no such folder, its layout is not known, its content is not usable, or it cannot be
            fetched.
    """
    if download is not None:
        from transmix.data.download import download as fetch

        name_or_path = fetch(str(name_or_path), download)
    if name_or_path == "digits":
        from transmix.data.digits import digits_on_textures

        return digits_on_textures(seed=seed)
    root = Path(name_or_path).expanduser()
    if not root.is_dir():
        other = f" (--download FOLDER makes FOLDER/{root})" if _is_published(name_or_path) else ", or 'digits'"
        raise DataError(f"{root}: no such folder; give the folder of a data set{other}")
    found = {layout: read for layout, (holds, read) in LAYOUTS.items() if holds(root)}
    if len(found) == 1:
        return next(iter(found.values()))(root)
    if found:
        raise DataError(f"{root}: more than one data set: {' and '.join(found)}; move one away")
    content = listing(sorted(entry.name for entry in root.iterdir())) or "nothing"
    raise DataError(f"{root}: no data set; looked for {', '.join(LAYOUTS)}; found {content}")


def _is_published(name: str | os.PathLike[str]) -> bool:
    from transmix.data.download import NAMED

    return name in NAMED


def load_data(settings: Data, seed: int, grey: Grey | Literal["find"] = FIND) -> ImageData:
    """Open the data set of a recipe, take as much of it as asked for, and decode what fits into memory.

    Args:
        settings: of the recipe.
        seed: of the run.
        grey: the grey range that the run has kept; "find": as the recipe says, or over the training images.

    Raises:
        DataError: as `open_data`, `scale_grey` and `choose`.
    """
    data = open_data(settings.data or "", seed=seed, download=settings.download)
    data = scale_grey(data, settings.grey_range or FIND if grey == FIND else grey)
    limit, bad = int(settings.cache_gb * 1e9), allowed_bad(settings)
    train = data.train if settings.train_images is None else choose(data.train, settings.train_images)
    return replace(data, train=keep_decoded(train, limit, bad), val=keep_decoded(data.val, limit, bad))


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
