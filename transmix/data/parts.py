"""The parts of a data set by their names on disk: the training part, the held-out part, and unused parts."""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transmix.data.dataset import DataError, Parts, listing
from transmix.printable import printable

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "t10k"),
}
"""Split -> what its folder, list or files may be called, in letters of any case; the first that is present is used."""

TRAIN = SPLITS["train"]

HELD_OUT = SPLITS["val"] + SPLITS["test"]
"""What the held-out part may be called; the first that is present is used."""

HELD_OUT_BEFORE = ("val", "validation", "test")
"""The same in runs that did not keep which part they held out."""

WHOLE = "all"
"""The name of the only part of a data set that has no parts."""

_KIND = {word: kind for kind, words in SPLITS.items() for word in words}
_LIKE_VALIDATION = {*SPLITS["val"], "minival", "holdout"}


class NoHeldOutError(DataError):
    """A data set without a part to validate on."""


@dataclass(frozen=True)
class Choice:
    """Which parts and columns of a data set to use.

    Attributes:
        held_out: Candidate names of the held-out part; the first existing one is used.
        image_column: Image column of Parquet files and label lists; None: found by its name.
        label_column: Label column of Parquet files and label lists; None: found by its name.
        val_fraction: Hold out this fraction of each class of the training images instead of a separate part; None: do
            not.
        fingerprint: What `subset.fingerprint` gave for the images held out by `val_fraction` when the run began; None:
            do not compare.
        for_evaluation: Only the held-out part is used. The training part may be missing, and may lack classes.
        in_order: Images are read once, one after the other: those of Parquet files are not kept in memory.
    """

    held_out: tuple[str, ...] = HELD_OUT
    image_column: str | None = None
    label_column: str | None = None
    val_fraction: float | None = None
    fingerprint: str | None = None
    for_evaluation: bool = False
    in_order: bool = False


USUAL = Choice()
"""What is taken where nothing else is asked for."""


def split_names(name: str) -> tuple[str, ...]:
    """Return the names on disk for a split that a user asks for: 'val' means 'valid' and 'validation' too."""
    return SPLITS[_KIND[name.lower()]] if name.lower() in _KIND else (name,)


def affixed(name: str) -> tuple[str, str]:
    """Split a name on disk into the word for a split and the rest: 'seg_Train' -> ('train', 'seg_{}').

    The word is '' if there is none, or more than one.
    """
    pieces = re.findall(r"t10k|[a-z]+|[^a-z]+", name.lower())
    at = [index for index, piece in enumerate(pieces) if piece in _KIND]
    if len(at) != 1:
        return "", name.lower()
    return pieces[at[0]], "".join("{}" if index == at[0] else piece for index, piece in enumerate(pieces))


def split_of(name: str) -> str:
    """Return the split that a name on disk stands for: 'train', 'val' or 'test'; '' for none."""
    return _KIND.get(affixed(name)[0], "")


def choose_part(present: Iterable[str], wanted: Sequence[str], where: object, rest: str = "{}") -> str | None:
    """Return the first wanted name that exists, in the letter case on disk.

    Args:
        present: Names of existing parts.
        wanted: Names, the preferred first.
        where: Their location, for messages.
        rest: What stands around the name, as `affixed` gives it: with 'seg_{}' the name 'train' is 'seg_train'.

    Raises:
        DataError: Two existing names differ only in letter case.
    """
    present = list(present)
    for name in wanted:
        found = sorted(one for one in present if one.lower() == rest.format(name.lower()))
        if len(found) > 1:
            raise DataError(f"{where}: {' and '.join(found)} differ in the case of letters alone; move one away")
        if found:
            return found[0]
    return None


