"""Class folders as they lie on disk: what training would read, and everything that it would pass over."""

import os
from pathlib import Path

import numpy as np

from transmix.data.dataset import VALIDATION_NAMES, Split, class_difference
from transmix.data.folder import SUFFIXES, FolderImages
from transmix.doctor.look import starts_like_an_image
from transmix.doctor.report import Finding


def list_class_folders(root: Path) -> tuple[dict[str, Split], tuple[str, ...], list[Finding]]:
    """List a data set of class folders, whole or not.

    Returns:
        The splits by the name of their folder, with labels (N,) that are positions in the classes; the classes, those
        of all splits together; and what is wrong with folders and files' names.
    """
    names = ["train", *[name for name in VALIDATION_NAMES if (root / name).is_dir()][:1]]
    findings: list[Finding] = []
    findings += [_passed_over(entry, root) for entry in _entries(root, root, findings) if entry.name not in names]
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
    for entry in _entries(root / split, root, findings):
        if _is_folder(entry) and not entry.name.startswith("."):
            files[entry.name] = sorted(_list_class(root, root / split, entry.name, findings))
        else:
            findings.append(_passed_over(entry, root))
    return files


def _list_class(root: Path, folder: Path, name: str, findings: list[Finding]) -> list[str]:
    images, waiting = [], [folder / name]
    while waiting:
        for entry in _entries(waiting.pop(), root, findings):
            if entry.name.startswith(".") or (_is_folder(entry) and entry.is_symlink()):
                findings.append(_passed_over(entry, root))
            elif _is_folder(entry):
                waiting.append(Path(entry.path))
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                images.append(os.path.relpath(entry.path, folder))
            else:
                findings.append(_passed_over(entry, root))
    return images


def _entries(folder: Path, root: Path, findings: list[Finding]) -> list[os.DirEntry]:
    """List a folder, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        findings.append(Finding("left-out", (os.path.relpath(folder, root),), f"cannot be listed: {error.strerror}"))
        return []


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _passed_over(entry: os.DirEntry, root: Path) -> Finding:
    """Say what an entry is that training does not read."""
    place = os.path.relpath(entry.path, root)
    depth = place.count(os.sep)  # 0 beside the splits, 1 beside the classes, else in a class
    if entry.name.startswith("."):
        return Finding("hidden", (place,))
    if _is_folder(entry):
        if depth >= 2:
            return Finding("left-out", (place,), "a link to a folder, which is not followed")
        return Finding("other-file", (place,), "a folder")
    if depth >= 1 and starts_like_an_image(Path(entry.path)):
        reason = "its name does not end as an image's does" if depth >= 2 else "in no class folder"
        return Finding("left-out", (place,), reason)
    return Finding("other-file", (place,))


def _split(folder: Path, files: dict[str, list[str]], classes: tuple[str, ...]) -> Split:
    labels = [classes.index(name) for name, paths in files.items() for _ in paths]
    paths = np.array([os.fsencode(path) for paths in files.values() for path in paths], dtype="S")
    return Split(FolderImages(folder, paths), np.array(labels, dtype=np.int64))
