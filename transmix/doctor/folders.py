"""Class folders as they lie on disk: what training would read, and everything that it would pass over."""

import os
from pathlib import Path

import numpy as np

from transmix.data.dataset import VALIDATION_NAMES, Split, class_difference
from transmix.data.folder import FolderImages, in_no_class, is_class_folder
from transmix.data.formats import PICTURES, looks_like_an_image
from transmix.data.walk import Refuse, entries_of, is_folder, walk
from transmix.doctor.report import Finding

LOOP = "a link to a folder that holds it, which is not followed"


def list_class_folders(root: Path) -> tuple[dict[str, Split], tuple[str, ...], list[Finding]]:
    """List a data set of class folders, whole or not.

    Returns:
        The splits by the name of their folder, with labels (N,) that are positions in the classes; the classes, those
        of all splits together; and what is wrong with folders and files' names.
    """
    names = ["train", *[name for name in VALIDATION_NAMES if (root / name).is_dir()][:1]]
    findings: list[Finding] = []
    beside = entries_of(root, _unlisted(root, findings))
    findings += [_passed_over(entry, root) for entry in beside if entry.name not in names]
    listed = {name: _list_split(root, name, findings) for name in names}
    classes = tuple(sorted({name for files in listed.values() for name in files}))
    for split, files in listed.items():
        findings += [Finding("empty-class", (f"{split}/{name}",)) for name, paths in files.items() if not paths]
    if len(names) == 2 and (difference := class_difference(*map(list, listed.values()))):
        findings.append(Finding("class-difference", (names[1],), f"compared with train: {difference}"))
    return {name: _split(root / name, files, classes) for name, files in listed.items()}, classes, findings


def _list_split(root: Path, split: str, findings: list[Finding]) -> dict[str, list[str]]:
    """List the images of each class, as paths relative to the split's folder."""
    files: dict[str, list[str]] = {}
    for entry in entries_of(root / split, _unlisted(root, findings)):
        if is_class_folder(entry):
            files[entry.name] = sorted(_list_class(root, root / split, entry.name, findings))
        elif is_folder(entry) and not entry.name.startswith("."):
            findings.append(Finding("left-out", (os.path.relpath(entry.path, root),), LOOP))
        elif in_no_class(entry):
            findings.append(Finding("left-out", (os.path.relpath(entry.path, root),), "in no class folder"))
        else:
            findings.append(_passed_over(entry, root))
    return files


def _list_class(root: Path, folder: Path, name: str, findings: list[Finding]) -> list[str]:
    images = []
    for entry, kind in walk(folder / name, _unlisted(root, findings)):
        place = os.path.relpath(entry.path, root)
        if kind == "image":
            images.append(os.path.relpath(entry.path, folder))
        elif kind == "loop":
            findings.append(Finding("left-out", (place,), LOOP))
        elif kind == "other" and looks_like_an_image(Path(entry.path)):
            findings.append(Finding("left-out", (place,), _why_not_read(entry.name)))
        else:
            findings.append(_passed_over(entry, root))
    return images


def _why_not_read(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()
    if suffix in (".heic", ".heif"):
        return f"{suffix} is read where pillow-heif is installed; install it, or convert the file"
    return f"{suffix} is not read; convert it" if suffix in PICTURES else "its name does not end as an image's does"


def _unlisted(root: Path, findings: list[Finding]) -> Refuse:
    """Return what takes note of a folder that cannot be listed."""

    def add(folder: Path, error: OSError) -> None:
        findings.append(Finding("left-out", (os.path.relpath(folder, root),), f"cannot be listed: {error.strerror}"))

    return add


def _passed_over(entry: os.DirEntry, root: Path) -> Finding:
    """Say what an entry is that is neither an image nor looks like one, or is beside the splits."""
    place = os.path.relpath(entry.path, root)
    if entry.name.startswith("."):
        return Finding("hidden", (place,))
    return Finding("other-file", (place,), "a folder" if is_folder(entry) else "")


def _split(folder: Path, files: dict[str, list[str]], classes: tuple[str, ...]) -> Split:
    labels = [classes.index(name) for name, paths in files.items() for _ in paths]
    paths = np.array([os.fsencode(path) for paths in files.values() for path in paths], dtype="S")
    return Split(FolderImages(folder, paths), np.array(labels, dtype=np.int64))
