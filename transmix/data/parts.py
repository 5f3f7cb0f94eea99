"""The parts of a data set by their names on disk: which one is held out, and which ones stand beside it unused."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transmix.data.dataset import DataError, Parts, listing

TRAIN = ("train", "training")
"""What the part to train on may be called, in letters of any case."""

HELD_OUT = ("val", "valid", "validation", "validate", "dev", "eval", "evaluation", "test", "testing", "t10k")
"""What the held-out part may be called, in letters of any case; the first that is present is used."""

HELD_OUT_BEFORE = ("val", "validation", "test")
"""The same in runs that did not keep which part they held out."""

_TEST = {"test", "testing", "t10k"}
_LIKE_VALIDATION = {*HELD_OUT, "minival", "holdout"} - _TEST


@dataclass(frozen=True)
class Choice:
    """What to take of a data set, where its files leave a choice.

    Attributes:
        held_out: Names of the part to hold out; the first that is present is used.
        image_column: Of Parquet files; None: found by its name.
        label_column: Of Parquet files; None: found by its name.
        val_fraction: Hold out this fraction of each class of the training images, and no other part; None: do not.
    """

    held_out: tuple[str, ...] = HELD_OUT
    image_column: str | None = None
    label_column: str | None = None
    val_fraction: float | None = None


USUAL = Choice()
"""What is taken where nothing else is asked for."""


def choose_part(present: Iterable[str], wanted: Sequence[str], where: object) -> str | None:
    """Return the first wanted name that is present, in the letter case on disk.

    Raises:
        DataError: Two that are present differ in case alone.
    """
    present = list(present)
    for name in wanted:
        found = sorted(one for one in present if one.lower() == name.lower())
        if len(found) > 1:
            raise DataError(f"{where}: {' and '.join(found)} differ in the case of letters alone; move one away")
        if found:
            return found[0]
    return None


def choose_parts(present: Iterable[str], choice: Choice, where: object, form: str) -> tuple[str, Parts]:
    """Return the names on disk of the training part and of the held-out part.

    Where a fraction of the training images is held out instead, both are the training part.

    Args:
        present: Names of parts that are there.
        choice: Which part to hold out.
        where: they are, for messages.
        form: What a part is on disk, a word and a name with `{}` for the part's: 'files {}-*.parquet'.

    Raises:
        DataError: One of the two is missing.
    """
    present, (what, _, name) = list(present), form.partition(" ")
    if (train := choose_part(present, TRAIN, where)) is None:
        raise DataError(f"{where}: no {what} {name.format('train')}, the images to train on")
    held_out = train if choice.val_fraction is not None else choose_part(present, choice.held_out, where)
    if held_out is None:
        named = " or ".join(map(name.format, choice.held_out))
        remedy = "to hold out a tenth of each class of train: --val-fraction 0.1"
        raise DataError(f"{where}: no {what} {named}, the images to validate on; {remedy}")
    unused = sorted(name for name in present if name != held_out and _words(name) & _LIKE_VALIDATION)
    return train, Parts(held_out, tuple(unused))


def unused_note(parts: Parts) -> tuple[bool, str] | None:
    """Say which parts could be held out too; None where there are none.

    Returns:
        Whether the test part chooses the best weights though another could, and the sentence.
    """
    if not parts.unused:
        return None
    held_out, unused = parts.held_out, listing(parts.unused)
    if not _words(held_out) & _TEST:
        return False, f"{held_out} is held out, {unused} not used; the other way: --held-out {parts.unused[0]}"
    return True, (
        f"the best weights are chosen on {held_out}, though {unused} could do it; scores on {held_out} come out too "
        f"good: --held-out {parts.unused[0]}"
    )


def _words(name: str) -> set[str]:
    """Split a name: 'val2017' holds 'val', 'Images_Test' holds 'test'; a training part's holds nothing."""
    words = set(filter(None, re.split(r"[^a-z]+", name.lower()))) | ({"t10k"} & {name.lower()})
    return set() if words & set(TRAIN) else words
