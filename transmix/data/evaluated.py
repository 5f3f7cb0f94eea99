"""The images to evaluate on: a part of a run's own data, or of other data."""

from dataclasses import dataclass, replace

from transmix.data.dataset import ImageData
from transmix.data.parts import HELD_OUT, SPLITS, TRAIN, WHOLE, Choice, split_names, split_of
from transmix.data.settings import Data
from transmix.data.source import choice_of, open_data, open_own
from transmix.data.subset import choose, fingerprint, hold_out


@dataclass(frozen=True)
class Asked:
    """What a user says about the data to evaluate on.

    Attributes:
        split: Part to evaluate on: 'train', 'val' or 'test', or the name of a part; None: the held-out one.
        image_column: Image column of Parquet files and label lists; None: found by its name.
        label_column: Label column of Parquet files and label lists; None: found by its name.
        download: Folder to which the files of a torchvision set are fetched, unless they are there.
        data_dir: Folder in which they are.
    """

    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    download: str | None = None
    data_dir: str | None = None


WHATEVER = Asked()
"""What is taken where nothing else is asked for."""


def open_part_of_run(settings: Data, seed: int, kept: Choice, asked: Asked) -> ImageData:
    """Open the data of a run, with the part that is asked for as the held-out one.

    Args:
        settings: Recipe settings of the run.
        seed: Run seed.
        kept: Part, columns and fraction saved in the run.
        asked: Part, columns and places.

    Raises:
        DataError: There is no such part, or as `open_data`.
    """
    if asked.download or asked.data_dir:
        settings = replace(settings, download=asked.download, data_dir=asked.data_dir)
    settings = replace(
        settings,
        image_column=asked.image_column or settings.image_column,
        label_column=asked.label_column or settings.label_column,
    )
    choice = choice_of(settings, kept)
    names = None if asked.split is None else split_names(asked.split)
    if names is None or (choice.val_fraction is not None and names == SPLITS["val"]):
        return open_own(settings, seed, kept)
    if names == TRAIN and choice.val_fraction is not None:
        data = _on_train(open_own(settings, seed, kept))
    else:
        choice = replace(choice, held_out=names, val_fraction=None, for_evaluation=True)
        places = {"download": settings.download, "data_dir": settings.data_dir}
        data = open_data(settings.data or "", seed=seed, choice=choice, **places)
    if names == TRAIN and settings.train_images is not None:
        data = replace(data, val=choose(data.val, settings.train_images))
    return data


def open_part_of(name: str, asked: Asked, seed: int = 0, kept: Choice | None = None) -> ImageData:
    """Open other data than a run's own, with the part that is asked for as the held-out one.

    Without parts, all images are evaluated. If they are those that the run held a fraction of out (a folder that was
    moved), the images that it trained on are left out.

    Args:
        name: Data set, as for `open_data`.
        asked: Part, columns and places.
        seed: Seed of built-in images.
        kept: What the run saved; None: no run.

    Raises:
        DataError: There is no such part, or as `open_data`.
    """
    names = HELD_OUT if asked.split is None else split_names(asked.split)
    choice = Choice(names, asked.image_column, asked.label_column, for_evaluation=True)
    data = open_data(name, seed=seed, download=asked.download, data_dir=asked.data_dir, choice=choice)
    on_train = data.parts.held_out == WHOLE or split_of(data.parts.held_out) == "train"
    if not on_train or kept is None or kept.val_fraction is None:
        return data
    divided = hold_out(data, kept.val_fraction)
    if kept.fingerprint != fingerprint(divided.val, divided.classes):
        return data
    note = f"{data.name} is the run's own data: images that it trained on are left out"
    if names == TRAIN:
        return _on_train(divided)
    return replace(divided, notes=(*divided.notes, note))


def _on_train(data: ImageData) -> ImageData:
    """Return a data set with its training images as the held-out ones."""
    return replace(data, val=data.train, parts=replace(data.parts, held_out="train"))