def training_part(present: Iterable[str], where: object) -> tuple[str | None, str]:
    """Return the name on disk of the training part, and what stands around the word: ('seg_train', 'seg_{}').

    Raises:
        DataError: There is no 'train', but several names hold that word.
    """
    present = list(present)
    if (train := choose_part(present, TRAIN, where)) is not None:
        return train, "{}"
    found = {name: rest for name in present for word, rest in [affixed(name)] if word in TRAIN}
    if len(found) > 1:
        raise DataError(f"{where}: which of {listing(sorted(found))} are the images to train on? Call it train")
    return next(iter(found.items()), (WHOLE if WHOLE in present else None, "{}"))


def choose_parts(present: Iterable[str], choice: Choice, where: object, form: str) -> tuple[str, Parts]:
    """Return the names on disk of the training part and of the held-out part.

    If a fraction of the training images is held out, or to evaluate on them, both are the training part. Names around
    which the same stands belong together: seg_train and seg_test, train2017 and val2017.

    Args:
        present: Names of existing parts.
        choice: Which part to hold out.
        where: Their location, for messages.
        form: Description of a part on disk, with `{}` for its name: 'files {}-*.parquet'.

    Raises:
        DataError: One of the two is missing.
    """
    present, (what, _, name) = list(present), form.partition(" ")
    train, rest = training_part(present, where)
    if choice.val_fraction is not None:
        held_out = train
    else:
        held_out = choose_part(present, choice.held_out, where) or choose_part(present, choice.held_out, where, rest)
        if held_out is None and choice.for_evaluation and choice.held_out in (HELD_OUT, TRAIN) and train == WHOLE:
            held_out = WHOLE
        if choice.for_evaluation and train is None:
            train = held_out
    if train is None and (held_out is not None or not choice.for_evaluation):
        there = (
            f"; to evaluate on {held_out}: transmix evaluate RUN --data {shlex.quote(str(where))}" if held_out else ""
        )
        raise DataError(f"{where}: no {what} {name.format('train')}, the images to train on{there}")
    if held_out is None:
        raise NoHeldOutError(_no_held_out(present, choice, where, f"{what} {name}"))
    assert train is not None
    unused = sorted(one for one in present if one != held_out and _words(one) & _LIKE_VALIDATION)
    others = sorted(one for one in present if one not in (train, held_out) and split_of(one) in ("val", "test"))
    return train, Parts(held_out, tuple(unused), tuple(others))


def _no_held_out(present: list[str], choice: Choice, where: object, form: str) -> str:
    """Return the message for a missing part to validate on: what is missing, and the nearest command that works."""
    what, _, name = form.partition(" ")
    named = " or ".join(map(name.format, choice.held_out))
    if choice.for_evaluation:
        there = listing(map(printable, present)) or "nothing"
        return f"{where}: no {what} {named}; there is {there}: --split NAME takes another"
    if present == [WHOLE]:
        return f"{where}: not divided into train and val; {remedy(where)}"
    return f"{where}: no {what} {named}, the images to validate on; {remedy(where)}"


def remedy(where: object) -> str:
    """Return the command that holds out a fraction of the training images of a data set."""
    command = f"transmix train --data {shlex.quote(str(where))} --val-fraction 0.2 --out RUN"
    return f"to hold out a fifth of each class: {command}"


def unused_note(parts: Parts) -> tuple[bool, str] | None:
    """Return a note on other parts that could be held out; None if there are none.

    Returns:
        Whether the test part selects the best weights although another part could; and the note.
    """
    if not parts.unused:
        return None
    held_out, unused = parts.held_out, listing(parts.unused)
    if split_of(held_out) != "test":
        return False, f"{held_out} is held out, {unused} not used; the other way: --held-out {parts.unused[0]}"
    return True, (
        f"the best weights are chosen on {held_out}, though {unused} could do it; scores on {held_out} come out too "
        f"good: --held-out {parts.unused[0]}"
    )


def _words(name: str) -> set[str]:
    """Split a name into words: 'val2017' gives 'val', 'Images_Test' gives 'test'; a training part gives none."""
    words = set(filter(None, re.split(r"[^a-z]+", name.lower())))
    return set() if words & set(TRAIN) else words
