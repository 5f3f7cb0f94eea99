"""Class folders on disk: the files that training reads, and the files that it skips."""

import os
from functools import partial
from pathlib import Path

import numpy as np

from transmix.data.class_names import class_name, is_utf8, positions
from transmix.data.dataset import DataError, Split, listing
from transmix.data.encoded import image_files
from transmix.data.folder import entries_of, in_no_class, is_class_folder, is_folder, part_folders, walk
from transmix.data.formats import PICTURES, looks_like_an_image
from transmix.data.parts import HELD_OUT, TRAIN, choose_part
from transmix.doctor.report import Finding

LOOP = "a link to a folder that holds it, which is not followed"


def list_class_folders(root: Path) -> tuple[dict[str, Split], tuple[str, ...], list[Finding]]:
    """List a data set of class folders, even if incomplete.

    Returns:
        The splits, "train" and the held-out part under its folder's name, with labels (N,) as indices into the classes;
        the classes of all splits together; and the findings about folders and file names.
    """
    findings: list[Finding] = []
    present = part_folders(root)
    try:
        names = [name for wanted in (TRAIN, HELD_OUT) if (name := choose_part(present, wanted, root)) is not None]
    except DataError:
        return {}, (), []
    beside = entries_of(root, partial(_unlisted, root, findings))
    findings += [_passed_over(entry, root) for entry in beside if entry.name not in names]
    listed = {name: _list_split(root, name, findings) for name in names}
    for split, files in listed.items():
        findings += _odd_classes(split, list(files))
    train, *held_out = names
    findings += [Finding("empty-class", (f"{train}/{name}",)) for name, paths in listed[train].items() if not paths]
    for split in held_out:
        if extra := sorted(set(map(class_name, listed[split])) - set(map(class_name, listed[train]))):
            findings.append(Finding("class-difference", (split,), f"not in {train}: {listing(extra)}"))
    classes = tuple(sorted({class_name(name) for files in listed.values() for name in files}))
    splits = {name: _split(root / name, files, classes) for name, files in listed.items()}
    return {"train" if name == train else name: split for name, split in splits.items()}, classes, findings


def _odd_classes(split: str, names: list[str]) -> list[Finding]:
    """Find class folders whose names training rejects."""
    findings, known = [], {}
    for name in names:
        place = f"{split}/{name}"
        if not is_utf8(name):
            findings.append(Finding("bad-name", (place,), "not UTF-8"))
        elif (same := known.setdefault(class_name(name), place)) != place:
            findings.append(Finding("bad-name", (ascii(same), ascii(place)), "the same class name, written otherwise"))
    return findings


def _list_split(root: Path, split: str, findings: list[Finding]) -> dict[str, list[str]]:
    """List the images of each class, as paths relative to the split's folder."""
    files: dict[str, list[str]] = {}
    for entry in entries_of(root / split, partial(_unlisted, root, findings)):
        if is_class_folder(entry):
            files[entry.name] = sorted(_list_class(root, root / split, entry.name, findings))
        elif is_folder(entry) and not entry.name.startswith("."):
            findings.append(_passed_over(entry, root, LOOP))
        else:
            findings.append(_passed_over(entry, root, "in no class folder" if in_no_class(entry) else ""))
    return files


def _list_class(root: Path, folder: Path, name: str, findings: list[Finding]) -> list[str]:
    images = []
    for entry, kind in walk(folder / name, partial(_unlisted, root, findings)):
        if not is_utf8(entry.name):
            findings.append(Finding("odd-name", (os.path.relpath(entry.path, root),), "not UTF-8"))
        if kind == "image":
            images.append(os.path.relpath(entry.path, folder))
        elif kind == "other" and looks_like_an_image(Path(entry.path)):
            findings.append(_passed_over(entry, root, _why_not_read(entry.name)))
        else:
            findings.append(_passed_over(entry, root, LOOP if kind == "loop" else ""))
    return images


def _why_not_read(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()
    if suffix in (".heic", ".heif"):
        return f"{suffix} is read where pillow-heif is installed; install it, or convert the file"
    return f"{suffix} is not read; convert it" if suffix in PICTURES else "its name does not end as an image's does"


def _unlisted(root: Path, findings: list[Finding], folder: Path, error: OSError) -> None:
    """Add a finding for a folder that cannot be listed."""
    findings.append(Finding("left-out", (os.path.relpath(folder, root),), f"cannot be listed: {error.strerror}"))


def _passed_over(entry: os.DirEntry, root: Path, why: str = "") -> Finding:
    """Return the finding for a skipped entry: an image with the reason `why`, or (without a reason) not an image."""
    place = os.path.relpath(entry.path, root)
    if why:
        return Finding("left-out", (place,), why)
    if entry.name.startswith("."):
        return Finding("hidden", (place,))
    return Finding("other-file", (place,), "a folder" if is_folder(entry) else "")


def _split(folder: Path, files: dict[str, list[str]], classes: tuple[str, ...]) -> Split:
    counts = np.array([len(paths) for paths in files.values()], dtype=int)  # of no class too
    images = image_files(folder, (path for paths in files.values() for path in paths))
    return Split(images, np.repeat(positions(files, classes), counts))
