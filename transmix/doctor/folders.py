"""Class folders on disk: the files that training reads, and the files that it skips."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from transmix.data.class_names import class_name, is_utf8, positions
from transmix.data.dataset import DataError, Split, listing
from transmix.data.encoded import image_files
from transmix.data.folder import FolderPart, FolderParts, find_parts, in_no_class, layout_of
from transmix.data.formats import PICTURES, looks_like_an_image
from transmix.data.parts import Choice, choose_part, training_part
from transmix.data.tree import entries_of, is_folder, is_hidden, subfolders, walk
from transmix.doctor.report import Finding

LOOP = "a link to a folder that holds it, which is not followed"


def list_folders(
    root: Path, choice: Choice, given: Path | None = None
) -> tuple[dict[str, Split], tuple[str, ...], list[Finding], str]:
    """List a data set of image files, even if incomplete.

    Args:
        root: its folder.
        choice: which part to hold out, and the columns of label lists.
        given: a label list that the user named.

    Returns:
        The splits, "train" and the held-out part under its folder's name, with labels (N,) as indices into the classes;
        the classes of all splits together; the findings about folders and file names; and the layout.
    """
    findings: list[Finding] = []
    try:
        found = find_parts(root, choice, given)
        train, rest = training_part(found.parts, root)
        wanted = () if choice.val_fraction is not None else choice.held_out
        held_out = choose_part(found.parts, wanted, root) or choose_part(found.parts, wanted, root, rest)
    except DataError:
        return {}, (), [], ""
    parts = {name: found.parts[name] for name in (train, held_out) if name is not None}
    findings += _beside(root, found, parts)
    listed = {name: _list_part(root, part, findings) for name, part in parts.items()}
    for name, files in listed.items():
        if parts[name].listed is None:
            findings += _odd_classes(_place(root, parts[name]), list(files))
    for name, paths in listed.get(train or "", {}).items():
        if not paths:
            findings.append(Finding("empty-class", (os.path.join(_place(root, parts[train or ""]), name),)))
    known = set(map(class_name, listed.get(train or "", {})))
    if extra := sorted(set(map(class_name, listed.get(held_out or "", {}))) - known):
        findings.append(Finding("class-difference", (held_out or "",), f"not in {train}: {listing(extra)}"))
    classes = tuple(sorted({class_name(name) for files in listed.values() for name in files}))
    splits = {name: _split(parts[name].folder, files, classes) for name, files in listed.items()}
    splits = {"train" if name == train else name: split for name, split in splits.items()}
    return splits, classes, findings, layout_of(root, parts) if parts else ""


def _place(root: Path, part: FolderPart) -> str:
    """Return the path of a part's class folders below the data set's folder; '' for that folder itself."""
    inside = os.path.relpath(part.folder, root)
    return "" if inside == "." else inside


def _beside(root: Path, found: FolderParts, parts: dict[str, FolderPart]) -> Iterator[Finding]:
    """Yield findings about what lies beside the parts, and about label lists."""
    unlisted: list[Finding] = []
    lists = {part.listed.source.path for part in parts.values() if part.listed is not None}
    if lists or all(part.folder != root for part in parts.values()):
        for entry in entries_of(root, partial(_unlisted, root, unlisted)):
            if entry.name not in parts and Path(entry.path) not in lists and not (lists and is_folder(entry)):
                yield _passed_over(entry, root)
    yield from unlisted
    for part in parts.values():
        for note in () if part.listed is None else part.listed.notes:
            yield Finding("list", (os.path.relpath(part.listed.source.path, root),), note)  # type: ignore[union-attr]
    for path in found.unlisted if lists else ():
        yield Finding("unlisted", (path,))


def _list_part(root: Path, part: FolderPart, findings: list[Finding]) -> dict[str, list[str]]:
    """List the images of each class of a part, as paths relative to its folder."""
    if part.listed is None:
        return _list_split(root, part.folder, findings)
    files: dict[str, list[str]] = {}
    for path, label in zip(part.listed.paths, part.listed.labels, strict=True):
        files.setdefault(label, []).append(path)
    return files


def _odd_classes(split: str, names: list[str]) -> list[Finding]:
    """Find class folders whose names training rejects."""
    findings, known = [], {}
    for name in names:
        place = os.path.join(split, name)
        if not is_utf8(name):
            findings.append(Finding("bad-name", (place,), "not UTF-8"))
        elif (same := known.setdefault(class_name(name), place)) != place:
            findings.append(Finding("bad-name", (ascii(same), ascii(place)), "the same class name, written otherwise"))
    return findings


def _list_split(root: Path, folder: Path, findings: list[Finding]) -> dict[str, list[str]]:
    """List the images of each class folder, as paths relative to the split's folder."""
    files: dict[str, list[str]] = {}
    classes = set(subfolders(folder))
    for entry in entries_of(folder, partial(_unlisted, root, findings)):
        if entry.name in classes:
            files[entry.name] = sorted(_list_class(root, folder, entry.name, findings))
        elif is_folder(entry) and not is_hidden(entry.name):
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
    if is_hidden(entry.name):
        return Finding("hidden", (place,))
    return Finding("other-file", (place,), "a folder" if is_folder(entry) else "")


def _split(folder: Path, files: dict[str, list[str]], classes: tuple[str, ...]) -> Split:
    counts = np.array([len(paths) for paths in files.values()], dtype=int)  # of no class too
    images = image_files(folder, (path for paths in files.values() for path in paths))
    return Split(images, np.repeat(positions(files, classes), counts))
