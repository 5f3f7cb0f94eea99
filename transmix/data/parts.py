"""The parts of a data set by their names on disk: the held-out part, and unused parts."""

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
    """Which parts and columns of a data set to use.

    Attributes:
        held_out: Candidate names of the held-out part; the first existing one is used.
        image_column: Image column of Parquet files; None: found by its name.
        label_column: Label column of Parquet files; None: found by its name.
        val_fraction: Hold out this fraction of each class of the training images instead of a separate part; None: do
            not.
    """

    held_out: tuple[str, ...] = HELD_OUT
    image_column: str | None = None
    label_column: str | None = None
    val_fraction: float | None = None


USUAL = Choice()
"""What is taken where nothing else is asked for."""


def choose_part(present: Iterable[str], wanted: Sequence[str], where: object) -> str | None:
    """Return the first wanted name that exists, in the letter case on disk.

    Raises:
        DataError: Two existing names differ only in letter case.
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

    If a fraction of the training images is held out, both are the training part.

    Args:
        present: Names of existing parts.
        choice: Which part to hold out.
        where: Their location, for messages.
        form: Description of a part on disk, with `{}` for its name: 'files {}-*.parquet'.

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
    """Return a note on other parts that could be held out; None if there are none.

    Returns:
        Whether the test part selects the best weights although another part could; and the note.
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
    """Split a name into words: 'val2017' gives 'val', 'Images_Test' gives 'test'; a training part gives none."""
    words = set(filter(None, re.split(r"[^a-z]+", name.lower()))) | ({"t10k"} & {name.lower()})
    return set() if words & set(TRAIN) else words
