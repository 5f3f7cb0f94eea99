"""One grey scale for a data set: found over its training images or given, and the same for all images."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import numpy as np

from transmix.data.dataset import DataError, ImageData, Split
from transmix.data.decode import read_deep_values
from transmix.data.encoded import EncodedImages
from transmix.data.grey import EACH_IMAGE, GIVE_RANGE, DeepValues, Grey, GreyRange, as_range

FIND: Literal["find"] = "find"
"""Find the range over the training images."""

FEWEST_LEVELS = 8
"""Of the 256 grey levels; a range that leaves the usual values fewer is refused."""

FEWEST_COLOUR_LEVELS = 32
"""Likewise of colour, whose upper 8 bits are taken: values of 13 bits and less."""

SAMPLED = 100
"""So many training images are looked at where the range is given."""

PIECE = 1024
"""So many images wait to be looked at."""


def scale_grey(data: ImageData, grey: Grey | Literal["find"]) -> ImageData:
    """Set one scale for all greyscale images of more than 8 bits in a data set, and add it to the notes.

    Args:
        data: its images not decoded yet; a data set of arrays is returned unchanged.
        grey: (low, high); "find": minimum and maximum over the training images; "each image": scale each image by
            itself, as old runs did; None: no range, and greyscale of more than 8 bits is an error.

    Raises:
        DataError: a range with too few grey levels, or no range for images that need one.
    """
    notes: list[str] = []
    if grey == FIND:
        train = deep_values_of(data.train).values()
        grey, count = range_of(train, data.name), sum(not one.colour for one in train)
        if grey is not None:
            deep = f"{count} training images of more than 8 bits"
            notes.append(f"grey range {as_range(grey)}, found over {deep} (--grey-range sets it)")
        if grey is not None and (others := len(data.train) - count):
            remedy = "make sure that they mean the same by black and white"
            notes.append(f"the other {others} training images are not rescaled: {remedy}")
    elif grey is not None and grey != EACH_IMAGE:
        check_levels(deep_values_of(data.train, SAMPLED, colour=False).values(), grey, data.name)
    notes += leaving_notes(data.val, grey, data.name)
    splits = {"train": with_grey(data.train, grey), "val": with_grey(data.val, grey)}
    return replace(data, **splits, notes=(*data.notes, *notes), grey=grey)


def with_grey(split: Split, grey: Grey) -> Split:
    """Return a split that scales greyscale of more than 8 bits by the given range; a split of arrays unchanged."""
    images = split.images
    return replace(split, images=replace(images, grey=grey)) if isinstance(images, EncodedImages) else split


def leaving_notes(split: Split, grey: Grey, name: str) -> list[str]:
    """Return a note on how many evaluation images have values outside the range.

    Raises:
        DataError: there is greyscale of more than 8 bits, but no range.
    """
    if grey == EACH_IMAGE:
        return []
    found = deep_values_of(split, colour=False)
    if grey is None and found:
        grey_ones = f"{len(found)} of {len(split)} images to evaluate on are grey of more than 8 bits"
        why = f"the first is {split.where(min(found))}, and their value range is unknown"
        raise DataError(f"{name}: {grey_ones}, {why}; {GIVE_RANGE}")
    if grey is None or not (leaving := [one for one in found.values() if leaves(one, grey)]):
        return []
    values = as_range((min(one.low for one in leaving), max(one.high for one in leaving)))
    few = f"{len(leaving)} of {len(split)} images to evaluate on"
    return [f"{few} leave the grey range {as_range(grey)}: their values {values} are clipped to it"]


def leaves(values: DeepValues, grey: GreyRange) -> bool:
    """Tell whether an image has values beyond a range."""
    return not (grey[0] <= values.low and values.high <= grey[1])


def deep_values_of(split: Split, at_most: int | None = None, colour: bool = True) -> dict[int, DeepValues]:
    """Summarise the images of more than 8 bits per channel: index -> values. Unreadable images are skipped.

    Args:
        split: encoded images; decoded ones give an empty result.
        at_most: maximum number of images, evenly spaced; None: all.
        colour: include colour images, until they have enough different values.
    """
    images = split.images
    if not isinstance(images, EncodedImages):
        return {}
    positions = images.may_be_deep()
    if at_most is not None and len(positions) > at_most:
        positions = positions[np.linspace(0, len(positions) - 1, at_most).astype(int)]
    bright = not colour

    def look(position: int) -> DeepValues | None:
        try:
            return read_deep_values(images.source(position), "", not bright)
        except DataError:  # found again, and named, when it is decoded
            return None

    found: dict[int, DeepValues] = {}
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for start in range(0, len(positions), PIECE):
            piece = positions[start : start + PIECE].tolist()
            for position, one in zip(piece, pool.map(look, piece), strict=True):
                if one is not None:
                    found[position] = one
                    bright = bright or (one.colour and one.high >= FEWEST_COLOUR_LEVELS)
    return found


def range_of(found: Iterable[DeepValues], name: str) -> GreyRange | None:
    """Return the range of the greyscale images among training images; None if there is none.

    Raises:
        DataError: too few grey levels would be left, in greyscale or in the upper 8 bits of colour.
    """
    found = list(found)
    colour = [one for one in found if one.colour]
    if colour and max(one.high for one in colour) < FEWEST_COLOUR_LEVELS:
        raise DataError(
            f"{name}: the {len(colour)} training images of 16 bits a channel in colour have no value above "
            f"{256 * FEWEST_COLOUR_LEVELS - 1}; of such images the upper 8 bits are read, which would leave fewer than "
            f"{FEWEST_COLOUR_LEVELS} levels; write them with 8 bits a channel"
        )
    if not (greys := [one for one in found if not one.colour]):
        return None
    grey = min(one.low for one in greys), max(one.high for one in greys)
    if grey[0] == grey[1]:
        what = f"every pixel of the {len(greys)} grey training images of more than 8 bits is {grey[0]:.6g}"
        raise DataError(f"{name}: {what}, which says nothing of their range; {GIVE_RANGE}")
    check_levels(greys, grey, name)
    return grey


def check_levels(found: Iterable[DeepValues], grey: GreyRange, name: str) -> None:
    """Raise an error if a range maps the usual values of greyscale images to almost one grey level.

    Raises:
        DataError: the message gives the usual values.
    """
    if not (greys := [one.usual for one in found if not one.colour]):
        return
    usual = min(low for low, _ in greys), max(high for _, high in greys)
    inside = np.clip(usual, *grey)
    if (inside[1] - inside[0]) * 256 < FEWEST_LEVELS * (grey[1] - grey[0]):
        raise DataError(
            f"{name}: 98 % of the values of each grey training image of more than 8 bits lie in {as_range(usual)}, to "
            f"which the grey range {as_range(grey)} leaves fewer than {FEWEST_LEVELS} of 256 levels; give the values "
            f"for black and white, for example --grey-range {usual[0]:.6g} {usual[1]:.6g}"
        )
